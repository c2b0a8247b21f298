/**
 * How fast this machine's cores can read memory together, for a given number of bytes read over and over: what a decode
 * step does with the weights. The number of bytes matters: what fits a cache is read several times as fast.
 *
 * The reading is libc's `memchr`, by way of `Buffer.indexOf` for a byte that does not occur: vectorized, unrolled, no
 * writes. A loop in JavaScript reaches a third of it.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";

const ABSENT = 2;
const PASSES = 24;

/** What each thread is told: where its part of the shared bytes lies. */
interface Part {
  readonly shared: SharedArrayBuffer;
  readonly from: number;
  readonly length: number;
  /** One 32-bit counter: how many threads are ready. All begin together. */
  readonly ready: SharedArrayBuffer;
  readonly threads: number;
}

/** Runs inside the threads; sent as text, so it closes over nothing. */
const READER = `
const { parentPort, workerData: { shared, from, length, ready, threads, passes, absent } } = require("node:worker_threads");
const bytes = Buffer.from(shared, from, length);
bytes.fill(1);
const counter = new Int32Array(ready);
const times = [];
for (let pass = 1; pass <= passes; pass++) {
  Atomics.add(counter, 0, 1);
  while (Atomics.load(counter, 0) < pass * threads);
  const start = process.hrtime.bigint();
  if (bytes.indexOf(absent) !== -1) throw new Error("found a byte that is not there");
  times.push(Number(process.hrtime.bigint() - start));
}
parentPort.postMessage(times);
`;

/**
 * Reads `bytes` bytes with all cores.
 *
 * @returns bytes a second, of the fastest pass: other programs only ever make one slower
 */
export async function readBandwidth(bytes: number, threads = availableParallelism()): Promise<number> {
  const shared = new SharedArrayBuffer(bytes);
  const ready = new SharedArrayBuffer(4);
  const length = Math.floor(bytes / threads);
  const parts = Array.from({ length: threads }, (_, index): Part => {
    return { shared, from: index * length, length, ready, threads };
  });
  const times = await Promise.all(parts.map(readPart));
  const slowest = Array.from({ length: PASSES }, (_, pass) => Math.max(...times.map((part) => part[pass] ?? 0)));
  return (length * threads * 1e9) / Math.min(...slowest);
}

function readPart(part: Part): Promise<number[]> {
  const worker = new Worker(READER, { eval: true, workerData: { ...part, passes: PASSES, absent: ABSENT } });
  return new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
}
