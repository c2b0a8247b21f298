/**
 * Writes an encoder as ONNX: one graph, and one file of weights. Says which operators compute a layer; knows neither where
 * the weights come from nor who runs them.
 *
 *   tokens, mask  [rows, length]  texts side by side, the shorter ones filled up; `mask` is 1 where a token is the text's
 *   positions     [length]        0, 1, 2, …
 *   weights       [rows, 1, length]  how much of each token's last state goes into the text's vector
 *   vectors       [rows, 1, hiddenSize]
 *
 * So pooling is a product: the mean and `[CLS]` are two kinds of weights, and only vectors leave the graph.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ENCODER_FILE, WEIGHTS_FILE } from "../../manifest/manifest.ts";
import type {
  EncoderCheckpoint,
  EncoderConfig,
  EncoderMatrixName,
  EncoderProjection,
  EncoderVectorName,
} from "../encoder-checkpoint.ts";
import { type ExternalTensor, OnnxGraph } from "../../onnx/onnx-graph.ts";
import { matrixBytes, type MatrixKind, type WeightFormat } from "../quantize.ts";
import { WeightsFile } from "../weights-file.ts";
import { embed } from "./embedding.ts";
import { multiply } from "./multiply.ts";
import { one } from "./nodes.ts";
import { type Matrix, writeMatrix } from "./weights.ts";

export interface EncoderGraphOptions {
  /** An existing folder; the graph and `model.onnx.data` are written to it. */
  readonly folder: string;
  readonly format: WeightFormat;
  /** Told after every matrix. */
  readonly onProgress?: (done: number, total: number) => void;
}

interface Affine {
  readonly matrix: Matrix;
  readonly bias: ExternalTensor;
}
interface Norm {
  readonly gain: ExternalTensor;
  readonly bias: ExternalTensor;
}
interface EncoderLayer {
  readonly qkv: Affine;
  readonly attentionOutput: Affine;
  readonly attentionNorm: Norm;
  readonly up: Affine;
  readonly down: Affine;
  readonly outputNorm: Norm;
}
interface EncoderWeights {
  readonly embedding: Matrix;
  /** By position, the first token type's added. */
  readonly positions: ExternalTensor;
  readonly embeddingNorm: Norm;
  readonly layers: readonly EncoderLayer[];
}

/** Writes the graph and the weights. Holds a piece of one matrix in memory at a time. */
export function writeEncoderGraph(checkpoint: EncoderCheckpoint, options: EncoderGraphOptions): void {
  const weights = writeWeights(checkpoint, options);
  writeFileSync(join(options.folder, ENCODER_FILE), buildEncoder(checkpoint.config, weights).encode());
}

/** What that takes on disk, but for vectors and the gaps between weights: some thousandths. */
export function encoderBytes(
  { layers, hiddenSize, ffnSize, vocabSize, contextLength }: EncoderConfig,
  { matrices }: WeightFormat,
): number {
  const of = (rows: number, columns: number, kind: MatrixKind): number =>
    matrixBytes({ rows, columns }, matrices[kind]);
  const attention = of(4 * hiddenSize, hiddenSize, "attention");
  const feedForward = of(ffnSize, hiddenSize, "up") + of(hiddenSize, ffnSize, "down");
  const positions = contextLength * hiddenSize * Float32Array.BYTES_PER_ELEMENT;
  return layers * (attention + feedForward) + of(vocabSize, hiddenSize, "head") + positions;
}

function writeWeights(
  checkpoint: EncoderCheckpoint,
  { folder, format, onProgress }: EncoderGraphOptions,
): EncoderWeights {
  const { layers, hiddenSize, ffnSize, contextLength } = checkpoint.config;
  let done = 0;
  using file = new WeightsFile(join(folder, WEIGHTS_FILE));

  const vector = (name: string, parts: readonly EncoderVectorName[]): ExternalTensor => {
    const values = parts.map((part) => checkpoint.tensor(part));
    const place = file.reserve(name, "float32", [values.reduce((sum, { length }) => sum + length, 0)]);
    for (const part of values) place.write(part);
    return place.tensor;
  };
  const matrix = (
    name: string,
    { parts, columns, kind }: { parts: readonly EncoderMatrixName[]; columns: number; kind: MatrixKind },
  ): Matrix => {
    const sources = parts.map((part) => checkpoint.matrix(part));
    const written = writeMatrix(file, { name, sources, columns, format: format.matrices[kind] });
    onProgress?.(++done, layers * 4 + 1);
    return written;
  };
  const norm = (name: "token_embd_norm" | `blk.${number}.${"attn_output_norm" | "layer_output_norm"}`): Norm => ({
    gain: vector(name, [`${name}.weight`]),
    bias: vector(`${name}.bias`, [`${name}.bias`]),
  });

  const embedding = matrix("token_embd", { parts: ["token_embd.weight"], columns: hiddenSize, kind: "head" });
  const positions = file.append("position_embd", [contextLength, hiddenSize], positionTable(checkpoint));
  const embeddingNorm = norm("token_embd_norm");
  const all = Array.from({ length: layers }, (_, layer): EncoderLayer => {
    const affine = (name: string, parts: readonly EncoderProjection[], columns: number, kind: MatrixKind): Affine => ({
      matrix: matrix(`blk.${layer}.${name}`, {
        parts: parts.map((part): EncoderMatrixName => `blk.${layer}.${part}.weight`),
        columns,
        kind,
      }),
      bias: vector(
        `blk.${layer}.${name}.bias`,
        parts.map((part): EncoderVectorName => `blk.${layer}.${part}.bias`),
      ),
    });
    return {
      qkv: affine("attn_qkv", ["attn_q", "attn_k", "attn_v"], hiddenSize, "attention"),
      attentionOutput: affine("attn_output", ["attn_output"], hiddenSize, "attention"),
      attentionNorm: norm(`blk.${layer}.attn_output_norm`),
      up: affine("ffn_up", ["ffn_up"], hiddenSize, "up"),
      down: affine("ffn_down", ["ffn_down"], ffnSize, "down"),
      outputNorm: norm(`blk.${layer}.layer_output_norm`),
    };
  });
  return { embedding, positions, embeddingNorm, layers: all };
}

