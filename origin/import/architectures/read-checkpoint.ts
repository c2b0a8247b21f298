/**
 * An opened file of weights to a checkpoint that the graph can be written from: finds the architecture's description, reads
 * the sizes, and gives every tensor GGUF's name and the published model's form. Whatever the decoder graph can't express is
 * refused here, by name, rather than imported into a model that answers wrongly.
 */
import {
  type Checkpoint,
  type DecoderConfig,
  isMatrix,
  type LayerAttention,
  type LayerTensor,
  type TensorName,
} from "../checkpoint/checkpoint.ts";
import { ImportError, shown } from "../../manifest/import-error.ts";
import { mapRows, readAll, type RowSource } from "../checkpoint/rows.ts";
import type { TensorFile } from "../sources/tensor-file.ts";
import type { Architecture } from "./architecture.ts";
import { GEMMA3 } from "./gemma3.ts";
import { LLAMA } from "./llama.ts";
import { MISTRAL } from "./mistral.ts";
import { QWEN2 } from "./qwen2.ts";
import { QWEN3 } from "./qwen3.ts";
import { readContextLength, readRope, unscaledRope } from "./rope.ts";
import { Settings } from "./settings.ts";
import { nameTensors, ROPE_DIVISORS, type TensorNames } from "./tensor-names.ts";

const ARCHITECTURES: readonly Architecture[] = [LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3];

/** A longer context than any model's; its table of rotations would not fit into memory. */
const CONTEXT_MAX = 2 ** 22;

/** What an activation is called in `config.json`. */
const ACTIVATION_NAMES = { silu: ["silu", "swish"], gelu_tanh: ["gelu_pytorch_tanh", "gelu_new"] } as const;

/**
 * Reads an opened file as a checkpoint, which is usable as long as the file is open.
 *
 * @throws {ImportError} `unsupported-model` for another architecture or an unknown variant of one, `invalid-file` for
 * metadata or tensors that are missing or contradict each other
 */
export function readCheckpoint(file: TensorFile): Checkpoint {
  const { architecture, description } = findArchitecture(file);
  const settings = new Settings(file, {
    prefix: architecture.gguf ?? "",
    config: description,
    defaults: architecture.defaults ?? {},
  });
  const names = nameTensors(file, architecture);
  const config = readConfig(file, settings, architecture, names);
  const shapes = expectedShapes(config, architecture);
  checkTensors(file, shapes, names);
  const isGguf = file.format === "gguf";

  const matrix = (name: TensorName): RowSource => {
    const [rows = 0, columns = 1] = shapes.get(name) ?? [];
    const source = {
      rows,
      columns,
      step: 1,
      read: (from: number, to: number) => file.readRows(names.of(name), from, to),
    };
    if (!isGguf || !architecture.interleavedInGguf || !/\.attn_[qk]\.weight$/.test(name)) return source;
    const { headDim } = config;
    return mapRows(source, (weights) => toRotateHalf(weights, { headDim, columns }), headDim);
  };
  const tensor = (name: TensorName): Float32Array => {
    if (isMatrix(name)) return readAll(matrix(name));
    const values = file.readTensor(names.of(name));
    const isOffset = !isGguf && architecture.normOffset === 1 && name.endsWith("norm.weight");
    return isOffset ? values.map((gain) => gain + 1) : values;
  };
  return { config, matrix, tensor };
}

/** The architecture's description of itself, and what part of the metadata describes the decoder. */
function findArchitecture({ path, format, metadata }: TensorFile): {
  readonly architecture: Architecture;
  readonly description: unknown;
} {
  const name = metadata[format === "gguf" ? "general.architecture" : "model_type"];
  const namesOf = ({ gguf, modelTypes }: Architecture): readonly string[] =>
    format === "gguf" ? (gguf === undefined ? [] : [gguf]) : modelTypes;
  const architecture = ARCHITECTURES.find((candidate) => namesOf(candidate).some((known) => known === name));
  if (architecture === undefined) {
    const known = ARCHITECTURES.flatMap(namesOf);
    throw new ImportError(
      "unsupported-model",
      `${path} is of the architecture ${shown(name)}, which coldpath can't run; it can run ${known.join(", ")}`,
    );
  }
  // A model that also sees images has a part for each of its parts.
  return { architecture, description: metadata["text_config"] ?? metadata };
}

