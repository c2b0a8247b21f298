/**
 * How much memory each model is going to take, before any of it is: what is fixed (weights, threads, buffers) and what
 * grows with use (keys and values, the prefix cache), and how the models share what there is. Pure arithmetic on their
 * manifests; loads nothing and asks no system.
 *
 * The constants are what was measured on Linux with Node 24 and ONNX Runtime 1.30: sums of a few, not guarantees. Memory
 * that only some requests need (grammars, HTTP bodies) is not in it.
 */
import type { OriginConfig } from "../../config.ts";
import { longestRow, type SlabShape, slabBytes } from "../../engine/kv-budget.ts";
import { type Manifest, WEIGHTS_FILE } from "../../manifest/manifest.ts";
import { kvTokenBytes } from "../../runtime/port/kv-model.ts";
import type { MachineMemory } from "./available.ts";

export type PlannedManifest = Pick<Manifest, "name" | "architecture" | "files" | "embedding">;

export type PlanSettings = Pick<
  OriginConfig,
  | "runtime"
  | "provider"
  | "slots"
  | "context"
  | "kvBytes"
  | "memoryBytes"
  | "prefixCacheBytes"
  | "prefillChunkTokens"
  | "embedBatchTokens"
>;

/** All in bytes. */
interface FixedPlan {
  readonly name: string;
  /** The weights as the kernels want them, in memory of our own. */
  readonly weights: number;
  /** The weights' file, which is mapped: the system gives these pages up when it needs them, so they are in no sum. */
  readonly mapped: number;
  /** What the model's second session and others cost beside the first. */
  readonly sessions: number;
  /** What one run needs, logits included. */
  readonly run: number;
  /** Threads of our own and their tokenizers. */
  readonly threads: number;
  /** More than that while it starts, before keys and values take any. */
  readonly start: number;
}

export interface DecoderPlan extends FixedPlan {
  readonly task: "generate";
  /** The largest slab there may be, which `kvBytes` need not be enough for. */
  readonly largest: SlabShape;
  /** Bytes of one token's keys and values. */
  readonly tokenBytes: number;
  readonly kvBytes: number;
  readonly prefixCacheBytes: number;
  /** Whether weights, keys and values are in a GPU's memory, of which nothing is known here. */
  readonly onDevice: boolean;
}

interface EncoderPlan extends FixedPlan {
  readonly task: "embed";
  /** Tokens of the largest batch. */
  readonly batchTokens: number;
}

export type ModelPlan = DecoderPlan | EncoderPlan;

export interface MemoryPlan {
  readonly models: readonly ModelPlan[];
  /** Of all models together, at the most. */
  readonly bytes: number;
  /** Bytes that they may have. */
  readonly availableBytes: number;
  readonly machine: MachineMemory;
}

/** Models that can't be served in this memory; the message is one sentence for the operator. */
export class MemoryError extends Error {
  override readonly name = "MemoryError";
}

const MEBIBYTE = 2 ** 20;
/** A session on weights that another has packed: 0 to 11 MiB were measured. */
const SESSION_BYTES = 8 * MEBIBYTE;
const DECODER_GRAPHS = 3;
/** A thread of Node with our code in it. */
const THREAD_BYTES = 48 * MEBIBYTE;
/** A tokenizer, for each token it knows: 0.7 to 1 KiB. */
const TOKENIZER_TOKEN_BYTES = 800;
/** What ONNX Runtime sets aside for whatever a run holds at once. */
const RUN_BYTES = 24 * MEBIBYTE;
/** A token's numbers that are held at once, in widths of the hidden state. */
const STATES = { generate: 16, embed: 32 };
const FLOAT_BYTES = 4;
/** A start packs the weights and reads as many bytes to see how fast the machine is, at most these. */
const START_BYTES_MAX = 256 * MEBIBYTE;

/**
 * The plan of some models that are to be served together. Keys and values get `COLDPATH_KV_BYTES`, or, where that is 0,
 * what their largest slabs take, but no more than is left beside everything else, nor, unless the operator said how much
 * memory there is, than half of the machine's; and in any case a whole context for one row of each. Several models share
 * in proportion, so that each has the same part of its rows.
 *
 * @param machine - `COLDPATH_MEMORY_BYTES` goes before what it has
 */
