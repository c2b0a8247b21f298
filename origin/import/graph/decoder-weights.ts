/// <reference lib="esnext.float16" />
/** A decoder's weights, stacked as the graph multiplies by them, with the tables of its rotary embeddings. */
import type { MatrixKind, WeightFormat } from "../../onnx/weight-formats.ts";
import type { Checkpoint, DecoderConfig, LayerTensor, Rope, TensorName } from "../checkpoint/checkpoint.ts";
import type { ExternalTensor } from "../../onnx/onnx-graph.ts";
import { matrixBytes } from "../quantize/quantize-blocks.ts";
import { gatedBlock } from "../quantize/rotate.ts";
import type { RowSource } from "../checkpoint/rows.ts";
import { type Matrix, writeHalfMatrix, writeMatrix } from "./matrix.ts";
import type { WeightsFile } from "./weights-file.ts";
import { type OnMatrixWritten, WeightsWriter } from "./weights-writer.ts";

/** Each layer is written as four matrices. */
const LAYER_MATRICES = 4;

/** All weights of a decoder, on disk. */
export interface DecoderWeights {
  readonly embedding: Matrix;
  readonly head: Matrix;
  readonly layers: readonly LayerWeights[];
  readonly outputNorm: ExternalTensor;
  /** `float16`; see `Checkpoint.beforeHead`. */
  readonly beforeHead: ExternalTensor | undefined;
}

/** The weights of one layer; undefined where the architecture has none. */
export interface LayerWeights {
  readonly rotations: RotationTables;
  readonly attentionNorm: ExternalTensor;
  readonly qkv: Matrix;
  readonly qkvBias: ExternalTensor | undefined;
  readonly headNorms: { readonly query: ExternalTensor; readonly key: ExternalTensor } | undefined;
  readonly attentionOutput: Matrix;
  readonly attentionPostNorm: ExternalTensor | undefined;
  readonly ffnNorm: ExternalTensor;
  readonly gateUp: Matrix;
  /** Matrix that every block of the inputs of `down` is multiplied by first; all layers share it. */
  readonly beforeDown: Matrix | undefined;
  readonly down: Matrix;
  readonly ffnPostNorm: ExternalTensor | undefined;
}

/** Cosine and sine of every position's rotations: `[contextLength, headDim / 2]` each. Layers with the same RoPE share them. */
interface RotationTables {
  readonly cos: ExternalTensor;
  readonly sin: ExternalTensor;
}

interface DecoderWeightsOptions {
  readonly path: string;
  readonly format: WeightFormat;
  readonly onProgress: OnMatrixWritten | undefined;
}

/** Writes a decoder's weights. Holds one piece of one matrix in memory at a time. */
export function writeDecoderWeights(checkpoint: Checkpoint, options: DecoderWeightsOptions): DecoderWeights {
  const { layers, tiedEmbeddings } = checkpoint.config;
  const matrices = layers * LAYER_MATRICES + (tiedEmbeddings ? 1 : 2);
  using writer = new WeightsWriter({ ...options, matrices });
  return new DecoderWeightsWriter(checkpoint, writer).write();
}

class DecoderWeightsWriter {
  readonly #checkpoint: Checkpoint;
  readonly #writer: WeightsWriter;

  constructor(checkpoint: Checkpoint, writer: WeightsWriter) {
    this.#checkpoint = checkpoint;
    this.#writer = writer;
  }

  write(): DecoderWeights {
    const { config, beforeHead, beforeDown } = this.#checkpoint;
    const { hiddenSize, tiedEmbeddings } = config;
    const { file } = this.#writer;
    const rotations = this.#writeRotations();
    const embedding = this.#matrix("token_embd", ["token_embd.weight"], hiddenSize, "head");
    const square = beforeDown && writeSquare(file, "before_down", beforeDown);
    return {
      embedding,
      layers: rotations.map((tables, layer) => this.#layer(layer, tables, square)),
      outputNorm: this.#norm("output_norm.weight"),
      beforeHead: beforeHead && writeHalfMatrix(file, "before_head", beforeHead),
      head: tiedEmbeddings ? embedding : this.#matrix("output", ["output.weight"], hiddenSize, "head"),
    };
  }

  #layer(layer: number, rotations: RotationTables, beforeDown: Matrix | undefined): LayerWeights {
    const { hiddenSize, ffnSize, queryHeads, headDim, qkvBias, qkNorm, postNorms } = this.#checkpoint.config;
    const named = (part: LayerTensor): TensorName => `blk.${layer}.${part}`;
    const norm = (part: LayerTensor): ExternalTensor => this.#norm(named(part));
    const stacked = (name: string, parts: readonly LayerTensor[], columns: number, kind: MatrixKind): Matrix =>
      this.#matrix(`blk.${layer}.${name}`, parts.map(named), columns, kind);
    const biases: readonly LayerTensor[] = ["attn_q.bias", "attn_k.bias", "attn_v.bias"];
    return {
      rotations,
      attentionNorm: norm("attn_norm.weight"),
      qkv: stacked("attn_qkv", ["attn_q.weight", "attn_k.weight", "attn_v.weight"], hiddenSize, "attention"),
      qkvBias: qkvBias ? this.#vector(`blk.${layer}.attn_qkv.bias`, biases.map(named)) : undefined,
      headNorms: qkNorm ? { query: norm("attn_q_norm.weight"), key: norm("attn_k_norm.weight") } : undefined,
      attentionOutput: stacked("attn_output", ["attn_output.weight"], queryHeads * headDim, "attention"),
      attentionPostNorm: postNorms ? norm("post_attention_norm.weight") : undefined,
      ffnNorm: norm("ffn_norm.weight"),
      gateUp: stacked("ffn_gate_up", ["ffn_gate.weight", "ffn_up.weight"], hiddenSize, "up"),
      beforeDown,
      down: stacked("ffn_down", ["ffn_down.weight"], ffnSize, "down"),
      ffnPostNorm: postNorms ? norm("post_ffw_norm.weight") : undefined,
    };
  }