function readConfig(
  file: TensorFile,
  settings: Settings,
  architecture: Architecture,
  names: TensorNames,
): DecoderConfig {
  const layers = settings.count("layers");
  // Bounds the work below: a layer is several tensors, so a file can't have more layers than tensors.
  if (layers > file.shapes.size) settings.fail("invalid-file", `lacks most of its ${layers} layers`);
  const hiddenSize = settings.count("hiddenSize");
  const queryHeads = settings.count("queryHeads");
  const kvHeads = settings.count("kvHeads", queryHeads);
  const headDim = settings.count("headDim", Math.floor(hiddenSize / queryHeads));
  const contextLength = readContextLength(settings);
  refuseVariants(settings, architecture, { queryHeads, kvHeads, headDim, contextLength });
  return {
    layers,
    hiddenSize,
    queryHeads,
    kvHeads,
    headDim,
    ffnSize: settings.count("ffnSize"),
    vocabSize: file.shapes.get(names.of("token_embd.weight"))?.[0] ?? 0,
    contextLength,
    normEpsilon: settings.positive("normEpsilon"),
    tiedEmbeddings: settings.flag("tiedEmbeddings") ?? !file.shapes.has(names.of("output.weight")),
    embeddingScale: architecture.embeddingScale?.(hiddenSize) ?? 1,
    attentionScale: (architecture.attentionDivisor?.(settings) ?? headDim) ** -0.5,
    activation: architecture.activation,
    qkvBias: "attn_q.bias" in architecture.layer,
    qkNorm: "attn_q_norm.weight" in architecture.layer,
    postNorms: "post_attention_norm.weight" in architecture.layer,
    attention: readAttention(file, settings, architecture, { layers, headDim, contextLength }),
  };
}

/** Things a file of a known architecture may say that the graph does not do. */
function refuseVariants(
  settings: Settings,
  { activation }: Architecture,
  sizes: Pick<DecoderConfig, "queryHeads" | "kvHeads" | "headDim" | "contextLength">,
): void {
  const { queryHeads, kvHeads, headDim, contextLength } = sizes;
  const refuse = (reason: string): never => settings.fail("unsupported-model", `${reason}, which coldpath can't run`);
  if (settings.number("experts", 0) > 0) refuse("is a mixture of experts");
  const quantizedBy = settings.word("quantizedBy");
  if (quantizedBy !== undefined) refuse(`is already quantized, by ${shown(quantizedBy)}`);
  if (settings.number("valueDim", headDim) !== headDim) refuse("has keys and values of different sizes");
  const rotated = settings.number("rotatedSize", headDim) / headDim;
  if (rotated !== 1 || settings.number("rotatedShare", 1) !== 1) refuse("rotates only a part of each head");
  // GroupQueryAttention's rotation works on cos and sin caches of `headDim / 2` columns, a multiple of 8.
  if (headDim % 16 !== 0) refuse(`has heads of size ${headDim}, not a multiple of 16`);
  if (queryHeads % kvHeads !== 0) refuse(`shares ${kvHeads} key heads among ${queryHeads} query heads unevenly`);
  if (settings.number("attentionSoftcap", 0) !== 0) refuse("caps its attention's scores softly");
  if (settings.number("finalSoftcap", 0) !== 0) refuse("caps its logits softly");
  if (settings.flag("bidirectional") === true) refuse("attends to what comes after a token");
  const localRope = settings.word("localRopeType") ?? "default";
  if (localRope !== "default") refuse(`scales the RoPE of its windowed layers by ${shown(localRope)}`);
  const stated = settings.word("activation") ?? ACTIVATION_NAMES[activation][0];
  if (!ACTIVATION_NAMES[activation].some((name) => name === stated)) refuse(`has the activation ${shown(stated)}`);
  if (contextLength > CONTEXT_MAX) refuse(`claims a context of ${contextLength} tokens`);
}

