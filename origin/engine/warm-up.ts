/**
 * A few steps of each kind before the first request: they tell the step-time model what this machine makes of this
 * model, and what is slow the first time (pages, kernels, caches) is slow here. Knows no sequences.
 */
import type { Runtime, StepBatch } from "../runtime/runtime.ts";
import type { StepLoad, StepTimeModel } from "./step-time.ts";

/** Rows and tokens of a chunk; the first two slots are enough for all. */
const KINDS = [
  { rows: 1, chunk: 0 },
  { rows: 0, chunk: 48 },
  { rows: 1, chunk: 16 },
  { rows: 2, chunk: 0 },
] as const;
/** The first round is not counted. */
const ROUNDS = 4;

/** @throws {RuntimeError} when the runtime can't run at all */
export async function warmUp(runtime: Runtime, time: StepTimeModel, now: () => number): Promise<void> {
  const slots = Math.min(2, runtime.limits.slots);
  const capacity = Math.min(64, runtime.limits.capacity);
  runtime.resize({ slots, capacity, kept: [] });
  for (let round = 0; round < ROUNDS; round++) {
    for (const kind of KINDS) {
      const load = { ...kind, chunk: Math.min(kind.chunk, capacity), context: kind.rows, past: 0 };
      if (load.rows + (load.chunk > 0 ? 1 : 0) > slots) continue;
      const begunAtMs = now();
      await runtime.step(toBatch(load));
      if (round > 0) time.observe(load, now() - begunAtMs);
    }
  }
  runtime.resize({ slots: 0, capacity: 0, kept: [] });
}

/** Rows behind nothing, fed token 0. */
function toBatch({ rows, chunk }: Pick<StepLoad, "rows" | "chunk">): StepBatch {
  const decode = { tokens: new Int32Array(rows), pasts: new Int32Array(rows) };
  if (chunk === 0) return { decode };
  return { decode, prefill: { slot: rows, tokens: new Int32Array(chunk), past: 0, sampled: 1 } };
}
