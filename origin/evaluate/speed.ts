/**
 * How many tokens a second models compute, measured in turn: what else the machine does then meets all of them. Knows
 * neither their formats nor their texts; what is in the rows makes no difference to how long a step takes.
 */
import type { Runtime } from "../runtime/port/runtime.ts";

/** Tokens of the prompt, and of context that a decode step has behind it, where the model's slab holds as many. */
const PROMPT_TOKENS_MAX = 128;
/** Timed decode steps a round; the first after another model's has the caches against it and does not count. */
const STEPS = 3;

export interface SpeedOptions {
  /** How many rows decode together; a slab needs one slot more than the most. Default one row. */
  readonly rows?: readonly number[];
  readonly rounds: number;
  /** Milliseconds. */
  readonly now: () => number;
  /** Told after every round. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Tokens a second. */
export interface Speed {
  /** Of all rows together, in the order of `rows`. */
  readonly decode: readonly number[];
  readonly prompt: number;
}

/** Measures models that share a machine. Their slabs' contents are lost. */
export async function measureSpeeds(runtimes: readonly Runtime[], options: SpeedOptions): Promise<readonly Speed[]> {
  const { rows = [1], rounds, now, onProgress } = options;
  const measured = runtimes.map((runtime) => ({
    runtime,
    promptTokens: Math.min(PROMPT_TOKENS_MAX, runtime.limits.capacity - STEPS - 1),
    decode: rows.map((): number[] => []),
    prompt: [] as number[],
  }));
  for (const { runtime } of measured) {
    runtime.resize({ slots: Math.max(...rows) + 1, capacity: runtime.limits.capacity, kept: [] });
  }
  for (let round = 0; round < rounds; round++) {
    for (const model of measured) await measureRound(model, rows, now);
    onProgress?.(round + 1, rounds);
  }
  return measured.map(({ decode, prompt, promptTokens }) => ({
    decode: decode.map((times, index) => perSecond(times, rows[index] ?? 0)),
    prompt: perSecond(prompt, promptTokens),
  }));
}

interface Measured {
  readonly runtime: Runtime;
  readonly promptTokens: number;
  /** Milliseconds of each step. */
  readonly decode: readonly number[][];
  readonly prompt: number[];
}

async function measureRound({ runtime, promptTokens, ...times }: Measured, rows: readonly number[], now: () => number) {
  const timed = async (run: () => unknown): Promise<number> => {
    const start = now();
    await run();
    return now() - start;
  };
  const { vocabSize } = runtime.limits;
  const tokens = Int32Array.from({ length: Math.max(promptTokens, ...rows) }, (_, i) => i % vocabSize);
  const nobody = { tokens: new Int32Array(0), pasts: new Int32Array(0) };
  const chunk = tokens.subarray(0, promptTokens);
  const prefill = { slot: runtime.shape.slots - 1, tokens: chunk, past: 0, sampled: 1 };
  times.prompt.push(await timed(() => runtime.step({ decode: nobody, prefill })));
  for (const [index, count] of rows.entries()) {
    const decode = { tokens: tokens.slice(0, count), pasts: new Int32Array(count).fill(promptTokens) };
    await runtime.step({ decode });
    for (let step = 0; step < STEPS; step++) times.decode[index]?.push(await timed(() => runtime.step({ decode })));
  }
}

/** By the lower quartile of the times: a busy machine makes some steps slower and none faster. */
function perSecond(milliseconds: readonly number[], tokens: number): number {
  const sorted = milliseconds.toSorted((a, b) => a - b);
  return (1000 * tokens) / (sorted[Math.floor(sorted.length / 4)] ?? Number.NaN);
}
