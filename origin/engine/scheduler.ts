/**
 * Decides what the next step computes. A pure function: every running row decodes, and one chunk of the prompt that is
 * being prefilled, or else of the one that has waited longest, goes with it. Moves no sequence and knows no runtime.
 */
import type { Sequence } from "./sequence.ts";

/** Where every open sequence is. */
export interface ScheduleState {
  /** Packed: `running[i]` lives in slot `i`. */
  readonly running: readonly Sequence[];
  readonly prefilling: Sequence | undefined;
  /** First come, first served. */
  readonly waiting: readonly Sequence[];
}

export interface ScheduleLimits {
  /** Rows of the KV slab. A prompt is prefilled in the first row behind the running ones, so none is set apart. */
  readonly slots: number;
  /** Prompt tokens in one step: more finishes prompts sooner and makes running rows wait longer. */
  readonly prefillChunkTokens: number;
}

/** One step's work. */
export interface Plan {
  readonly decode: readonly Sequence[];
  /** Tokens `from` (inclusive) to `to` (exclusive) of the prompt. */
  readonly prefill: { readonly sequence: Sequence; readonly from: number; readonly to: number } | undefined;
}

export function schedule(state: ScheduleState, limits: ScheduleLimits): Plan {
  const next = state.running.length < limits.slots ? state.waiting[0] : undefined;
  const sequence = state.prefilling ?? next;
  if (sequence === undefined) return { decode: state.running, prefill: undefined };

  const from = sequence.past;
  const to = Math.min(from + limits.prefillChunkTokens, sequence.prompt.length);
  return { decode: state.running, prefill: { sequence, from, to } };
}
