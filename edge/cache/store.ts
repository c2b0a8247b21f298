/**
 * Keeps a complete answer for the time the operator chose: as the reply just given in the isolate, and sealed for the
 * region, where it goes with what settles the request: one round trip for both. Knows no limits.
 */
import { renderAnswer, type Answer } from "../answer/answer.ts";
import type { Call } from "../call/call.ts";
import type { IsolateMemory } from "./memory.ts";
import { sealEntry, type EntryPlace } from "./look-up.ts";
import type { Keeping } from "../regional/regional-store.ts";
import type { Sealer } from "./seal.ts";
import type { ReplyForm } from "../question/reply-form.ts";

export interface StoreParts {
  readonly sealer: Sealer;
  readonly isolate: IsolateMemory;
  readonly cacheTtlSeconds: number;
  readonly cacheStaleSeconds: number;
  readonly cacheErrorSeconds: number;
}

interface Kept {
  readonly place: EntryPlace;
  readonly form: ReplyForm;
  /** The tenant's purge it was admitted under. */
  readonly generation: string;
}

/** Stores the answer in the isolate. @returns what the region is to keep */
export async function storeAnswer(
  call: Call,
  { sealer, isolate, cacheTtlSeconds, ...after }: StoreParts,
  { place, form, generation }: Kept,
  answer: Answer,
): Promise<Keeping> {
  const storedAt = Math.floor(call.platform.now() / 1000);
  const expiresMs = (storedAt + cacheTtlSeconds) * 1000;
  isolate.keepReply(place.digest, form, { body: renderAnswer(answer, form), storedAt, expiresMs, generation });
  const entry = await sealEntry(sealer, place, answer, storedAt);
  const ttlSeconds = cacheTtlSeconds + Math.max(after.cacheStaleSeconds, after.cacheErrorSeconds);
  return { digest: place.digest, entry, ttlSeconds, generation };
}