function readAttention(
  file: TensorFile,
  settings: Settings,
  architecture: Architecture,
  { layers, headDim, contextLength }: Pick<DecoderConfig, "layers" | "headDim" | "contextLength">,
): readonly LayerAttention[] {
  const divisors = file.shapes.has(ROPE_DIVISORS) ? file.readTensor(ROPE_DIVISORS) : undefined;
  const global: LayerAttention = { window: undefined, rope: readRope(settings, headDim, divisors) };
  const local = architecture.local?.(settings);
  const all = Array.from({ length: layers }, (_, layer) => layer);
  if (local === undefined) return all.map(() => global);
  const { window, ropeBase } = local;
  if (!Number.isSafeInteger(window) || window < 1) settings.fail("invalid-file", `has a window of ${window} tokens`);
  const windowed: LayerAttention = {
    // A window as wide as the context hides nothing.
    window: window < contextLength ? window : undefined,
    rope: ropeBase === undefined ? global.rope : unscaledRope(ropeBase, headDim),
  };
  const types = settings.words("layerTypes");
  if (types === undefined) return all.map((layer) => (local.isLocal(layer) ? windowed : global));
  if (types.length !== layers) settings.fail("invalid-file", `names ${types.length} types for ${layers} layers`);
  return types.map((type) => {
    if (type === "sliding_attention") return windowed;
    if (type === "full_attention") return global;
    return settings.fail("unsupported-model", `has layers of the type ${shown(type)}, which coldpath can't run`);
  });
}

function expectedShapes(config: DecoderConfig, { layer }: Architecture): Map<TensorName, readonly number[]> {
  const { hiddenSize, ffnSize, vocabSize, headDim } = config;
  const querySize = config.queryHeads * headDim;
  const kvSize = config.kvHeads * headDim;
  const ofLayer: Readonly<Record<LayerTensor, readonly number[]>> = {
    "attn_norm.weight": [hiddenSize],
    "attn_q.weight": [querySize, hiddenSize],
    "attn_k.weight": [kvSize, hiddenSize],
    "attn_v.weight": [kvSize, hiddenSize],
    "attn_q.bias": [querySize],
    "attn_k.bias": [kvSize],
    "attn_v.bias": [kvSize],
    "attn_q_norm.weight": [headDim],
    "attn_k_norm.weight": [headDim],
    "attn_output.weight": [hiddenSize, querySize],
    "post_attention_norm.weight": [hiddenSize],
    "ffn_norm.weight": [hiddenSize],
    "ffn_gate.weight": [ffnSize, hiddenSize],
    "ffn_up.weight": [ffnSize, hiddenSize],
    "ffn_down.weight": [hiddenSize, ffnSize],
    "post_ffw_norm.weight": [hiddenSize],
  };
  const shapes = new Map<TensorName, readonly number[]>([
    ["token_embd.weight", [vocabSize, hiddenSize]],
    ["output_norm.weight", [hiddenSize]],
  ]);
  if (!config.tiedEmbeddings) shapes.set("output.weight", [vocabSize, hiddenSize]);
  for (let index = 0; index < config.layers; index++) {
    for (const part of Object.keys(layer) as LayerTensor[]) shapes.set(`blk.${index}.${part}`, ofLayer[part]);
  }
  return shapes;
}

/** Every expected tensor is there with its shape, and nothing else is: an ignored bias would be a wrong answer. */
function checkTensors(
  { path, shapes }: TensorFile,
  expected: ReadonlyMap<TensorName, readonly number[]>,
  names: TensorNames,
): void {
  const known = new Set<string>([names.of("output.weight")]);
  for (const [name, shape] of expected) {
    const there = names.of(name);
    known.add(there);
    const actual = shapes.get(there);
    if (actual === undefined) throw new ImportError("invalid-file", `${path} lacks the tensor ${there}`);
    if (actual.join() !== shape.join()) {
      throw new ImportError(
        "invalid-file",
        `${path} has ${there} of shape [${actual.join(", ")}] where [${shape.join(", ")}] is needed`,
      );
    }
  }
  const stranger = [...shapes.keys()].find((name) => !known.has(name) && !names.isIgnored(name));
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
