/**
 * One prompt and the tokens generated for it: its place in the KV slab and how far it has come. A record; the engine
 * moves it along.
 */
import { TokenHistory } from "./history.ts";
import type { Sampling } from "./sample.ts";

/** What is asked of the engine. */
export interface SequenceRequest {
  /** Unique among open sequences; chosen by the caller. */
  readonly id: number;
  /** At least one token, all inside the vocabulary. */
  readonly prompt: Int32Array;
  /** At least 1; prompt and answer together fit the capacity. */
  readonly maxTokens: number;
  readonly sampling: Sampling;
  /** How many alternatives are reported with each token's log probability; absent: neither is. */
  readonly logprobs?: number;
}

/** A request on its way: waiting, then prefilling, then running until it leaves. */
export interface Sequence extends SequenceRequest {
  /** When a sequence that still waits is given up, on the engine's clock, in milliseconds. */
  readonly expiresAtMs: number;
  readonly history: TokenHistory;
  /** Set when prefill starts; changes only when rows are packed. Meaningless while waiting. */
  slot: number;
  /** Tokens whose keys and values the slot holds: grows by a chunk in prefill, by one in decode. */
  past: number;
  /** The token sampled last, fed by the next step. Meaningless before prefill ends. */
  last: number;
}

/** A sequence that has not begun. */
export function createSequence(request: SequenceRequest, expiresAtMs: number): Sequence {
  const history = new TokenHistory(request.sampling, request.prompt);
  return { ...request, expiresAtMs, history, slot: -1, past: 0, last: -1 };
}
