/**
 * Keeps a complete answer for the time the operator chose: sealed in the region, and as the reply just given in the
 * isolate. Knows no limits.
 */
import { renderAnswer, type Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import type { IsolateMemory } from "./isolate.ts";
import { sealEntry, type EntryPlace } from "./look-up.ts";
import { StoreUnavailable, type RegionalStore } from "./regional/regional-store.ts";
import type { Sealer } from "./seal.ts";
import type { ReplyForm } from "./validate.ts";

export interface StoreParts {
  readonly store: RegionalStore;
  readonly sealer: Sealer;
  readonly isolate: IsolateMemory;
  readonly cacheTtlSeconds: number;
  readonly cacheStaleSeconds: number;
  readonly cacheErrorSeconds: number;
}

interface Keeping {
  readonly place: EntryPlace;
  readonly form: ReplyForm;
  /** The tenant's purge it was admitted under. */
  readonly generation: string;
}

/** Stores the answer. A store that can't be reached costs the next asking a miss, and this one nothing. */
export async function storeAnswer(
  call: Call,
  { store, sealer, isolate, cacheTtlSeconds, ...after }: StoreParts,
  { place, form, generation }: Keeping,
  answer: Answer,
): Promise<void> {
  const storedAt = Math.floor(call.platform.now() / 1000);
  const expiresMs = (storedAt + cacheTtlSeconds) * 1000;
  isolate.keepReply(place.digest, form, { body: renderAnswer(answer, form), storedAt, expiresMs, generation });
  try {
    const entry = await sealEntry(sealer, place, answer, storedAt);
    const ttlSeconds = cacheTtlSeconds + Math.max(after.cacheStaleSeconds, after.cacheErrorSeconds);
    const kept = await store.keepEntry(place.tenant, place.digest, entry, { ttlSeconds, generation });
    if (!kept) call.record.notKept = "purged";
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    call.record.degraded = "answer-not-stored";
  }
}