export function planMemory(
  manifests: readonly PlannedManifest[],
  settings: PlanSettings,
  machine: MachineMemory,
): MemoryPlan {
  const { memoryBytes } = settings;
  const availableBytes = memoryBytes > 0 ? memoryBytes : machine.availableBytes;
  const models = manifests.map((manifest) =>
    manifest.embedding === undefined ? planDecoder(manifest, settings) : planEncoder(manifest, settings),
  );
  const decoders = models.filter((model) => model.task === "generate");
  const wanted = sum(decoders, largestBytes);
  const prefixCacheBytes = decoders.length === 0 ? 0 : settings.prefixCacheBytes;
  const left = availableBytes - sum(models, fixedBytes) - prefixCacheBytes;
  const most = memoryBytes > 0 ? left : Math.min(left, machine.totalBytes / 2);
  const leastKv = sum(decoders, (model) => model.largest.capacity * model.tokenBytes);
  const kvBytes = settings.kvBytes > 0 ? settings.kvBytes : Math.max(leastKv, most);
  const shared = models.map((model): ModelPlan => {
    if (model.task === "embed") return model;
    const part = largestBytes(model) / wanted;
    const grown = { kvBytes: Math.floor(Math.min(kvBytes, wanted) * part) };
    return { ...model, ...grown, prefixCacheBytes: Math.floor(prefixCacheBytes * part) };
  });
  const growing = sum(shared, growingBytes);
  const bytes = sum(shared, fixedBytes) + Math.max(growing, ...models.map(({ start }) => start));
  return { models: shared, bytes, availableBytes, machine };
}

/** @throws {MemoryError} with what is needed, what there is, and what would help */
export function requireMemory({ models, bytes, availableBytes, machine }: MemoryPlan, settings: PlanSettings): void {
  const asked = settings.kvBytes;
  if (asked > machine.totalBytes) {
    throw new MemoryError(`COLDPATH_KV_BYTES=${asked} is more than this machine's memory, ${machine.totalBytes} bytes`);
  }
  const decoders = models.filter((model) => model.task === "generate");
  const without = decoders.find((model) => longestRow({ ...model.largest, ...model }) === 0);
  if (without !== undefined) {
    const { name, tokenBytes } = without;
    throw new MemoryError(
      `COLDPATH_KV_BYTES=${asked} is too little for any row: a token of ${name} takes ${tokenBytes} bytes`,
    );
  }
  if (bytes <= availableBytes) return;
  const knobs = [
    ...(decoders.length === 0 ? [] : [asked > 0 ? "COLDPATH_KV_BYTES" : "COLDPATH_CONTEXT"]),
    ...(sum(decoders, (model) => model.prefixCacheBytes) > 0 ? ["COLDPATH_PREFIX_CACHE_BYTES"] : []),
    ...(decoders.length < models.length ? ["COLDPATH_EMBED_BATCH_TOKENS"] : []),
  ];
  const [first, ...others] = models.map((model) => `${model.name} ${mebibytes(modelBytes(model))}`);
  const subject = others.length === 0 ? `${models[0]?.name} needs` : "the models need";
  const parts = others.length === 0 ? "" : ` (${[first, ...others].join(", ")})`;
  const other = others.length === 0 ? "take a smaller model or weight format" : "name fewer models in COLDPATH_MODEL";
  throw new MemoryError(
    `${subject} ${mebibytes(bytes)} of memory${parts}, and ${mebibytes(availableBytes)} can be had: lower ${knobs.join(" or ")}, or ${other}`,
  );
}

/** A line for each model, in the order of the plan, and one for all. */
export function describePlan({ models, bytes, availableBytes }: MemoryPlan): readonly string[] {
  const mapped = sum(models, (model) => model.mapped);
  return [
    ...models.map((model) => `${model.name}: ${describeModel(model)}`),
    `memory: ${mebibytes(bytes)} of the ${mebibytes(availableBytes)} that can be had, beside ${mebibytes(mapped)} of files that are read in place`,
  ];
}

