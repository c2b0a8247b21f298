/**
 * What did it cost? The reservation becomes the real usage and the slot goes back. A complete answer costs its usage,
 * an aborted one the prompt and what was generated until then, a failed one nothing. The region keeps the answer in the
 * same round trip. Knows no wire format.
 */
import type { Usage } from "../../shared/completion-response.ts";
import type { Call } from "../call/call.ts";
import { StoreUnavailable, type Keeping, type RegionalStore, type Reservation } from "../regional/regional-store.ts";

/** How a forwarded request ended. */
export type Ending =
  | { readonly type: "complete"; readonly usage: Pick<Usage, "total_tokens"> }
  | { readonly type: "aborted"; readonly promptTokens: number; readonly answerTokens: number }
  | { readonly type: "broken" };

/**
 * Settles a reservation; where the store can't be reached, its lease runs out, the reserved tokens stay spent, and the
 * next asking is a miss.
 */
export async function settle(
  call: Call,
  store: RegionalStore,
  reservation: Reservation | undefined,
  ending: Ending,
  keeping?: Keeping,
): Promise<void> {
  const usedTokens = costOf(ending);
  call.record.ended = ending.type;
  call.record.usedTokens = usedTokens;
  if (reservation === undefined) return;
  try {
    const kept = await store.settle(reservation, usedTokens, keeping);
    if (kept === "purged") call.record.notKept = kept;
    if (kept === "refused") call.record.degraded = "answer-not-stored";
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    call.record.degraded = "not-settled";
  }
}

function costOf(ending: Ending): number {
  switch (ending.type) {
    case "complete":
      return ending.usage.total_tokens;
    case "aborted":
      return ending.promptTokens + ending.answerTokens;
    case "broken":
      return 0;
    default:
      return ending satisfies never;
  }
}