  #norm(name: TensorName): ExternalTensor {
    return this.#vector(name, [name]);
  }

  #vector(name: string, parts: readonly TensorName[]): ExternalTensor {
    return this.#writer.vector(
      name,
      parts.map((part) => this.#checkpoint.tensor(part)),
    );
  }

  #matrix(name: string, parts: readonly TensorName[], columns: number, kind: MatrixKind): Matrix {
    const sources = parts.map((part) => this.#checkpoint.matrix(part));
    return this.#writer.matrix(name, { sources, columns, kind });
  }

  /** @returns one entry per layer */
  #writeRotations(): readonly RotationTables[] {
    const { attention, contextLength } = this.#checkpoint.config;
    const written = new Map<Rope, RotationTables>();
    return attention.map(({ rope }) => {
      const known = written.get(rope);
      if (known !== undefined) return known;
      const name = written.size === 0 ? "rope" : `rope.${written.size}`;
      const shape = [contextLength, rope.frequencies.length];
      const append = (part: string, wave: (angle: number) => number): ExternalTensor =>
        this.#writer.file.append(`${name}.${part}`, shape, tabulate(rope, contextLength, wave));
      const tables = { cos: append("cos", Math.cos), sin: append("sin", Math.sin) };
      written.set(rope, tables);
      return tables;
    });
  }
}

/** Writes a small matrix as it is. */
function writeSquare(file: WeightsFile, name: string, source: RowSource): Matrix {
  return writeMatrix(file, { name, sources: [source], columns: source.columns, format: "fp32" });
}

/** The cosine or sine of every position's rotation of every pair. */
function tabulate({ frequencies, magnitude }: Rope, positions: number, wave: (angle: number) => number): Float32Array {
  const pairs = frequencies.length;
  const table = new Float32Array(positions * pairs);
  for (const [pair, frequency] of frequencies.entries()) {
    for (let position = 0; position < positions; position++) {
      table[position * pairs + pair] = magnitude * wave(position * frequency);
    }
  }
  return table;
}

/** Bytes that `writeDecoderWeights` writes, except for vectors and alignment gaps, which are some thousandths. */
export function decoderBytes(config: DecoderConfig, { matrices, rotated }: WeightFormat): number {
  const { layers, hiddenSize, queryHeads, kvHeads, headDim, ffnSize, vocabSize, tiedEmbeddings } = config;
  const of = (rows: number, columns: number, kind: MatrixKind): number =>
    matrixBytes({ rows, columns }, matrices[kind]);
  const layer =
    of((queryHeads + 2 * kvHeads) * headDim, hiddenSize, "attention") +
    of(hiddenSize, queryHeads * headDim, "attention") +
    of(2 * ffnSize, hiddenSize, "up") +
    of(hiddenSize, ffnSize, "down");
  const ropes = new Set(config.attention.map(({ rope }) => rope));
  const rotations = ropes.size * config.contextLength * headDim * Float32Array.BYTES_PER_ELEMENT;
  const beforeHead = rotated && tiedEmbeddings ? hiddenSize ** 2 * Float16Array.BYTES_PER_ELEMENT : 0;
  const beforeDown = rotated === "all" ? gatedBlock(config) ** 2 * Float32Array.BYTES_PER_ELEMENT : 0;
  const heads = (tiedEmbeddings ? 1 : 2) * of(vocabSize, hiddenSize, "head");
  return layers * layer + heads + rotations + beforeHead + beforeDown;
}
