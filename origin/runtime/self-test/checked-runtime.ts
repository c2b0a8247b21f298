/**
 * Opens a model as `create-runtime.ts` does, lets the back end show that it computes right, and measures how near a step
 * comes to what the machine's memory allows. What the engine's thread is started with.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type ExternalTensor, readExternalTensors } from "../../onnx/onnx-graph.ts";
import { DECODER_FILE, readManifest } from "../../manifest/manifest.ts";
import { createRuntime as createUncheckedRuntime, type RuntimeOptions } from "../create-runtime.ts";
import type { Runtime, SelfTest } from "../port/runtime.ts";
import { checkGolden } from "./golden-check.ts";
import { goldenFormOf } from "./golden-model.ts";
import { measureReadBandwidth } from "./read-bandwidth.ts";

/** A step is measured behind so many tokens. */
const PAST_TOKENS = 63;
const STEPS = 16;
/** A large model's steps are cut short by this. */
const STEPS_MS_MAX = 1_000;
/** Beyond the caches of all but the largest servers, and little enough to set aside for a moment. */
const READ_BYTES_MAX = 256 * 2 ** 20;

/** @throws a RuntimeError when the back end computes wrong logits, or what `createRuntime` throws */
export async function createRuntime(options: RuntimeOptions): Promise<Runtime> {
  const { backend, threads, folder, provider = "cpu" } = options;
  const { quantization } = readManifest(folder);
  const runtime = await createUncheckedRuntime(options);
  try {
    const weights = readExternalTensors(readFileSync(join(folder, DECODER_FILE)));
    const golden = { form: goldenFormOf(weights), format: quantization.format };
    const goldenDistance = await checkGolden({ backend, threads, provider }, golden);
    const past = Math.min(PAST_TOKENS, runtime.limits.capacity - 1);
    const stepMs = await measureStep(runtime, past);
    const stepBytes = weightBytes(weights) + (past + 1) * runtime.limits.tokenBytes;
    const readBandwidth = provider === "cpu" ? await measureReading(stepBytes, threads) : undefined;
    return withSelfTest(runtime, { goldenDistance, stepMs, stepBytes, readBandwidth });
  } catch (cause) {
    runtime[Symbol.dispose]();
    throw cause;
  }
}

/**
 * The fastest of some steps of one row, as the bandwidth beside it is the fastest pass: whatever else the machine does
 * only ever makes either slower, and a ratio of the two should not. What its slot holds makes no difference.
 */
async function measureStep(runtime: Runtime, past: number): Promise<number> {
  runtime.resize({ slots: 1, capacity: past + 1, kept: [] });
  const batch = { decode: { tokens: Int32Array.of(0), pasts: Int32Array.of(past) } };
  // The first is not counted: it finds its memory.
  await runtime.step(batch);
  const end = performance.now() + STEPS_MS_MAX;
  let fastest = Infinity;
  for (let step = 0; step < STEPS && (step === 0 || performance.now() < end); step++) {
    const start = performance.now();
    await runtime.step(batch);
    fastest = Math.min(fastest, performance.now() - start);
  }
  runtime.resize({ slots: 0, capacity: 0, kept: [] });
  return fastest;
}

async function measureReading(stepBytes: number, threads: number): Promise<SelfTest["readBandwidth"]> {
  const bytes = Math.min(stepBytes, READ_BYTES_MAX);
  return { bytes, bytesPerSecond: await measureReadBandwidth({ bytes, threads }) };
}

/** The weights that every step reads from end to end: all but the tables that it looks single rows up in. */
function weightBytes(tensors: readonly ExternalTensor[]): number {
  const headed = tensors.some(({ name }) => name.startsWith("output.") || name === "output");
  const places = new Map<number, number>();
  for (const { name, location } of tensors) {
    const lookedUp = name.startsWith("rope.") || (headed && name.startsWith("token_embd"));
    // A table that is the head too is there under two names.
    if (!lookedUp) places.set(location.offset, location.length);
  }
  return [...places.values()].reduce((sum, bytes) => sum + bytes, 0);
}

function withSelfTest(runtime: Runtime, selfTest: SelfTest): Runtime {
  return Object.defineProperty(runtime, "selfTest", { value: selfTest, enumerable: true });
}
