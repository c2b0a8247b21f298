/**
 * Writes a Llama-family decoder as ONNX: the graph of a plain step, the graph of a mixed step, and one file of weights
 * that all refer to. Says which operators compute a layer; knows neither where the weights come from nor who runs them.
 *
 * Both graphs share everything but attention:
 *
 *   plain   tokens [rows, length]: `rows` running rows of one token, or one row of a prompt's chunk
 *   mixed   tokens [1, rows + chunk]: all running rows and one prompt's chunk; attention sees them apart, through two
 *           views of one KV slab, and everything else sees `rows + chunk` tokens at once
 *
 * Keys and values are inputs and outputs of the graph. Given the same buffer for both, attention appends in place.
 * Both are written once more with attention in `float16`, keys and values too: the CUDA provider has no other. The CPU is
 * fastest in `float32` throughout.
 *
 * `sampled` names the tokens, by their place in the run, that logits are wanted of: only those go through the last
 * layer's feed-forward part and the LM head.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  DECODER_FILE,
  HALF_DECODER_FILE,
  HALF_MIXED_DECODER_FILE,
  MIXED_DECODER_FILE,
  WEIGHTS_FILE,
} from "../manifest.ts";
import type { Checkpoint, DecoderConfig, LayerTensor, TensorName } from "./checkpoint.ts";
import { ELEMENT_TYPES, type ExternalTensor, OnnxGraph } from "./onnx.ts";
import { type BlockFormat, type MatrixShape, quantizeBlocks, type WeightFormat } from "./quantize.ts";
import { rotateCheckpoint } from "./rotate.ts";
import { WeightsFile } from "./weights-file.ts";

export interface DecoderGraphOptions {
  /** An existing folder; the graphs and `model.onnx.data` are written to it. */
  readonly folder: string;
  readonly format: WeightFormat;
  /** Told after every matrix. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Writes the graphs and the weights. Holds one matrix in memory at a time. */
export function writeDecoderGraph(checkpoint: Checkpoint, options: DecoderGraphOptions): void {
  const { folder, format, onProgress } = options;
  const source = format.rotated ? rotateCheckpoint(checkpoint) : checkpoint;
  const weights = writeWeights(source, join(folder, WEIGHTS_FILE), format, onProgress);
  const { config } = checkpoint;
  const write = (file: string, attention: Attention, type: AttentionType): void =>
    writeFileSync(join(folder, file), buildDecoder(config, weights, attention, type).encode());
  write(DECODER_FILE, plainAttention, "float32");
  write(MIXED_DECODER_FILE, mixedAttention, "float32");
  write(HALF_DECODER_FILE, plainAttention, "float16");
  write(HALF_MIXED_DECODER_FILE, mixedAttention, "float16");
}

/** A matrix on disk. */
interface Matrix extends MatrixShape {
  readonly name: string;
  readonly stored:
    | { readonly kind: "dense"; readonly values: ExternalTensor }
    | {
        readonly kind: "blocks";
        readonly format: BlockFormat;
        readonly packed: ExternalTensor;
        readonly scales: ExternalTensor;
        readonly zeroPoints: ExternalTensor | undefined;
      };
}

interface Weights {
  readonly embedding: Matrix;
  readonly head: Matrix;
  readonly layers: readonly {
    readonly attentionNorm: ExternalTensor;
    readonly qkv: Matrix;
    readonly attentionOutput: Matrix;
    readonly ffnNorm: ExternalTensor;
    readonly gateUp: Matrix;
    readonly down: Matrix;
  }[];
  readonly outputNorm: ExternalTensor;
  readonly cos: ExternalTensor;
  readonly sin: ExternalTensor;
}

