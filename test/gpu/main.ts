/**
 * `npm run test:gpu`, for a machine that has a GPU: names the device, holds what it computes to the CPU and to known
 * logits, moves keys and values about in its memory, and measures tokens a second at 1, 8 and 32 rows. COLDPATH_EXECUTION_PROVIDER says which provider, `cuda` where
 * it is unset; COLDPATH_MODEL and the others are the origin's. Without a GPU: one sentence and exit code 1. The last line
 * is JSON.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { findModels } from "../../origin/models/find.ts";
import { readImportConfig } from "../../origin/import/config.ts";
import { readExternalTensors } from "../../origin/onnx/onnx-graph.ts";
import { DECODER_FILE } from "../../origin/manifest/manifest.ts";
import type { ExecutionProvider } from "../../origin/runtime/capi/provider.ts";
import { createRuntime } from "../../origin/runtime/create-runtime.ts";
import { type Runtime, RuntimeError, type StepBatch } from "../../origin/runtime/port/runtime.ts";
import { checkGolden } from "../../origin/runtime/self-test/golden-check.ts";
import { goldenFormOf } from "../../origin/runtime/self-test/golden-model.ts";

type Gpu = Exclude<ExecutionProvider, "cpu">;

const CAPACITY = 256;
const PROMPT_TOKENS = 48;
const STEPS = 32;
/** Relative to the logits' size: rounding of activations and of keys and values to 16 bits stays well below. */
const DISTANCE_MAX = 0.1;
/** The same of a row whose keys and values were moved: another number of rows is computed by other kernels. */
const MOVED_DISTANCE_MAX = 0.02;

const nobody: StepBatch["decode"] = { tokens: new Int32Array(), pasts: new Int32Array() };

try {
  await main();
} catch (thrown) {
  process.stderr.write(`test:gpu: ${thrown instanceof Error ? thrown.message : String(thrown)}\n`);
  process.exitCode = 1;
}

async function main(): Promise<void> {
  const provider = readProvider(process.env["COLDPATH_EXECUTION_PROVIDER"]);
  const [found] = findModels(readImportConfig(process.env));
  if (found === undefined) throw new RuntimeError("COLDPATH_MODEL names no model");
  const { folder, manifest } = found;
  const { quantization, name } = manifest;
  const form = goldenFormOf(readExternalTensors(readFileSync(join(folder, DECODER_FILE))));
  const golden = await checkGolden({ backend: "capi", threads: 1, provider }, { form, format: quantization.format });
  process.stdout.write(`device: ${nameDevice(provider)}\nknown logits: ${golden.toFixed(4)} apart\n`);

  const slots = provider === "webgpu" ? 1 : 32;
  const size = { backend: "capi", folder, capacity: CAPACITY, threads: 1 } as const;
  using cpu = await createRuntime({ ...size, threads: 2, slots: 1 });
  using gpu = await createRuntime({ ...size, slots, provider });
  const agreement = await compare(cpu, gpu);
  process.stdout.write(
    `against the CPU: logits ${agreement.distance.toFixed(4)} apart, ${agreement.sameTop} of ${STEPS} top choices\n`,
  );
  const moved = await moveAbout(gpu);
  process.stdout.write(`after a move, a copy, a block out and in: logits ${moved.toFixed(4)} apart\n`);
  const tokensPerSecond: Record<string, number> = {};
  for (const rows of [1, 8, 32].filter((count) => count <= slots)) {
    tokensPerSecond[rows] = await measure(gpu, rows);
    process.stdout.write(`${rows} rows: ${tokensPerSecond[rows].toFixed(1)} tokens/s\n`);
  }
  if (slots === 1) process.stdout.write("8 and 32 rows: webgpu computes one row at a time\n");
  process.stdout.write(`${JSON.stringify({ provider, model: name, golden, ...agreement, moved, tokensPerSecond })}\n`);
  if (agreement.distance > DISTANCE_MAX) throw new RuntimeError(`${provider} does not compute what the CPU does`);
  if (moved > MOVED_DISTANCE_MAX) throw new RuntimeError(`${provider} loses keys and values that are moved`);
}

function readProvider(value = "cuda"): Gpu {
  if (value === "cuda" || value === "webgpu") return value;
  throw new RuntimeError(`COLDPATH_EXECUTION_PROVIDER must be cuda or webgpu here, not ${value}`);
}

