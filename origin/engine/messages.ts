/**
 * What the main thread and the engine's thread say to each other. A step is one message for all its rows, and a flat
 * array of integers, because it is sent for every token. Knows neither side.
 */
import type { RuntimeLimits } from "../runtime/runtime.ts";
import type { SequenceStatus, SequenceUpdate } from "./engine.ts";
import type { SequenceRequest } from "./sequence.ts";

/** What the engine's thread is started with. */
export interface WorkerOptions {
  /** URL of a module that exports `createRuntime`: the real one, or a test's. */
  readonly runtimeModule: string;
  /** Handed to `createRuntime` as it is. */
  readonly runtime: unknown;
  readonly endTokens: readonly number[];
  readonly prefillChunkTokens: number;
  readonly queueWaitMs: number;
}

export type ToWorker =
  | { readonly type: "submit"; readonly request: SequenceRequest }
  | { readonly type: "cancel"; readonly id: number }
  | { readonly type: "stop" };

export type FromWorker =
  | { readonly type: "ready"; readonly limits: RuntimeLimits }
  | { readonly type: "step"; readonly report: Int32Array; readonly logprobs: Float64Array | undefined }
  /** A run failed, its rows have ended; the engine goes on. */
  | { readonly type: "trouble"; readonly message: string };

/** How many sequences have a row (or a prefill), and how many wait for one. */
export interface Occupancy {
  readonly running: number;
  readonly waiting: number;
}

const STATUSES = ["running", "stop", "length", "poisoned", "expired", "failed"] as const satisfies SequenceStatus[];

/** One step as the main thread sees it. */
export interface Report {
  readonly occupancy: Occupancy;
  /** Who waits for a row, the next one first. */
  readonly waiting: readonly number[];
  readonly updates: SequenceUpdate[];
}

/** `[running, waiting, (waiting id)…, (id, token, status)…]` */
export function packReport(
  running: number,
  waiting: readonly number[],
  updates: readonly SequenceUpdate[],
): Int32Array {
  const first = 2 + waiting.length;
  const report = new Int32Array(first + updates.length * 3);
  report[0] = running;
  report[1] = waiting.length;
  report.set(waiting, 2);
  updates.forEach(({ id, token, status }, i) => {
    const at = first + i * 3;
    report[at] = id;
    report[at + 1] = token;
    report[at + 2] = STATUSES.indexOf(status);
  });
  return report;
}

export function unpackReport(report: Int32Array): Report {
  const [running = 0, waiting = 0] = report;
  const first = 2 + waiting;
  const updates: SequenceUpdate[] = [];
  for (let at = first; at < report.length; at += 3) {
    const status = STATUSES[report[at + 2] ?? -1] ?? "failed";
    updates.push({ id: report[at] ?? 0, token: report[at + 1] ?? -1, status });
  }
  return { occupancy: { running, waiting }, waiting: [...report.subarray(2, first)], updates };
}

/** `[(position in the report, log probability, count, (token, log probability)…)…]`; `undefined` where nobody asked. */
export function packLogprobs(updates: readonly SequenceUpdate[]): Float64Array | undefined {
  if (updates.every(({ logprobs }) => logprobs === undefined)) return undefined;
  const packed = updates.flatMap(({ logprobs }, i) => {
    if (logprobs === undefined) return [];
    const { logprob, top } = logprobs;
    return [i, logprob, top.length, ...top.flatMap((alternative) => [alternative.token, alternative.logprob])];
  });
  return Float64Array.from(packed);
}

/** Gives the updates of one report what `packLogprobs` took from them. */
export function attachLogprobs(updates: SequenceUpdate[], packed: Float64Array | undefined): void {
  if (packed === undefined) return;
  for (let at = 0; at < packed.length;) {
    const [i = 0, logprob = 0, count = 0] = packed.subarray(at, at + 3);
    const pairs = packed.subarray(at + 3, at + 3 + 2 * count);
    const top = Array.from({ length: count }, (_, j) => ({
      token: pairs[2 * j] ?? 0,
      logprob: pairs[2 * j + 1] ?? 0,
    }));
    const update = updates[i];
    if (update !== undefined) updates[i] = { ...update, logprobs: { logprob, top } };
    at += 3 + 2 * count;
  }
}
