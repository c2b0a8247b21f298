/** Keeps a complete answer: sealed, with its age, for the time the operator chose. Knows no limits. */
import type { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import { sealEntry, type EntryPlace } from "./look-up.ts";
import { StoreUnavailable, type RegionalStore } from "./regional/regional-store.ts";
import type { Sealer } from "./seal.ts";

export interface StoreParts {
  readonly store: RegionalStore;
  readonly sealer: Sealer;
  readonly cacheTtlSeconds: number;
}

/** Stores the answer. A store that can't be reached costs the next asking a miss, and this one nothing. */
export async function storeAnswer(
  call: Call,
  { store, sealer, cacheTtlSeconds }: StoreParts,
  place: EntryPlace,
  answer: Answer,
): Promise<void> {
  try {
    const entry = await sealEntry(sealer, place, answer, Math.floor(call.platform.now() / 1000));
    await store.keepEntry(place.tenant, place.digest, entry, cacheTtlSeconds);
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    call.record.degraded = "answer-not-stored";
  }
}
