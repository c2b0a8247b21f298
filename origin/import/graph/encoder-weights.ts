/** An encoder's weights, stacked as the graph multiplies by them. */
import type { MatrixKind, WeightFormat } from "../../onnx/weight-formats.ts";
import type {
  EncoderCheckpoint,
  EncoderConfig,
  EncoderMatrixName,
  EncoderProjection,
  EncoderVectorName,
} from "../checkpoint/encoder-checkpoint.ts";
import type { ExternalTensor } from "../../onnx/onnx-graph.ts";
import { matrixBytes } from "../quantize/quantize-blocks.ts";
import type { Matrix } from "./matrix.ts";
import { type OnMatrixWritten, WeightsWriter } from "./weights-writer.ts";

/** Each layer is written as four matrices. */
const LAYER_MATRICES = 4;

/** A matrix and the bias that is added to its product. */
export interface AffineWeights {
  readonly matrix: Matrix;
  readonly bias: ExternalTensor;
}

export interface LayerNormWeights {
  readonly gain: ExternalTensor;
  readonly bias: ExternalTensor;
}

export interface EncoderLayerWeights {
  readonly qkv: AffineWeights;
  readonly attentionOutput: AffineWeights;
  readonly attentionNorm: LayerNormWeights;
  readonly up: AffineWeights;
  readonly down: AffineWeights;
  readonly outputNorm: LayerNormWeights;
}

export interface EncoderWeights {
  readonly embedding: Matrix;
  /** Embedding of each position, with the embedding of the first token type added. */
  readonly positions: ExternalTensor;
  readonly embeddingNorm: LayerNormWeights;
  readonly layers: readonly EncoderLayerWeights[];
}

interface EncoderWeightsOptions {
  readonly path: string;
  readonly format: WeightFormat;
  readonly onProgress: OnMatrixWritten | undefined;
}

/** Writes an encoder's weights. Holds one piece of one matrix in memory at a time. */
export function writeEncoderWeights(checkpoint: EncoderCheckpoint, options: EncoderWeightsOptions): EncoderWeights {
  using writer = new WeightsWriter({ ...options, matrices: checkpoint.config.layers * LAYER_MATRICES + 1 });
  return new EncoderWeightsWriter(checkpoint, writer).write();
}

class EncoderWeightsWriter {
  readonly #checkpoint: EncoderCheckpoint;
  readonly #writer: WeightsWriter;

  constructor(checkpoint: EncoderCheckpoint, writer: WeightsWriter) {
    this.#checkpoint = checkpoint;
    this.#writer = writer;
  }

  write(): EncoderWeights {
    const { layers, hiddenSize, contextLength } = this.#checkpoint.config;
    const source = this.#checkpoint.matrix("token_embd.weight");
    return {
      embedding: this.#writer.matrix("token_embd", { sources: [source], columns: hiddenSize, kind: "head" }),
      positions: this.#writer.file.append("position_embd", [contextLength, hiddenSize], this.#positionTable()),
      embeddingNorm: this.#norm("token_embd_norm"),
      layers: Array.from({ length: layers }, (_, layer) => this.#layer(layer)),
    };
  }

  #layer(layer: number): EncoderLayerWeights {
    const { hiddenSize, ffnSize } = this.#checkpoint.config;
    const affine = (name: string, parts: readonly EncoderProjection[], columns: number, kind: MatrixKind) =>
      this.#affine(`blk.${layer}.${name}`, { layer, parts, columns, kind });
    return {
      qkv: affine("attn_qkv", ["attn_q", "attn_k", "attn_v"], hiddenSize, "attention"),
      attentionOutput: affine("attn_output", ["attn_output"], hiddenSize, "attention"),
      attentionNorm: this.#norm(`blk.${layer}.attn_output_norm`),
      up: affine("ffn_up", ["ffn_up"], hiddenSize, "up"),
      down: affine("ffn_down", ["ffn_down"], ffnSize, "down"),
      outputNorm: this.#norm(`blk.${layer}.layer_output_norm`),
    };
  }

  #affine(
    name: string,
    {
      layer,
      parts,
      columns,
      kind,
    }: { layer: number; parts: readonly EncoderProjection[]; columns: number; kind: MatrixKind },
  ): AffineWeights {
    const matrices = parts.map((part): EncoderMatrixName => `blk.${layer}.${part}.weight`);
    const biases = parts.map((part): EncoderVectorName => `blk.${layer}.${part}.bias`);
    const sources = matrices.map((part) => this.#checkpoint.matrix(part));
    return {
      matrix: this.#writer.matrix(name, { sources, columns, kind }),
      bias: this.#vector(`${name}.bias`, biases),
    };
  }

  #norm(name: "token_embd_norm" | `blk.${number}.${"attn_output_norm" | "layer_output_norm"}`): LayerNormWeights {
    return {
      gain: this.#vector(name, [`${name}.weight`]),
      bias: this.#vector(`${name}.bias`, [`${name}.bias`]),
    };
  }

  #vector(name: string, parts: readonly EncoderVectorName[]): ExternalTensor {
    return this.#writer.vector(
      name,
      parts.map((part) => this.#checkpoint.tensor(part)),
    );
  }

  /** Every token of a single text has the first type, so that type's embedding is added to every position. */
  #positionTable(): Float32Array {
    const { hiddenSize } = this.#checkpoint.config;
    const type = this.#checkpoint.tensor("token_types.weight").subarray(0, hiddenSize);
    return this.#checkpoint.tensor("position_embd.weight").map((value, i) => value + (type[i % hiddenSize] ?? 0));
  }
}

/** Bytes that `writeEncoderWeights` writes, except for vectors and alignment gaps, which are some thousandths. */
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
