/**
 * One prompt and the tokens generated for it: its place in the KV slab and how far it has come. A record; the engine
 * moves it along.
 */
import { GuessRecord } from "./draft.ts";
import { TokenHistory } from "./history.ts";
import { MaskReader, type MaskSource } from "./mask-channel.ts";
import type { Sampling } from "./sample.ts";

/** 0 is served first. */
export type Priority = 0 | 1 | 2;

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
  /** 0 high, 1 normal, 2 low. Default 1. */
  readonly priority?: Priority;
  /** Milliseconds from its submission in which it must have ended, or it is ended. Default: as long as it takes. */
  readonly deadlineMs?: number;
  /** Whose cached prefixes it may use and adds to. Default `""`, which all who name none share. */
  readonly tenant?: string;
  /** Who says which tokens may come next; absent: all may. */
  readonly mask?: MaskSource;
}

/** A request on its way: waiting, then prefilling, then running until it leaves; parked, it waits again. */
export interface Sequence {
  readonly id: number;
  readonly maxTokens: number;
  readonly sampling: Sampling;
  readonly logprobs: number | undefined;
  readonly priority: Priority;
  readonly tenant: string;
  readonly promptTokens: number;
  /** Prompt and answer, with room for all of it; what lies behind `length` means nothing. */
  readonly tokens: Int32Array;
  /** Its place in the queue, for good: when it came, put off by its priority. Engine's clock, milliseconds. */
  readonly rankMs: number;
  readonly submittedAtMs: number;
  /** When it is given up if its prefill has not begun, on the engine's clock. */
  readonly startByMs: number;
  /** When it is ended wherever it is, on the engine's clock. */
  readonly endByMs: number;
  readonly history: TokenHistory;
  readonly masks: MaskReader | undefined;
  readonly guesses: GuessRecord;
  /** Prompt tokens and tokens sampled so far. */
  length: number;
  /** Tokens whose keys and values the slot holds. The last of `length` is always still to be fed. */
  past: number;
  /** Set when prefill starts; changes only when rows are packed. Meaningless while waiting. */
  slot: number;
  /** When its first prefill began; undefined until then. */
  startedAtMs: number | undefined;
  /** Tokens that its first prefill found in the prefix cache. */
  cachedTokens: number;
  /** Failed runs that it was in. */
  failures: number;
  /** Whether it is to run alone, because a run that it was in has failed. Until a prefill of it goes well. */
  suspect: boolean;
}

/** How a queue treats those in it. */
export interface QueuePolicy {
  /** How long a sequence may wait for its prefill to start. */
  readonly queueWaitMs: number;
  /** How much longer than the class above it a class waits at equal load: what bounds the wait of the lowest. */
  readonly ageingMs: number;
}

/** A sequence that has not begun. */
export function createSequence(request: SequenceRequest, nowMs: number, policy: QueuePolicy): Sequence {
  const { id, prompt, maxTokens, sampling, priority = 1, deadlineMs = Infinity, tenant = "" } = request;
  const tokens = new Int32Array(prompt.length + maxTokens);
  tokens.set(prompt);
  return {
    id,
    maxTokens,
    sampling,
    logprobs: request.logprobs,
    priority,
    tenant,
    promptTokens: prompt.length,
    tokens,
    rankMs: nowMs + priority * policy.ageingMs,
    submittedAtMs: nowMs,
    startByMs: nowMs + policy.queueWaitMs,
    endByMs: nowMs + deadlineMs,
    history: new TokenHistory(sampling, prompt),
    masks: request.mask === undefined ? undefined : new MaskReader(request.mask),
    guesses: new GuessRecord(),
    length: prompt.length,
    past: 0,
    slot: -1,
    startedAtMs: undefined,
    cachedTokens: 0,
    failures: 0,
    suspect: false,
  };
}

/** Tokens that its slot will hold at most. */
export function tokensNeeded({ tokens }: Pick<Sequence, "tokens">): number {
  return tokens.length;
}
