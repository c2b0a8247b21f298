/**
 * How fast the cores read memory together when they read the same bytes over and over, as a step does with the weights.
 * How many bytes matters: what fits a cache is read several times as fast as what does not.
 *
 * The reading is libc's `memchr`, by way of `Buffer.indexOf` of a byte that does not occur: vectorized, no writes. A loop
 * in JavaScript reaches a third of it.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";

const PASSES = 8;
/** Threads wait for each other by spinning; one that never gets a core must not hold up the start. */
const WAIT_MS_MAX = 2_000;

/** Runs inside the threads; sent as text, so it closes over nothing. `bytes` is all 1, and 2 is looked for. */
const READER = `
const { parentPort, workerData: { shared, from, length, ready, threads, passes, waitMs } } = require("node:worker_threads");
const bytes = Buffer.from(shared, from, length).fill(1);
const arrived = new Int32Array(ready);
const end = performance.now() + waitMs;
const times = [];
for (let pass = 1; pass <= passes; pass++) {
  Atomics.add(arrived, 0, 1);
  while (Atomics.load(arrived, 0) < pass * threads && performance.now() < end);
  const start = performance.now();
  bytes.indexOf(2);
  times.push(performance.now() - start);
}
parentPort.postMessage(times);
`;

export interface ReadBandwidthOptions {
  /** How many bytes are read over and over. */
  readonly bytes: number;
  readonly threads: number;
}

/** @returns bytes a second of the fastest pass: whatever else runs only ever makes it less */
export async function measureReadBandwidth({ bytes, threads }: ReadBandwidthOptions): Promise<number> {
  const length = Math.max(1, Math.floor(bytes / threads));
  const shared = new SharedArrayBuffer(length * threads);
  const ready = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  const readers = Array.from({ length: threads }, async (_, thread): Promise<readonly number[]> => {
    const part = { shared, from: thread * length, length, ready, threads, passes: PASSES, waitMs: WAIT_MS_MAX };
    const worker = new Worker(READER, { eval: true, workerData: part });
    const [times] = (await once(worker, "message")) as [readonly number[]];
    return times;
  });
  const times = await Promise.all(readers);
  const passes = Array.from({ length: PASSES }, (_, pass) => Math.max(...times.map((thread) => thread[pass] ?? 0)));
  return (length * threads * 1000) / Math.min(...passes);
}