/** `weights 135 MiB, KV 12 slots × 2048 tokens = 540 MiB, …`. */
export function describeModel(model: ModelPlan): string {
  const rest = `run ${mebibytes(model.run)}, threads and tokenizers ${mebibytes(model.threads)}`;
  const weights = `weights ${mebibytes(model.weights)} (further sessions ${mebibytes(model.sessions)})`;
  if (model.task === "embed") return `${weights}, batches of ${model.batchTokens} tokens, ${rest}`;
  const { slots, capacity } = model.largest;
  const largest = `${slots} slots × ${capacity} tokens = ${mebibytes(largestBytes(model))}`;
  const kv = model.kvBytes < largestBytes(model) ? `KV ${mebibytes(model.kvBytes)} of ${largest}` : `KV ${largest}`;
  const where = model.onDevice ? " in the GPU's memory, not counted" : "";
  return `${model.onDevice ? "weights" : weights}, ${kv}${where}, prefix cache ${mebibytes(model.prefixCacheBytes)}, ${rest}`;
}

function planDecoder({ name, architecture, files }: PlannedManifest, settings: PlanSettings): DecoderPlan {
  const { layers, hiddenSize, queryHeads, kvHeads, headDim, vocabSize, contextLength } = architecture;
  const { slots, context, provider, runtime } = settings;
  const capacity = context === 0 ? contextLength : Math.min(context, contextLength);
  const chunk = Math.min(settings.prefillChunkTokens, capacity);
  const onDevice = provider !== "cpu";
  const mapped = files[WEIGHTS_FILE]?.bytes ?? 0;
  const scores = chunk * capacity * queryHeads * FLOAT_BYTES;
  const states = chunk * hiddenSize * STATES.generate * FLOAT_BYTES;
  // Twice: as they come, and while a row is drawn from them.
  const logits = 2 * slots * vocabSize * FLOAT_BYTES;
  return {
    task: "generate",
    name,
    mapped: onDevice ? 0 : mapped,
    weights: onDevice ? 0 : mapped,
    // The stock binding's sessions share nothing.
    sessions: onDevice ? 0 : (DECODER_GRAPHS - 1) * (runtime === "binding" ? mapped : SESSION_BYTES),
    run: onDevice ? logits : RUN_BYTES + scores + states + logits,
    // One for the engine and one for long prompts, which has a tokenizer of its own.
    threads: 2 * (THREAD_BYTES + vocabSize * TOKENIZER_TOKEN_BYTES),
    start: onDevice ? 0 : Math.min(mapped, START_BYTES_MAX),
    largest: { slots, capacity },
    tokenBytes: kvTokenBytes({ layers, kvHeads, headDim, type: provider === "cuda" ? "float16" : "float32" }),
    kvBytes: 0,
    prefixCacheBytes: 0,
    onDevice,
  };
}

/** It is computed on the CPU, whatever computes decoders. */
function planEncoder({ name, architecture, files }: PlannedManifest, settings: PlanSettings): EncoderPlan {
  const { hiddenSize, queryHeads, vocabSize, contextLength } = architecture;
  const mapped = files[WEIGHTS_FILE]?.bytes ?? 0;
  const batchTokens = Math.max(settings.embedBatchTokens, contextLength);
  const scores = 2 * batchTokens * contextLength * queryHeads * FLOAT_BYTES;
  const states = batchTokens * hiddenSize * STATES.embed * FLOAT_BYTES;
  return {
    task: "embed",
    name,
    mapped,
    weights: mapped,
    sessions: 0,
    run: scores + states,
    threads: THREAD_BYTES + vocabSize * TOKENIZER_TOKEN_BYTES,
    start: 0,
    batchTokens,
  };
}

function largestBytes({ largest, tokenBytes }: DecoderPlan): number {
  return slabBytes(largest, { tokenBytes });
}

function fixedBytes({ weights, sessions, run, threads }: ModelPlan): number {
  return weights + sessions + run + threads;
}

function growingBytes(model: ModelPlan): number {
  if (model.task === "embed") return 0;
  return model.prefixCacheBytes + (model.onDevice ? 0 : model.kvBytes);
}

function modelBytes(model: ModelPlan): number {
  return fixedBytes(model) + growingBytes(model);
}

function sum<T>(items: readonly T[], bytesOf: (item: T) => number): number {
  return items.reduce((total, item) => total + bytesOf(item), 0);
}

function mebibytes(bytes: number): string {
  return `${Math.round(bytes / MEBIBYTE)} MiB`;
}