function writeWeights(
  checkpoint: Checkpoint,
  path: string,
  format: WeightFormat,
  onProgress: DecoderGraphOptions["onProgress"],
): Weights {
  const { config } = checkpoint;
  const { hiddenSize, ffnSize } = config;
  const attentionSize = config.queryHeads * config.headDim;
  const total = config.layers * 4 + (config.tiedEmbeddings ? 1 : 2);
  let done = 0;
  using file = new WeightsFile(path);

  const norm = (name: TensorName): ExternalTensor => file.append(name, [hiddenSize], checkpoint.tensor(name));
  const matrix = (name: string, parts: readonly TensorName[], columns: number, kind: "body" | "head"): Matrix => {
    const written = writeMatrix(file, name, joinRows(checkpoint, parts), columns, format[kind]);
    onProgress?.(++done, total);
    return written;
  };

  const embedding = matrix("token_embd", ["token_embd.weight"], hiddenSize, "head");
  const layers = Array.from({ length: config.layers }, (_, layer) => {
    const tensor = (part: LayerTensor): TensorName => `blk.${layer}.${part}.weight`;
    const body = (name: string, parts: readonly LayerTensor[], columns: number): Matrix =>
      matrix(`blk.${layer}.${name}`, parts.map(tensor), columns, "body");
    return {
      attentionNorm: norm(tensor("attn_norm")),
      qkv: body("attn_qkv", ["attn_q", "attn_k", "attn_v"], hiddenSize),
      attentionOutput: body("attn_output", ["attn_output"], attentionSize),
      ffnNorm: norm(tensor("ffn_norm")),
      gateUp: body("ffn_gate_up", ["ffn_gate", "ffn_up"], hiddenSize),
      down: body("ffn_down", ["ffn_down"], ffnSize),
    };
  });
  return {
    embedding,
    layers,
    outputNorm: norm("output_norm.weight"),
    head: config.tiedEmbeddings ? embedding : matrix("output", ["output.weight"], hiddenSize, "head"),
    cos: file.append("rope.cos", rotationShape(config), rotations(config, Math.cos)),
    sin: file.append("rope.sin", rotationShape(config), rotations(config, Math.sin)),
  };
}

/** Stacks matrices that read the same input, so that one multiplication computes them all. */
function joinRows(checkpoint: Checkpoint, names: readonly TensorName[]): Float32Array {
  const parts = names.map((name) => checkpoint.tensor(name));
  const [first] = parts;
  if (first !== undefined && parts.length === 1) return first;
  const joined = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    joined.set(part, offset);
    offset += part.length;
  }
  return joined;
}

function writeMatrix(
  file: WeightsFile,
  name: string,
  values: Float32Array,
  columns: number,
  format: BlockFormat | "fp32",
): Matrix {
  const rows = values.length / columns;
  if (format === "fp32") {
    return { name, rows, columns, stored: { kind: "dense", values: file.append(name, [rows, columns], values) } };
  }
  const { packed, scales, zeroPoints } = quantizeBlocks(values, { rows, columns }, format);
  const blocks = Math.ceil(columns / format.blockSize);
  const blockBytes = (format.blockSize * format.bits) / 8;
  return {
    name,
    rows,
    columns,
    stored: {
      kind: "blocks",
      format,
      packed: file.append(`${name}.packed`, [rows, blocks, blockBytes], packed),
      scales: file.append(`${name}.scales`, [rows, blocks], scales),
      zeroPoints: zeroPoints && file.append(`${name}.zero_points`, [rows, zeroPoints.length / rows], zeroPoints),
    },
  };
}

function rotationShape({ contextLength, headDim }: DecoderConfig): readonly number[] {
  return [contextLength, headDim / 2];
}

/** The cosine or sine of every position's rotation of every pair. */
function rotations({ contextLength, ropeFrequencies }: DecoderConfig, wave: (angle: number) => number): Float32Array {
  const pairs = ropeFrequencies.length;
  return Float32Array.from({ length: contextLength * pairs }, (_, index) =>
    wave(Math.floor(index / pairs) * (ropeFrequencies[index % pairs] ?? 0)),
  );
}

/** The number type of attention, keys and values; everything else is `float32`. */
type AttentionType = "float32" | "float16";

/** What every attention of a graph needs. */
interface AttentionParts {
  readonly config: DecoderConfig;
  readonly type: AttentionType;
  /** The rotations, of that type. */
  readonly cos: string;
  readonly sin: string;
}

/** The attention of one layer: from `[1 or rows, tokens, qkvSize]` to `[1 or rows, tokens, queryHeads * headDim]`. */
type Attention = (graph: OnnxGraph, parts: AttentionParts, layer: number, qkv: string) => string;

