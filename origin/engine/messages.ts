/**
 * What the main thread and the engine's thread say to each other. A step is one message for all its rows, and a flat
 * array of numbers, because it is sent for every token. Knows neither side.
 */
import type { RuntimeLimits, SelfTest } from "../runtime/port/runtime.ts";
import type { EngineCounters, EngineOptions, SequenceStatus, SequenceUpdate, StepReport } from "./engine.ts";
import type { SequenceRequest } from "./sequence.ts";

/** What the engine's thread is started with. */
export interface WorkerOptions extends Omit<EngineOptions, "runtime" | "now"> {
  /** URL of a module that exports `createRuntime`: the real one, or a test's. */
  readonly runtimeModule: string;
  /** Handed to `createRuntime` as it is. */
  readonly runtime: unknown;
  /** How long the engine has nothing to do before it gives the slab's memory back, milliseconds. */
  readonly restAfterMs: number;
}

export type ToWorker =
  | { readonly type: "submit"; readonly request: SequenceRequest }
  | { readonly type: "cancel"; readonly id: number }
  | { readonly type: "stop" };

export type FromWorker =
  | { readonly type: "ready"; readonly limits: RuntimeLimits; readonly selfTest: SelfTest | undefined }
  | { readonly type: "step"; readonly report: Float64Array; readonly logprobs: Float64Array | undefined }
  /** A run failed, its rows have ended; the engine goes on. */
  | { readonly type: "trouble"; readonly message: string };

/** How many sequences have a row (or a prefill), and how many wait for one. */
export interface Occupancy {
  readonly running: number;
  readonly waiting: number;
}

/** How the engine is doing, as of a step. */
export interface EngineState {
  readonly occupancy: Occupancy;
  /** The mean time that a sequence has a row, of those that ended lately; undefined before the first. */
  readonly serviceMs: number | undefined;
  readonly counters: EngineCounters;
  /** The sequences that wait, the next to be served first. */
  readonly waiting: readonly number[];
}

/** What one step took, and how long those had waited who got their rows in it. */
export type StepTimes = Pick<StepReport, "stepMs" | "queuedMs">;

/** Something is told that no step has brought about. */
export const NO_STEP: StepTimes = { stepMs: undefined, queuedMs: [] };

const STATUSES = [
  "running",
  "stop",
  "length",
  "poisoned",
  "expired",
  "deadline",
  "failed",
  "stuck",
] as const satisfies SequenceStatus[];

/** Before the first step. */
export const NO_COUNTERS: EngineCounters = {
  prefixQueries: 0,
  prefixHits: 0,
  prefixHitTokens: 0,
  prefixBytes: 0,
  prefixEvictions: 0,
  slabBytes: 0,
  resizes: 0,
  copiedTokens: 0,
  preemptions: 0,
  draftedTokens: 0,
  acceptedTokens: 0,
};
const COUNTERS = Object.keys(NO_COUNTERS) as readonly (keyof EngineCounters)[];

/** Numbers before the counters. */
const HEAD = 5;
/** Numbers before those that wait. */
const FIXED = HEAD + COUNTERS.length;
const UPDATE = 4;

/**
 * `[running, waiting, service ms or NaN, step ms or NaN, started, counters…, waiting ids…, queued ms…,
 * (id, token, status, cached tokens)…]`
 */
export function packReport(
  state: EngineState,
  updates: readonly SequenceUpdate[],
  { stepMs, queuedMs }: StepTimes,
): Float64Array {
  const { occupancy, serviceMs, counters, waiting } = state;
  let at = FIXED + waiting.length + queuedMs.length;
  const report = new Float64Array(at + updates.length * UPDATE);
  report.set([occupancy.running, waiting.length, serviceMs ?? Number.NaN, stepMs ?? Number.NaN, queuedMs.length]);
  report.set(
    COUNTERS.map((name) => counters[name]),
    HEAD,
  );
  report.set(waiting, FIXED);
  report.set(queuedMs, FIXED + waiting.length);
  for (const { id, token, status, cachedTokens } of updates) {
    report.set([id, token, STATUSES.indexOf(status), cachedTokens], at);
    at += UPDATE;
  }
  return report;
}

export function unpackReport(report: Float64Array): {
  state: EngineState;
  updates: SequenceUpdate[];
  times: StepTimes;
} {
  const [running = 0, waitingCount = 0, serviceMs = Number.NaN, stepMs = Number.NaN, started = 0] = report;
  const counters = Object.fromEntries(COUNTERS.map((name, i) => [name, report[HEAD + i] ?? 0])) as Record<
    keyof EngineCounters,
    number
  >;
  const waiting = [...report.subarray(FIXED, FIXED + waitingCount)];
  const first = FIXED + waitingCount + started;
  const times = { stepMs: known(stepMs), queuedMs: [...report.subarray(FIXED + waitingCount, first)] };
  const updates: SequenceUpdate[] = [];
  for (let at = first; at < report.length; at += UPDATE) {
    const [id = 0, token = -1, status = -1, cachedTokens = 0] = report.subarray(at, at + UPDATE);
    updates.push({ id, token, status: STATUSES[status] ?? "failed", cachedTokens });
  }
  const occupancy = { running, waiting: waitingCount };
  return { state: { occupancy, serviceMs: known(serviceMs), counters, waiting }, updates, times };
}

function known(number: number): number | undefined {
  return Number.isNaN(number) ? undefined : number;
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