function nameDevice(provider: Gpu): string {
  if (provider === "webgpu") return "the GPU that WebGPU chose";
  const query = ["--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"];
  return execFileSync("nvidia-smi", query, { encoding: "utf8" }).trim();
}

/** Feeds both the CPU's own greedy tokens, so that one early difference is not counted again and again. */
async function compare(cpu: Runtime, gpu: Runtime): Promise<{ readonly distance: number; readonly sameTop: number }> {
  const tokens = Int32Array.from({ length: PROMPT_TOKENS }, (_, index) => (index * 1931) % cpu.limits.vocabSize);
  let batch: StepBatch = { decode: nobody, prefill: { slot: 0, tokens, past: 0, sampled: 1 } };
  for (const runtime of [cpu, gpu]) runtime.resize({ slots: 1, capacity: CAPACITY, kept: [] });
  let [distance, sameTop] = [0, 0];
  for (let step = 0; step < STEPS; step++) {
    const [expected, actual] = [await cpu.step(batch), await gpu.step(batch)];
    distance = Math.max(distance, relativeDistance(actual, expected));
    const token = argmax(expected);
    if (argmax(actual) === token) sameTop += 1;
    batch = { decode: { tokens: Int32Array.of(token), pasts: Int32Array.of(PROMPT_TOKENS + step) } };
  }
  return { distance, sameTop };
}

/** How far a row's logits are from what they were, at most, when its slab was moved, and in slots that it was copied to. */
async function moveAbout(runtime: Runtime): Promise<number> {
  const slots = Math.min(3, runtime.limits.slots);
  const tokens = Int32Array.from({ length: PROMPT_TOKENS }, (_, index) => (index * 7919) % runtime.limits.vocabSize);
  const fed = (rows: number) => ({
    tokens: new Int32Array(rows).fill(5),
    pasts: new Int32Array(rows).fill(PROMPT_TOKENS),
  });
  runtime.resize({ slots, capacity: CAPACITY / 2, kept: [] });
  await runtime.step({ decode: nobody, prefill: { slot: 0, tokens, past: 0, sampled: 1 } });
  const before = (await runtime.step({ decode: fed(1) })).slice();
  runtime.resize({ slots, capacity: CAPACITY, kept: [PROMPT_TOKENS] });
  const half = PROMPT_TOKENS / 2;
  for (const from of [0, half]) {
    runtime.loadTokens(slots - 1, from, runtime.saveTokens(0, from, from + half));
  }
  if (slots > 2) runtime.copySlot({ from: 0, to: 1, tokens: PROMPT_TOKENS });
  const after = await runtime.step({ decode: fed(slots) });
  const { vocabSize } = runtime.limits;
  const rows = Array.from({ length: slots }, (_, row) => after.subarray(row * vocabSize, (row + 1) * vocabSize));
  return Math.max(...rows.map((row) => relativeDistance(row, before)));
}

/** Decode steps behind a prompt in every row, the median of them. */
async function measure(runtime: Runtime, rows: number): Promise<number> {
  runtime.resize({ slots: rows, capacity: CAPACITY, kept: [] });
  const tokens = new Int32Array(PROMPT_TOKENS).fill(1);
  for (let slot = 0; slot < rows; slot++) {
    await runtime.step({ decode: nobody, prefill: { slot, tokens, past: 0, sampled: 0 } });
  }
  const times: number[] = [];
  for (let step = 0; step < STEPS; step++) {
    const decode = { tokens: new Int32Array(rows).fill(2), pasts: new Int32Array(rows).fill(PROMPT_TOKENS + step) };
    const start = performance.now();
    await runtime.step({ decode });
    times.push(performance.now() - start);
  }
  const median = times.toSorted((a, b) => a - b)[times.length >> 1] ?? Infinity;
  return (rows * 1000) / median;
}

function argmax(logits: Float32Array): number {
  return logits.reduce((best, logit, token) => (logit > (logits[best] ?? -Infinity) ? token : best), 0);
}

/** Infinite where a number is missing. */
function relativeDistance(actual: Float32Array, expected: Float32Array): number {
  let [apart, size] = [0, 0];
  for (const [index, logit] of expected.entries()) {
    apart += (logit - (actual[index] ?? Number.NaN)) ** 2;
    size += logit ** 2;
  }
  const relative = Math.sqrt(apart / size);
  return Number.isNaN(relative) ? Infinity : relative;
}