function buildDecoder(
  config: DecoderConfig,
  weights: Weights,
  attention: Attention,
  attentionType: AttentionType,
): OnnxGraph {
  const graph = new OnnxGraph();
  const mixed = attention === mixedAttention;
  const tokens = graph.input("tokens", "int32", mixed ? [1, "tokens"] : ["rows", "length"]);
  const sampled = graph.input("sampled", "int32", ["sampled"]);
  if (mixed) {
    graph.input("split", "int64", [2]);
    declareAttention(graph, "decode.", "rows");
    declareAttention(graph, "prefill.", 1);
  } else declareAttention(graph, "", "rows");

  const cast = (value: string, to: AttentionType): string =>
    attentionType === "float32"
      ? value
      : one(graph.node("Cast", `${value}.${to}`, [value], { attributes: { to: ELEMENT_TYPES[to] } }));
  const [cos, sin] = [weights.cos, weights.sin].map((table) => cast(graph.external(table), attentionType)) as [
    string,
    string,
  ];
  const attendAs = (layer: number, qkv: string): string => {
    const attended = attention(graph, { config, type: attentionType, cos, sin }, layer, cast(qkv, attentionType));
    return cast(attended, "float32");
  };

  let residual = embed(graph, weights.embedding, tokens);
  let branch: string | undefined;
  for (const [layer, parts] of weights.layers.entries()) {
    const at = `blk.${layer}`;
    let normed: string;
    [normed, residual] = addAndNorm(graph, config, `${at}.attn_norm`, parts.attentionNorm, residual, branch);
    let attended = attendAs(layer, multiply(graph, parts.qkv, normed));
    // After the last attention no token looks at another one, so that the rest are done with.
    if (layer === weights.layers.length - 1) {
      attended = takeSampled(graph, `${at}.attended`, attended, sampled, config.queryHeads * config.headDim);
      residual = takeSampled(graph, `${at}.residual`, residual, sampled, config.hiddenSize);
    }
    const mixedIn = multiply(graph, parts.attentionOutput, attended);
    [normed, residual] = addAndNorm(graph, config, `${at}.ffn_norm`, parts.ffnNorm, residual, mixedIn);
    branch = multiply(graph, parts.down, gate(graph, at, multiply(graph, parts.gateUp, normed)));
  }
  const [normed] = addAndNorm(graph, config, "output_norm", weights.outputNorm, residual, branch);
  multiply(graph, weights.head, normed, "logits");
  graph.output("logits", "float32", [1, "sampled", config.vocabSize]);
  return graph;
}

/** Rows of the embedding table. Where it is quantized, the table is the very bytes a tied LM head multiplies by. */
function embed(graph: OnnxGraph, embedding: Matrix, tokens: string): string {
  const { stored } = embedding;
  if (stored.kind === "dense") return one(graph.node("Gather", "embed", [graph.external(stored.values), tokens]));
  const { bits, blockSize } = stored.format;
  const { packed } = stored;
  const [rows = 0, blocks = 0, blockBytes = 0] = packed.shape;
  // GatherBlockQuantized wants the codes as a matrix, MatMulNBits as blocks: two shapes of one place in the file.
  const table = graph.external({ ...packed, name: `${packed.name}.rows`, shape: [rows, blocks * blockBytes] });
  const inputs = [table, tokens, graph.external(stored.scales)];
  if (stored.zeroPoints !== undefined) inputs.push(graph.external(stored.zeroPoints));
  const embedded = one(
    graph.node("GatherBlockQuantized", "embed", inputs, {
      domain: "com.microsoft",
      attributes: { bits, block_size: blockSize, gather_axis: 0, quantize_axis: 1 },
    }),
  );
  if (blocks * blockSize === embedding.columns) return embedded;
  const [from, to] = [graph.constant("embed.from", [0]), graph.constant("embed.to", [embedding.columns])];
  return one(graph.node("Slice", "embed.unpadded", [embedded, from, to, graph.constant("embed.axis", [-1])]));
}

/** RMS norm of `residual + branch`: the normed values and the sum. */
function addAndNorm(
  graph: OnnxGraph,
  { normEpsilon }: DecoderConfig,
  name: string,
  gamma: ExternalTensor,
  residual: string,
  branch: string | undefined,
): [normed: string, sum: string] {
  const epsilon = { float: normEpsilon };
  if (branch === undefined) {
    const inputs = [residual, graph.external(gamma)];
    const attributes = { axis: -1, epsilon };
    return [one(graph.node("SimplifiedLayerNormalization", name, inputs, { attributes })), residual];
  }
  const sum = `${name}.sum`;
  graph.node("SkipSimplifiedLayerNormalization", name, [residual, branch, graph.external(gamma)], {
    domain: "com.microsoft",
    attributes: { epsilon },
    outputs: [name, "", "", sum],
  });
  return [name, sum];
}

/** SwiGLU: silu(gate) * up, of the two halves of the last dimension. */
function gate(graph: OnnxGraph, at: string, gateUp: string): string {
  const [left, right] = graph.node("Split", `${at}.gate`, [gateUp], {
    outputs: 2,
    attributes: { axis: -1, num_outputs: 2 },
  }) as [string, string];
  // QuickGelu is x * sigmoid(alpha * x): with alpha 1 that is SiLU, in one kernel.
  const attributes = { alpha: { float: 1 } };
  const silu = one(graph.node("QuickGelu", `${at}.silu`, [left], { domain: "com.microsoft", attributes }));
  return one(graph.node("Mul", `${at}.gated`, [silu, right]));
}

