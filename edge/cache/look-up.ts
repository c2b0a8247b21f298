/** Opens a stored answer, and seals one to be stored. What does not open is no answer. Knows no limits. */
import type { Answer } from "../answer/answer.ts";
import type { StoredEntry } from "../regional/regional-store.ts";
import type { SealContext, Sealer } from "./seal.ts";

/**
 * Part of the seal, so an entry of another shape does not open: a change of `Answer` is a change here. What opens was
 * written by this very code, and is not checked again.
 */
const ENTRY_VERSION = 2;

/** Whose answer to what. */
export interface EntryPlace {
  readonly tenant: string;
  readonly digest: string;
}

/** @returns `undefined` when the entry was changed, moved, or sealed under another secret: a miss */
export async function openEntry(sealer: Sealer, place: EntryPlace, entry: StoredEntry): Promise<Answer | undefined> {
  const text = await sealer.open(contextOf(place, entry.storedAt), entry.sealed);
  return text === undefined ? undefined : (JSON.parse(text) as Answer);
}

/** @param storedAt - Unix seconds; part of the seal, so an entry can't be made younger */
export async function sealEntry(
  sealer: Sealer,
  place: EntryPlace,
  answer: Answer,
  storedAt: number,
): Promise<StoredEntry> {
  return { storedAt, sealed: await sealer.seal(contextOf(place, storedAt), JSON.stringify(answer)) };
}

function contextOf({ tenant, digest }: EntryPlace, storedAt: number): SealContext {
  return { tenant, place: `${ENTRY_VERSION} ${digest} ${storedAt}` };
}
