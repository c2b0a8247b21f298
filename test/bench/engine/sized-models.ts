/**
 * Models of other sizes than the default one, for how cost grows with size: seeded random weights in a real GGUF of the
 * shape of the SmolLM2 family, imported in the default format. Speed does not depend on what the weights say. Made once
 * and kept in the benchmarks' cache folder.
 */
import { mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { WeightFormatName } from "../../../origin/onnx/weight-formats.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { type ImportedModel } from "../../../origin/import/folder/model-folder.ts";
import { reportProgress } from "../../../origin/import/progress/progress.ts";
import { usualFormat } from "../../../origin/import/quantize/choose-format.ts";
import { readProcessor } from "../../../origin/import/quantize/processor.ts";
import { type Manifest, readManifest } from "../../../origin/manifest/manifest.ts";
import {
  layerTensors,
  type TinyTensor,
  tinyTensor,
  tinyTokenTypes,
  type TinyValue,
  tinyVocabulary,
  writeTinyCheckpoint,
} from "../../fakes/tiny-checkpoint.ts";
import { benchFolder } from "../peers.ts";

interface Shape {
  readonly layers: number;
  readonly hiddenSize: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly ffnSize: number;
}

/** By the number of their parameters. SmolLM2-360M's own shape, and one in its proportions. */
export const SIZED_MODELS = {
  "31M": { layers: 8, hiddenSize: 384, queryHeads: 6, kvHeads: 2, ffnSize: 1024 },
  "362M": { layers: 32, hiddenSize: 960, queryHeads: 15, kvHeads: 5, ffnSize: 2560 },
} as const satisfies Record<string, Shape>;
export type SizedModel = keyof typeof SIZED_MODELS;

const HEAD_DIM = 64;
const VOCAB_SIZE = 49_152;
const CONTEXT_LENGTH = 2048;
const SEED = 360;
const Q8_0 = 8;
const BLOCK_WEIGHTS = 32;
const BLOCK_BYTES = 34;
/** Standard deviation of a code drawn from all 256. */
const CODE_DEVIATION = 73.9;

/** Makes a model unless it is there. */
export async function ensureSizedModel(size: SizedModel): Promise<ImportedModel> {
  const config = readImportConfig(process.env);
  const format = usualFormat({ provider: config.provider, processor: readProcessor() });
  const folder = join(benchFolder(), "models", `random-${size}-${format}`);
  const manifest = findManifest(folder, format);
  if (manifest !== undefined) return { folder, manifest };
  const gguf = `${folder}.gguf`;
  await mkdir(dirname(gguf), { recursive: true });
  writeTinyCheckpoint(gguf, {
    contextLength: CONTEXT_LENGTH,
    metadata: metadata(SIZED_MODELS[size]),
    editTensors: () => tensors(SIZED_MODELS[size]),
  });
  const progress = reportProgress(process.stderr);
  const model = await ensureModel({ model: gguf, name: `random-${size}`, folder, config, progress, fetch });
  await rm(gguf);
  return model;
}

function findManifest(folder: string, format: WeightFormatName): Manifest | undefined {
  try {
    const manifest = readManifest(folder);
    return manifest.quantization.format === format ? manifest : undefined;
  } catch {
    // Not made yet, or by another version of the import.
    return undefined;
  }
}

function metadata({ layers, hiddenSize, queryHeads, kvHeads, ffnSize }: Shape): Record<string, TinyValue> {
  return {
    "llama.block_count": count(layers),
    "llama.embedding_length": count(hiddenSize),
    "llama.feed_forward_length": count(ffnSize),
    "llama.attention.head_count": count(queryHeads),
    "llama.attention.head_count_kv": count(kvHeads),
    "llama.attention.key_length": count(HEAD_DIM),
    "llama.attention.value_length": count(HEAD_DIM),
    "llama.rope.dimension_count": count(HEAD_DIM),
    ...vocabulary(),
  };
}

function count(value: number): TinyValue {
  return { type: "uint32", value };
}

/** A tiny vocabulary's tokens and then fillers that no text holds, up to the family's size. */
function vocabulary(): Record<string, TinyValue> {
  const tokens = tinyVocabulary();
  const fillers = Array.from({ length: VOCAB_SIZE - tokens.length }, (_, index) => `filler${index}`);
  const all = [...tokens, ...fillers];
  return {
    "tokenizer.ggml.tokens": { type: "strings", value: all },
    "tokenizer.ggml.token_type": { type: "int32s", value: tinyTokenTypes(all) },
  };
}

function tensors(shape: Shape): TinyTensor[] {
  const { layers, hiddenSize } = shape;
  const draw = randomWords(SEED);
  const norm = (name: string) => tinyTensor(`${name}.weight`, [hiddenSize], new Float32Array(hiddenSize).fill(1));
  const matrix = (name: string, inputs: number, outputs: number): TinyTensor => {
    const data = randomBlocks(inputs * outputs, 1 / Math.sqrt(inputs), draw);
    return { name: `${name}.weight`, shape: [inputs, outputs], dtype: Q8_0, data };
  };
  const sizes = { ...shape, headDim: HEAD_DIM };
  const body = Array.from({ length: layers }, (_, layer) => layerTensors(layer, sizes, { norm, matrix })).flat();
  return [matrix("token_embd", hiddenSize, VOCAB_SIZE), norm("output_norm"), ...body];
}

/** Q8_0: `{ half scale; int8 codes[32] }`. */
function randomBlocks(weights: number, deviation: number, draw: () => number): Uint8Array {
  const bytes = new Uint8Array(Math.ceil(((weights / BLOCK_WEIGHTS) * BLOCK_BYTES) / 4) * 4);
  const words = new Uint32Array(bytes.buffer);
  for (let index = 0; index < words.length; index++) words[index] = draw();
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += BLOCK_BYTES) view.setFloat16(at, deviation / CODE_DEVIATION, true);
  return bytes;
}

/** Marsaglia's xorshift32: a word in two nanoseconds, and nothing here asks for better. */
function randomWords(seed: number): () => number {
  let state = seed;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state;
  };
}
