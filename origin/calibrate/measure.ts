/**
 * Times one way of computing a loaded model's steps against another. The two take turns, so that whatever else the
 * machine does meets both, and the 25th percentile is compared, which an interruption does not reach. Knows nothing of
 * what makes the two ways different.
 */
import type { Runtime, StepBatch } from "../runtime/port/runtime.ts";

/** Slots that a runtime needs to be measured: the rows of the larger decode step. */
export const CALIBRATION_SLOTS = 8;
/** Tokens of a row, of which a decode step has all but the last behind it. */
export const CALIBRATION_CAPACITY = 64;
const ROUNDS = 6;

/**
 * How long the challenger's steps take, over the incumbent's: the mean of one row and of several.
 * Below 1 the challenger is faster. Each half of the rounds is judged alone and the worse one counts, so that one lucky
 * moment is not enough.
 *
 * @param now - milliseconds
 */
export async function compareSteps(incumbent: Runtime, challenger: Runtime, now: () => number): Promise<number> {
  const capacity = Math.min(CALIBRATION_CAPACITY, incumbent.limits.capacity);
  for (const runtime of [incumbent, challenger]) await fillSlots(runtime, capacity);
  const steps = stepsOf(capacity);
  const ratios: number[] = [];
  for (let half = 0; half < 2; half++) {
    let sum = 0;
    for (const step of steps) {
      const times = { incumbent: [] as number[], challenger: [] as number[] };
      for (let round = 0; round < ROUNDS / 2; round++) {
        times.incumbent.push(await timed(incumbent, step, now));
        times.challenger.push(await timed(challenger, step, now));
      }
      sum += lowerQuartile(times.challenger) / lowerQuartile(times.incumbent);
    }
    ratios.push(sum / steps.length);
  }
  return Math.max(...ratios);
}

const NOBODY: StepBatch["decode"] = { tokens: new Int32Array(0), pasts: new Int32Array(0) };

/** Every row gets the same tokens behind it. */
async function fillSlots(runtime: Runtime, capacity: number): Promise<void> {
  runtime.resize({ slots: CALIBRATION_SLOTS, capacity, kept: [] });
  const tokens = new Int32Array(capacity - 1);
  await runtime.step({ decode: NOBODY, prefill: { slot: 0, tokens, past: 0, sampled: 0 } });
  for (let to = 1; to < CALIBRATION_SLOTS; to++) runtime.copySlot({ from: 0, to, tokens: capacity - 1 });
}

/** One row, which waits for memory, and several, which wait for arithmetic as a prompt does. */
function stepsOf(capacity: number): readonly StepBatch[] {
  const decode = (rows: number): StepBatch => ({
    decode: { tokens: new Int32Array(rows), pasts: new Int32Array(rows).fill(capacity - 1) },
  });
  return [decode(1), decode(CALIBRATION_SLOTS)];
}

/** The first run has the other model's weights in the caches against it, and its threads just woken. */
async function timed(runtime: Runtime, batch: StepBatch, now: () => number): Promise<number> {
  await runtime.step(batch);
  const start = now();
  await runtime.step(batch);
  return now() - start;
}

function lowerQuartile(times: readonly number[]): number {
  return times.toSorted((a, b) => a - b)[Math.floor((times.length - 1) / 4)] ?? Number.NaN;
}