/** A text by itself is of the first type throughout, so that its embedding is part of every position's. */
function positionTable(checkpoint: EncoderCheckpoint): Float32Array {
  const { hiddenSize } = checkpoint.config;
  const type = checkpoint.tensor("token_types.weight").subarray(0, hiddenSize);
  return checkpoint.tensor("position_embd.weight").map((value, i) => value + (type[i % hiddenSize] ?? 0));
}

function buildEncoder(config: EncoderConfig, weights: EncoderWeights): OnnxGraph {
  const graph = new OnnxGraph("encoder");
  const tokens = graph.input("tokens", "int32", ["rows", "length"]);
  const mask = graph.input("mask", "int32", ["rows", "length"]);
  const positions = graph.input("positions", "int32", ["length"]);
  const pooling = graph.input("weights", "float32", ["rows", 1, "length"]);

  const words = embed(graph, { embeddingScale: 1 }, weights.embedding, tokens);
  const places = one(graph.node("Gather", "embed.positions", [graph.external(weights.positions), positions]));
  const embedded = one(graph.node("Add", "embed.placed", [words, places]));
  let state = applyNorm(graph, config, "embed.norm", weights.embeddingNorm, embedded);
  for (const [layer, parts] of weights.layers.entries()) {
    const at = `blk.${layer}`;
    const projected = applyAffine(graph, `${at}.qkv`, parts.qkv, state);
    const attended = attend(graph, config, at, { projected, mask });
    const output = applyAffine(graph, `${at}.attn_output`, parts.attentionOutput, attended);
    state = addAndNorm(graph, config, `${at}.attn_norm`, parts.attentionNorm, [state, output]);
    const up = applyAffine(graph, `${at}.ffn_up`, parts.up, state);
    const down = applyAffine(graph, `${at}.ffn_down`, parts.down, activate(graph, config, at, up));
    state = addAndNorm(graph, config, `${at}.output_norm`, parts.outputNorm, [state, down]);
  }
  graph.node("MatMul", "vectors", [pooling, state]);
  graph.output("vectors", "float32", ["rows", 1, config.hiddenSize]);
  return graph;
}

/** Each token looks at all the others of its text. */
function attend(
  graph: OnnxGraph,
  { heads }: EncoderConfig,
  at: string,
  { projected, mask }: { readonly projected: string; readonly mask: string },
): string {
  const parts = graph.node("Split", `${at}.parts`, [projected], {
    outputs: 3,
    attributes: { axis: -1, num_outputs: 3 },
  });
  return one(
    graph.node("MultiHeadAttention", `${at}.attn`, [...parts, "", mask], {
      domain: "com.microsoft",
      attributes: { num_heads: heads },
    }),
  );
}

function applyAffine(graph: OnnxGraph, name: string, { matrix, bias }: Affine, input: string): string {
  return one(graph.node("Add", `${name}.biased`, [multiply(graph, "float32", matrix, input), graph.external(bias)]));
}

function activate(graph: OnnxGraph, { activation }: EncoderConfig, at: string, value: string): string {
  const type = activation === "gelu" ? "Gelu" : "FastGelu";
  return one(graph.node(type, `${at}.gelu`, [value], { domain: "com.microsoft" }));
}

function applyNorm(
  graph: OnnxGraph,
  { normEpsilon }: EncoderConfig,
  name: string,
  { gain, bias }: Norm,
  value: string,
): string {
  const attributes = { axis: -1, epsilon: { float: normEpsilon } };
  return one(
    graph.node("LayerNormalization", name, [value, graph.external(gain), graph.external(bias)], { attributes }),
  );
}

/** Layer norm of the sum. */
function addAndNorm(
  graph: OnnxGraph,
  { normEpsilon }: EncoderConfig,
  name: string,
  { gain, bias }: Norm,
  [residual, branch]: readonly [string, string],
): string {
  return one(
    graph.node("SkipLayerNormalization", name, [residual, branch, graph.external(gain), graph.external(bias)], {
      domain: "com.microsoft",
      attributes: { epsilon: { float: normEpsilon } },
    }),
  );
}
