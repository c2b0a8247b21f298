/**
 * Writes the model folder that transformers.js loads, from the same GGUF that coldpath imports. Benchmarks only: with it
 * both run the same weights in the same block format with the same kernels, so what is compared is how the model is run.
 *
 * The graph has the form in which decoders are commonly published for transformers.js: `past_key_values.N.key/value` in,
 * `present.N.key/value` out, one token longer, so every step copies the whole cache; lengths are counted from an
 * `attention_mask`. Where the published forms differ, the faster one is written: `GroupQueryAttention` with packed
 * projections and rotation inside, `num_logits_to_keep`, and fused gate and up.
 *
 * Source: the models of huggingface.co/onnx-community, and transformers.js, src/models/modeling_utils.js.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { BlockFormat } from "../../../origin/onnx/weight-formats.ts";
import { blockScales } from "../../../origin/onnx/scales.ts";
import type { Checkpoint, LayerTensor, TensorName } from "../../../origin/import/checkpoint/checkpoint.ts";
import { openGguf } from "../../../origin/import/sources/gguf.ts";
import { readCheckpoint } from "../../../origin/import/architectures/read-checkpoint.ts";
import { ELEMENT_TYPES, type ExternalTensor, OnnxGraph } from "../../../origin/onnx/onnx-graph.ts";
import { quantizeBlocks } from "../../../origin/import/quantize/quantize-blocks.ts";
import { WeightsFile } from "../../../origin/import/graph/weights-file.ts";

/** By transformers.js's name of a `dtype`: its files' suffix, and the blocks behind it. */
export const PEER_FORMATS = {
  q8: { suffix: "_quantized", blocks: { bits: 8, blockSize: 32, symmetric: true } },
  q4: { suffix: "_q4", blocks: { bits: 4, blockSize: 32, symmetric: true } },
} as const satisfies Record<string, { suffix: string; blocks: BlockFormat }>;
export type PeerFormat = keyof typeof PEER_FORMATS;

/** Raised with any change to what is written. */
const VERSION = "1";

/** Writes the folder unless it is there. */
export async function exportForTransformers(gguf: string, folder: string): Promise<void> {
  const done = join(folder, "exported");
  if (existsSync(done) && readFileSync(done, "utf8") === VERSION) return;
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(join(folder, "onnx"), { recursive: true });
  using file = openGguf(gguf);
  const checkpoint = readCheckpoint(file);
  writeConfig(checkpoint, folder);
  for (const { suffix, blocks } of Object.values(PEER_FORMATS)) {
    const name = `model${suffix}.onnx`;
    using data = new WeightsFile(join(folder, "onnx", `${name}_data`));
    writeFileSync(join(folder, "onnx", name), buildPublishedForm(checkpoint, data, blocks).encode());
  }
  writeFileSync(done, VERSION);
}

function writeConfig({ config }: Checkpoint, folder: string): void {
  const model = {
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    num_hidden_layers: config.layers,
    num_attention_heads: config.queryHeads,
    num_key_value_heads: config.kvHeads,
    head_dim: config.headDim,
    hidden_size: config.hiddenSize,
    intermediate_size: config.ffnSize,
    vocab_size: config.vocabSize,
    max_position_embeddings: config.contextLength,
    is_encoder_decoder: false,
    "transformers.js_config": { use_external_data_format: true },
  };
  writeFileSync(join(folder, "config.json"), JSON.stringify(model));
  // No end token: every answer has the length it was asked for.
  writeFileSync(join(folder, "generation_config.json"), "{}");
}

/** One graph under construction: every part of the decoder writes its weights and its nodes through it. */
class Builder {
  readonly graph = new OnnxGraph();
  readonly #checkpoint: Checkpoint;
  readonly #data: WeightsFile;
  readonly #blocks: BlockFormat;

  constructor(checkpoint: Checkpoint, data: WeightsFile, blocks: BlockFormat) {
    this.#checkpoint = checkpoint;
    this.#data = data;
    this.#blocks = blocks;
  }

  one(opType: string, name: string, inputs: readonly string[], attributes: Attributes = {}): string {
    this.graph.node(opType, name, inputs, { attributes });
    return name;
  }

  fused(opType: string, name: string, inputs: readonly string[], attributes: Attributes): string {
    this.graph.node(opType, name, inputs, { domain: "com.microsoft", attributes });
    return name;
  }

