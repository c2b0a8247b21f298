/**
 * The Llama family in GGUF: metadata to a `DecoderConfig`, GGUF's tensors to the published model's. Whatever the decoder
 * graph can't express is refused here, by name, rather than imported into a model that answers wrongly.
 *
 * Source: llama.cpp, gguf-py/gguf/constants.py (keys), conversion/llama.py (the permutation of q and k),
 * src/llama-model.cpp (`LLM_ARCH_LLAMA`).
 */
import type { Checkpoint, DecoderConfig, LayerTensor, TensorName } from "./checkpoint.ts";
import { ImportError, shown } from "./import-error.ts";
import { mapRows, readAll, type RowSource } from "./rows.ts";
import type { Metadata, TensorFile } from "./sources/tensor-file.ts";

/** The rotation's base where a file does not say. */
const DEFAULT_ROPE_BASE = 10_000;
const ROPE_FACTORS = "rope_freqs.weight";

/**
 * Reads an opened GGUF file as a Llama-family checkpoint. The checkpoint is usable as long as the file is open.
 *
 * @throws {ImportError} `unsupported-model` for another architecture or an unknown variant of it, `invalid-file` for
 * metadata or tensors that are missing or contradict each other
 */
export function readLlama(file: TensorFile): Checkpoint {
  const config = readConfig(file);
  const expected = expectedShapes(config);
  checkTensors(file, expected);
  const matrix = (name: TensorName): RowSource => {
    const [rows = 0, columns = 1] = expected.get(name) ?? [];
    const read = (from: number, to: number) => file.readRows(name, from, to);
    const source = { rows, columns, step: 1, read };
    if (!/\.attn_[qk]\.weight$/.test(name)) return source;
    const { headDim } = config;
    return mapRows(source, (weights) => toRotateHalf(weights, { headDim, columns }), headDim);
  };
  return {
    config,
    matrix,
    tensor: (name) => (expected.get(name)?.length === 1 ? file.readTensor(name) : readAll(matrix(name))),
  };
}

function readConfig(file: TensorFile): DecoderConfig {
  const { path, metadata, shapes } = file;
  const architecture = metadata["general.architecture"];
  if (architecture !== "llama") {
    throw new ImportError("unsupported-model", `${path} is of the architecture ${shown(architecture)}, not llama`);
  }
  const count = (key: string, fallback?: number) => readCount(path, metadata, `llama.${key}`, fallback);
  const hiddenSize = count("embedding_length");
  const queryHeads = count("attention.head_count");
  const headDim = count("attention.key_length", Math.floor(hiddenSize / queryHeads));
  const embedding = shapes.get("token_embd.weight");
  const config = {
    layers: count("block_count"),
    hiddenSize,
    queryHeads,
    kvHeads: count("attention.head_count_kv", queryHeads),
    headDim,
    ffnSize: count("feed_forward_length"),
    vocabSize: embedding?.[0] ?? 0,
    contextLength: count("context_length"),
    normEpsilon: readNumber(path, metadata, "llama.attention.layer_norm_rms_epsilon"),
    tiedEmbeddings: !shapes.has("output.weight"),
  };
  // Bounds the work below: a layer is several tensors, so a file can't have more layers than tensors.
  if (config.layers > shapes.size)
    throw new ImportError("invalid-file", `${path} lacks most of its ${config.layers} layers`);
  refuseVariants(path, metadata, config);
  const factors = shapes.has(ROPE_FACTORS) ? file.readTensor(ROPE_FACTORS) : undefined;
  return { ...config, ropeFrequencies: ropeFrequencies(path, metadata, headDim, factors) };
}

/** Things a file of this architecture may say that the graph does not do. */
function refuseVariants(
  path: string,
  metadata: Metadata,
  { queryHeads, kvHeads, headDim }: Pick<DecoderConfig, "queryHeads" | "kvHeads" | "headDim">,
): void {
  const refuse = (reason: string) => {
    throw new ImportError("unsupported-model", `${path} ${reason}, which coldpath can't run`);
  };
  const number = (key: string, fallback: number) => readNumber(path, metadata, `llama.${key}`, fallback);
  if (number("expert_count", 0) > 0) refuse("is a mixture of experts");
  if (number("attention.value_length", headDim) !== headDim) refuse("has keys and values of different sizes");
  if (number("rope.dimension_count", headDim) !== headDim) refuse("rotates only a part of each head");
  // GroupQueryAttention's rotation works on cos and sin caches of `headDim / 2` columns, a multiple of 8.
  if (headDim % 16 !== 0) refuse(`has heads of size ${headDim}, not a multiple of 16`);
  if (queryHeads % kvHeads !== 0) refuse(`shares ${kvHeads} key heads among ${queryHeads} query heads unevenly`);
  const scaling = metadata["llama.rope.scaling.type"];
  if (scaling !== undefined && scaling !== "none" && scaling !== "linear") refuse(`scales RoPE by ${shown(scaling)}`);
}

