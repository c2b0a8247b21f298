/**
 * A few steps of each kind before the first request: they tell the step-time model what this machine makes of this
 * model, and what is slow the first time (pages, kernels, caches) is slow here. Knows no sequences.
 */
import type { Runtime, StepBatch } from "../runtime/port/runtime.ts";
import type { StepLoad, StepTimeModel } from "./step-time.ts";

/** Rows, and tokens of a chunk or a guess beside them; the first two slots are enough for all. */
const KINDS = [
  { rows: 1, chunk: 0, guessed: 0 },
  { rows: 0, chunk: 48, guessed: 0 },
  { rows: 1, chunk: 16, guessed: 0 },
  { rows: 2, chunk: 0, guessed: 0 },
] as const;
/** The first round is not counted. */
const ROUNDS = 4;

export interface WarmUpOptions {
  readonly now: () => number;
  /** Whether tokens will be guessed. */
  readonly guesses: boolean;
}

/** @throws {RuntimeError} when the runtime can't run at all */
export async function warmUp(runtime: Runtime, time: StepTimeModel, { now, guesses }: WarmUpOptions): Promise<void> {
  const { limits } = runtime;
  const slots = Math.min(2, limits.slots);
  const capacity = Math.min(64, limits.capacity);
  const guessed = guesses ? [...new Set([1, limits.draftTokens])].filter((count) => count < capacity) : [];
  const kinds = [...KINDS, ...guessed.map((count) => ({ rows: 1, chunk: 0, guessed: count }))];
  runtime.resize({ slots, capacity, kept: [] });
  for (let round = 0; round < ROUNDS; round++) {
    for (const kind of kinds) {
      const chunk = Math.min(kind.chunk, capacity);
      const load = { ...kind, chunk, context: kind.rows, past: kind.guessed > 0 ? 1 : 0 };
      if (load.rows + (chunk > 0 ? 1 : 0) > slots) continue;
      const begunAtMs = now();
      await runtime.step(toBatch(load));
      if (round > 0) time.observe(load, now() - begunAtMs);
    }
  }
  runtime.resize({ slots: 0, capacity: 0, kept: [] });
}

/** Rows behind nothing, fed token 0. */
function toBatch({ rows, chunk, guessed, past }: StepLoad): StepBatch {
  const decode = { tokens: new Int32Array(rows), pasts: new Int32Array(rows) };
  if (guessed > 0) return { decode, prefill: { slot: 0, tokens: new Int32Array(guessed), past, sampled: guessed } };
  if (chunk === 0) return { decode };
  return { decode, prefill: { slot: rows, tokens: new Int32Array(chunk), past, sampled: 1 } };
}