  norm(name: TensorName): string {
    const values = this.#checkpoint.tensor(name);
    return this.graph.external(this.#data.append(name, [values.length], values));
  }

  table(name: string, shape: readonly number[], values: Float32Array): string {
    return this.graph.external(this.#data.append(name, shape, values));
  }

  /** Quantizes matrices that read the same input as one. */
  matrix(name: string, parts: readonly TensorName[], columns: number): Matrix {
    const values = parts.map((part) => this.#checkpoint.tensor(part));
    const joined = new Float32Array(values.reduce((sum, { length }) => sum + length, 0));
    values.reduce((offset, part) => (joined.set(part, offset), offset + part.length), 0);
    const { bits, blockSize } = this.#blocks;
    const [rows, blocks] = [joined.length / columns, Math.ceil(columns / blockSize)];
    const quantized = quantizeBlocks(joined, { rows, columns }, this.#blocks);
    return {
      rows,
      columns,
      packed: this.#data.append(`${name}.packed`, [rows, blocks, (blockSize * bits) / 8], quantized.packed),
      scales: this.#data.append(`${name}.scales`, [rows, blocks], blockScales(quantized)),
    };
  }

  multiply({ rows, columns, packed, scales }: Matrix, input: string, output: string): string {
    const { bits, blockSize } = this.#blocks;
    const inputs = [input, this.graph.external(packed), this.graph.external(scales)];
    const attributes = { K: columns, N: rows, bits, block_size: blockSize, accuracy_level: 4 };
    return this.fused("MatMulNBits", output, inputs, attributes);
  }

  embed({ packed, scales }: Matrix, ids: string): string {
    const { bits, blockSize } = this.#blocks;
    const [rows = 0, blocks = 0, bytes = 0] = packed.shape;
    const table = this.graph.external({ ...packed, name: `${packed.name}.rows`, shape: [rows, blocks * bytes] });
    const attributes = { bits, block_size: blockSize, gather_axis: 0, quantize_axis: 1 };
    return this.fused("GatherBlockQuantized", "embed", [table, ids, this.graph.external(scales)], attributes);
  }
}

type Attributes = Readonly<Record<string, number | { readonly float: number }>>;

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly packed: ExternalTensor;
  readonly scales: ExternalTensor;
}

function buildPublishedForm(checkpoint: Checkpoint, data: WeightsFile, blocks: BlockFormat): OnnxGraph {
  const { config } = checkpoint;
  const { hiddenSize, vocabSize, ffnSize, queryHeads, headDim, normEpsilon } = config;
  const build = new Builder(checkpoint, data, blocks);
  const { graph } = build;
  const ids = graph.input("input_ids", "int64", ["batch_size", "sequence_length"]);
  const shared = declareShared(build, checkpoint);
  const epsilon = { float: normEpsilon };
  const embedding = build.matrix("token_embd", ["token_embd.weight"], hiddenSize);
  const head = config.tiedEmbeddings ? embedding : build.matrix("output", ["output.weight"], hiddenSize);

  const skip = (name: string, tensor: TensorName, residual: string, branch: string): [string, string] => {
    const sum = `${name}.sum`;
    graph.node("SkipSimplifiedLayerNormalization", name, [residual, branch, build.norm(tensor)], {
      domain: "com.microsoft",
      attributes: { epsilon },
      outputs: [name, "", "", sum],
    });
    return [name, sum];
  };

  let residual = build.embed(embedding, ids);
  let branch: string | undefined;
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `blk.${layer}`;
    const tensor = (part: LayerTensor): TensorName => `blk.${layer}.${part}`;
    const weights = (name: string, parts: readonly LayerTensor[], columns: number) =>
      build.matrix(`${at}.${name}`, parts.map(tensor), columns);
    let normed = `${at}.attn_norm`;
    if (branch === undefined) {
      const inputs = [residual, build.norm(tensor("attn_norm.weight"))];
      build.one("SimplifiedLayerNormalization", normed, inputs, { axis: -1, epsilon });
    } else [normed, residual] = skip(normed, tensor("attn_norm.weight"), residual, branch);
    const qkv = build.multiply(
      weights("qkv", ["attn_q.weight", "attn_k.weight", "attn_v.weight"], hiddenSize),
      normed,
      `${at}.qkv.out`,
    );
    const attended = attend(build, checkpoint, { layer, qkv, shared });
    const projected = build.multiply(
      weights("attn_output", ["attn_output.weight"], queryHeads * headDim),
      attended,
      `${at}.attn_output.out`,
    );
    [normed, residual] = skip(`${at}.ffn_norm`, tensor("ffn_norm.weight"), residual, projected);
    const gateUp = build.multiply(
      weights("gate_up", ["ffn_gate.weight", "ffn_up.weight"], hiddenSize),
      normed,
      `${at}.gate_up.out`,
    );
    branch = build.multiply(weights("down", ["ffn_down.weight"], ffnSize), gate(build, at, gateUp), `${at}.down.out`);
  }
  const [normed] = skip("output_norm", "output_norm.weight", residual, branch ?? "");
  const kept = keepLast(build, normed);
  build.multiply(head, kept, "logits");
  graph.output("logits", "float32", ["batch_size", "num_logits_to_keep", vocabSize]);
  return graph;
}

interface Shared {
  readonly lengths: string;
  readonly total: string;
  readonly cos: string;
  readonly sin: string;
}

/** The inputs besides the ids, and what attention wants to know of them. */
function declareShared(build: Builder, { config }: Checkpoint): Shared {
  const { graph } = build;
  const mask = graph.input("attention_mask", "int64", ["batch_size", "total_sequence_length"]);
  const axis = graph.constant("mask.axis", [1]);
  const sum = build.one("ReduceSum", "mask.sum", [mask, axis], { keepdims: 0 });
  const last = build.one("Sub", "mask.last", [sum, graph.constant("mask.one", [1])]);
  const lengths = build.one("Cast", "seqlens_k", [last], { to: ELEMENT_TYPES.int32 });
  const shape = build.one("Shape", "mask.shape", [mask]);
  const width = build.one("Gather", "mask.width", [shape, axis]);
  const scalar = build.one("Squeeze", "mask.length", [width]);
  const total = build.one("Cast", "total_length", [scalar], { to: ELEMENT_TYPES.int32 });
  const { contextLength, attention } = config;
  const frequencies = attention[0]?.rope.frequencies ?? [];
  const pairs = frequencies.length;
  const angles = (wave: (angle: number) => number) =>
    Float32Array.from({ length: contextLength * pairs }, (_, index) =>
      wave(Math.floor(index / pairs) * (frequencies[index % pairs] ?? 0)),
    );
  const cos = build.table("rope.cos", [contextLength, pairs], angles(Math.cos));
  const sin = build.table("rope.sin", [contextLength, pairs], angles(Math.sin));
  return { lengths, total, cos, sin };
}

function attend(
  { graph }: Builder,
  { config }: Checkpoint,
  { layer, qkv, shared }: { readonly layer: number; readonly qkv: string; readonly shared: Shared },
): string {
  const { queryHeads, kvHeads, headDim } = config;
  const names = (side: string) => [`${side}.${layer}.key`, `${side}.${layer}.value`] as const;
  const [pastKey, pastValue] = names("past_key_values");
  const [key, value] = names("present");
  for (const past of [pastKey, pastValue]) {
    graph.input(past, "float32", ["batch_size", kvHeads, "past_sequence_length", headDim]);
  }
  for (const present of [key, value]) {
    graph.output(present, "float32", ["batch_size", kvHeads, "total_sequence_length", headDim]);
  }
  const name = `blk.${layer}.attn`;
  const { lengths, total, cos, sin } = shared;
  graph.node("GroupQueryAttention", name, [qkv, "", "", pastKey, pastValue, lengths, total, cos, sin], {
    domain: "com.microsoft",
    attributes: { num_heads: queryHeads, kv_num_heads: kvHeads, do_rotary: 1, rotary_interleaved: 0 },
    outputs: [name, key, value],
  });
  return name;
}

function gate(build: Builder, at: string, gateUp: string): string {
  const [left, right] = [`${at}.gate`, `${at}.up`];
  build.graph.node("Split", left, [gateUp], { outputs: [left, right], attributes: { axis: -1, num_outputs: 2 } });
  const silu = build.fused("QuickGelu", `${at}.silu`, [left], { alpha: { float: 1 } });
  return build.one("Mul", `${at}.gated`, [silu, right]);
}

/** The last `num_logits_to_keep` tokens; all of them for 0, because a slice from −0 is the whole. */
function keepLast(build: Builder, hidden: string): string {
  const { graph } = build;
  const keep = graph.input("num_logits_to_keep", "int64", []);
  const negative = build.one("Neg", "keep.from", [keep]);
  const from = build.one("Unsqueeze", "keep.start", [negative, graph.constant("keep.axes", [0])]);
  const to = graph.constant("keep.end", [2 ** 31 - 1]);
  return build.one("Slice", "kept", [hidden, from, to, graph.constant("keep.axis", [1])]);
}
