/**
 * Writes a checkpoint's weights into the data file, in the shapes that the graph multiplies by, and says where each lies.
 * Knows formats and places, no operator.
 */
import type { Checkpoint, DecoderConfig, LayerTensor, TensorName } from "../checkpoint.ts";
import type { ExternalTensor } from "../onnx.ts";
import { type BlockFormat, type MatrixShape, quantizeBlocks, type WeightFormat } from "../quantize.ts";
import { WeightsFile } from "../weights-file.ts";

/** A matrix on disk. */
export interface Matrix extends MatrixShape {
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

/** All of a decoder's weights on disk. */
export interface Weights {
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

/** Writes them all, one matrix in memory at a time. */
export function writeWeights(
  checkpoint: Checkpoint,
  path: string,
  format: WeightFormat,
  onProgress: ((done: number, total: number) => void) | undefined,
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
