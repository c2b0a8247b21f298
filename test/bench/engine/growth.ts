/**
 * How the cost of a token grows with what is kept (context), with who is there (batch) and with the model, beside the
 * least it can be.
 *
 * That least is a matter of bytes: a step reads every weight once, whatever the batch, and each stream's keys and values
 * once; memory delivers so many bytes a second and no more. Where a step takes longer than that, it is bound by
 * arithmetic (large batches, prefill), by overhead that does not depend on size (small models), or it reads bytes twice.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { readExternalTensors } from "../../../origin/onnx/onnx-graph.ts";
import { DECODER_FILE, type Manifest } from "../../../origin/manifest/manifest.ts";
import { median } from "../report.ts";
import { streamFigures } from "../streams.ts";
import type { Contender } from "./contender.ts";
import type { Prompts } from "./prompts.ts";

/** Fed at each point before and while it is measured. */
const TOKENS = 48;
/** Left out at a stream's start. */
const SETTLING_TOKENS = 4;

/** What a step of one stream reads. */
export interface StepBytes {
  readonly weights: number;
  /** Keys and values of one token of context. */
  readonly perToken: number;
}

/** One measured point beside the physics. */
export interface CostPoint {
  /** Tokens of context, streams, or parameters. */
  readonly x: number;
  readonly stepMs: number;
  /** What the bytes of this step take at the measured bandwidth. */
  readonly limitMs: number;
}

/**
 * What the decode graph of an imported model reads. The rotation's table and an embedding that is not the LM head are
 * looked up row by row, which is nothing.
 */
export function stepBytes(folder: string, { architecture }: Manifest): StepBytes {
  const tensors = readExternalTensors(readFileSync(join(folder, DECODER_FILE)));
  const hasHead = tensors.some(({ name }) => name.startsWith("output."));
  const isRead = (name: string) => !name.startsWith("rope.") && !(hasHead && name.startsWith("token_embd"));
  // The embedding table and a tied head are two names of one place.
  const places = new Map(
    tensors.filter(({ name }) => isRead(name)).map(({ location }) => [location.offset, location.length]),
  );
  const { layers, kvHeads, headDim } = architecture;
  return {
    weights: [...places.values()].reduce((sum, bytes) => sum + bytes, 0),
    perToken: 2 * layers * kvHeads * headDim * Float32Array.BYTES_PER_ELEMENT,
  };
}

export interface CostOptions {
  readonly engine: Contender;
  readonly prompts: Prompts;
  readonly bytes: StepBytes;
  /** Bytes a second. */
  readonly bandwidth: number;
}

/** One stream's step at a context, the median of its gaps. */
export async function costAtContext(context: number, options: CostOptions): Promise<CostPoint> {
  const { engine, prompts } = options;
  const { arrivals } = await engine.run({ prompts: [prompts.ids(context)], tokens: TOKENS });
  const times = (arrivals[0] ?? []).slice(SETTLING_TOKENS);
  const stepMs = median(times.slice(1).map((time, index) => time - (times[index] ?? Number.NaN)));
  return { x: context, stepMs, limitMs: limitMs([context + TOKENS / 2], options) };
}

/** A whole batch's step at a short context. */
export async function costAtBatch(batch: number, context: number, options: CostOptions): Promise<CostPoint> {
  const { engine, prompts } = options;
  // On a slow machine the last row begins when the first has said a hundred tokens.
  const tokens = TOKENS + 16 * batch;
  const job = { prompts: Array.from({ length: batch }, () => prompts.ids(context)), tokens };
  const { "tokens/s": rate } = streamFigures(await engine.run(job));
  const contexts = Array.from({ length: batch }, () => context + tokens / 2);
  return { x: batch, stepMs: (batch / rate) * 1000, limitMs: limitMs(contexts, options) };
}

function limitMs(contexts: readonly number[], { bytes, bandwidth }: CostOptions): number {
  const kept = contexts.reduce((sum, context) => sum + context, 0) * bytes.perToken;
  return ((bytes.weights + kept) / bandwidth) * 1000;
}