/**
 * The angle per position of each pair: `base^(-2i / headDim)`, divided by the linear scaling factor and, pair by pair, by
 * Llama 3's own factors.
 */
function ropeFrequencies(path: string, metadata: Metadata, headDim: number, factors?: Float32Array): readonly number[] {
  const pairs = headDim / 2;
  if (factors !== undefined && factors.length !== pairs) {
    throw new ImportError("invalid-file", `${path} has ${factors.length} RoPE factors for ${pairs} pairs`);
  }
  const base = readNumber(path, metadata, "llama.rope.freq_base", DEFAULT_ROPE_BASE);
  const isLinear = metadata["llama.rope.scaling.type"] === "linear";
  const scale = isLinear ? readNumber(path, metadata, "llama.rope.scaling.factor") : 1;
  const frequencies = Array.from({ length: pairs }, (_, i) => base ** (-i / pairs) / scale / (factors?.[i] ?? 1));
  if (frequencies.every((frequency) => Number.isFinite(frequency) && frequency > 0)) return frequencies;
  throw new ImportError("invalid-file", `${path} describes a RoPE that is not made of positive numbers`);
}

function expectedShapes(config: DecoderConfig): Map<TensorName, readonly number[]> {
  const { hiddenSize, ffnSize, vocabSize, headDim } = config;
  const querySize = config.queryHeads * headDim;
  const kvSize = config.kvHeads * headDim;
  const layer: Readonly<Record<LayerTensor, readonly number[]>> = {
    attn_norm: [hiddenSize],
    attn_q: [querySize, hiddenSize],
    attn_k: [kvSize, hiddenSize],
    attn_v: [kvSize, hiddenSize],
    attn_output: [hiddenSize, querySize],
    ffn_norm: [hiddenSize],
    ffn_gate: [ffnSize, hiddenSize],
    ffn_up: [ffnSize, hiddenSize],
    ffn_down: [hiddenSize, ffnSize],
  };
  const shapes = new Map<TensorName, readonly number[]>([
    ["token_embd.weight", [vocabSize, hiddenSize]],
    ["output_norm.weight", [hiddenSize]],
  ]);
  if (!config.tiedEmbeddings) shapes.set("output.weight", [vocabSize, hiddenSize]);
  for (let index = 0; index < config.layers; index++) {
    for (const [name, shape] of Object.entries(layer)) shapes.set(`blk.${index}.${name as LayerTensor}.weight`, shape);
  }
  return shapes;
}

/** Every expected tensor is there with its shape, and nothing else is: an ignored bias would be a wrong answer. */
function checkTensors({ path, shapes }: TensorFile, expected: ReadonlyMap<string, readonly number[]>): void {
  for (const [name, shape] of expected) {
    const actual = shapes.get(name);
    if (actual === undefined) throw new ImportError("invalid-file", `${path} lacks the tensor ${name}`);
    if (actual.join() !== shape.join()) {
      throw new ImportError(
        "invalid-file",
        `${path} has ${name} of shape [${actual.join(", ")}] where [${shape.join(", ")}] is needed`,
      );
    }
  }
  const stranger = [...shapes.keys()].find((name) => !expected.has(name) && name !== ROPE_FACTORS);
  if (stranger !== undefined) {
    throw new ImportError("unsupported-model", `${path} has the tensor ${stranger}, which coldpath has no place for`);
  }
}

/** Undoes llama.cpp's permutation: its row `2i + half` of a head is the published model's row `half * headDim / 2 + i`. */
function toRotateHalf(
  weights: Float32Array,
  { headDim, columns }: { readonly headDim: number; readonly columns: number },
): Float32Array {
  const heads = weights.length / (headDim * columns);
  const rows = new Float32Array(weights.length);
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < headDim; row++) {
      const from = (head * headDim + row) * columns;
      const to = (head * headDim + (row % 2) * (headDim / 2) + (row >> 1)) * columns;
      rows.set(weights.subarray(from, from + columns), to);
    }
  }
  return rows;
}

function readCount(path: string, metadata: Metadata, key: string, fallback?: number): number {
  const value = readNumber(path, metadata, key, fallback);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw new ImportError("invalid-file", `${path} says ${key} is ${value}, which is no count`);
}

function readNumber(path: string, metadata: Metadata, key: string, fallback?: number): number {
  const value = metadata[key] ?? fallback;
  if (value === undefined) throw new ImportError("invalid-file", `${path} lacks the metadata ${key}`);
  const number = typeof value === "bigint" ? Number(value) : value;
  if (typeof number === "number" && Number.isFinite(number)) return number;
  throw new ImportError("unsupported-model", `${path} gives ${key} something other than one number`);
}