function multiply(graph: OnnxGraph, matrix: Matrix, input: string, output = `${matrix.name}.out`): string {
  const { stored, rows: N, columns: K } = matrix;
  if (stored.kind === "dense") {
    const inputs = [input, graph.external(stored.values)];
    return one(graph.node("FusedMatMul", output, inputs, { domain: "com.microsoft", attributes: { transB: 1 } }));
  }
  const inputs = [input, graph.external(stored.packed), graph.external(stored.scales)];
  if (stored.zeroPoints !== undefined) inputs.push(graph.external(stored.zeroPoints));
  const { bits, blockSize } = stored.format;
  // Level 4 multiplies in int8. With less, 8-bit weights take a path that is 25 times slower.
  const attributes = { K, N, bits, block_size: blockSize, accuracy_level: 4 };
  return one(graph.node("MatMulNBits", output, inputs, { domain: "com.microsoft", attributes }));
}

/** The sampled tokens of `[any, any, size]`, as `[1, sampled, size]`. */
function takeSampled(graph: OnnxGraph, name: string, value: string, sampled: string, size: number): string {
  const flat = one(graph.node("Reshape", `${name}.flat`, [value, graph.constant(`flat.${size}`, [1, -1, size])]));
  return one(graph.node("Gather", `${name}.sampled`, [flat, sampled], { attributes: { axis: 1 } }));
}

/** The inputs that attention over one view of the KV slab takes besides the slab. */
function declareAttention(graph: OnnxGraph, view: string, rows: number | string): void {
  graph.input(`${view}seqlens_k`, "int32", [rows]);
  graph.input(`${view}total_length`, "int32", []);
}

/** Attention of one view: reads and appends keys and values of the rows it is given. */
function attend(
  graph: OnnxGraph,
  { config, type, cos, sin }: AttentionParts,
  options: { readonly layer: number; readonly view: string; readonly rows: number | string; readonly qkv: string },
): string {
  const { queryHeads, kvHeads, headDim } = config;
  const { layer, view, rows, qkv } = options;
  const slab = [rows, kvHeads, "capacity", headDim];
  const [key, value] = [`${view}past_key.${layer}`, `${view}past_value.${layer}`];
  const [newKey, newValue] = [`${view}present_key.${layer}`, `${view}present_value.${layer}`];
  for (const past of [key, value]) graph.input(past, type, slab);
  for (const present of [newKey, newValue]) graph.output(present, type, slab);
  const name = `${view}blk.${layer}.attn`;
  const lengths = [`${view}seqlens_k`, `${view}total_length`];
  graph.node("GroupQueryAttention", name, [qkv, "", "", key, value, ...lengths, cos, sin], {
    domain: "com.microsoft",
    attributes: { num_heads: queryHeads, kv_num_heads: kvHeads, do_rotary: 1, rotary_interleaved: 0 },
    outputs: [name, newKey, newValue],
  });
  return name;
}

function plainAttention(graph: OnnxGraph, parts: AttentionParts, layer: number, qkv: string): string {
  return attend(graph, parts, { layer, view: "", rows: "rows", qkv });
}

/** Running rows and the chunk part here, `[1, rows + chunk, …]` → `[rows, 1, …]` and `[1, chunk, …]`, and join again. */
function mixedAttention(graph: OnnxGraph, parts: AttentionParts, layer: number, qkv: string): string {
  const { queryHeads, kvHeads, headDim } = parts.config;
  const at = `blk.${layer}`;
  const [ones, chunk] = graph.node("Split", `${at}.split`, [qkv, "split"], {
    outputs: 2,
    attributes: { axis: 1 },
  }) as [string, string];
  const qkvSize = (queryHeads + 2 * kvHeads) * headDim;
  const asRows = graph.constant("as_rows", [-1, 1, qkvSize]);
  const rows = one(graph.node("Reshape", `${at}.rows`, [ones, asRows]));
  const decoded = attend(graph, parts, { layer, view: "decode.", rows: "rows", qkv: rows });
  const prefilled = attend(graph, parts, { layer, view: "prefill.", rows: 1, qkv: chunk });
  const asTokens = graph.constant("as_tokens", [1, -1, queryHeads * headDim]);
  const decodedTokens = one(graph.node("Reshape", `${at}.tokens`, [decoded, asTokens]));
  return one(graph.node("Concat", `${at}.joined`, [decodedTokens, prefilled], { attributes: { axis: 1 } }));
}

function one(outputs: readonly string[]): string {
  return outputs[0]!;
}
