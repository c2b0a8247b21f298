/**
 * What did it cost? The reservation becomes the real usage and the slot goes back. A complete answer costs its usage,
 * an aborted one the prompt and what was generated until then, a failed one nothing. Knows no wire format.
 */
import type { Usage } from "../shared/completion-response.ts";
import type { Call } from "./call.ts";
import { StoreUnavailable, type RegionalStore, type Reservation } from "./regional/regional-store.ts";

/** How a forwarded request ended. */
export type Ending =
  | { readonly type: "complete"; readonly usage: Usage }
  | { readonly type: "aborted"; readonly promptTokens: number; readonly answerTokens: number }
  | { readonly type: "broken" };

/** Settles a reservation; where the store can't be reached, its lease runs out and the reserved tokens stay spent. */
export async function settle(
  call: Call,
  store: RegionalStore,
  reservation: Reservation | undefined,
  ending: Ending,
): Promise<void> {
  const usedTokens = costOf(ending);
  call.record.ended = ending.type;
  call.record.usedTokens = usedTokens;
  if (reservation === undefined) return;
  try {
    await store.settle(reservation, usedTokens);
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
