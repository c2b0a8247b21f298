/**
 * Writes a checkpoint's weights into the data file, in the shapes that the graph multiplies by, and says where each lies.
 * Knows formats and places, no operator.
 */
import type { Checkpoint, DecoderConfig, LayerTensor, TensorName } from "../checkpoint.ts";
import type { ExternalTensor } from "../onnx.ts";
import { type BlockFormat, type MatrixShape, quantizeBlocks, rowLayout, type WeightFormat } from "../quantize.ts";
import { pieces, type RowSource } from "../rows.ts";
import { WeightsFile } from "../weights-file.ts";

/** Weights in memory at once, where the rows can be had one by one: 16 MiB as floats. */
const PIECE_WEIGHTS = 2 ** 22;

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

/** Writes them all, a piece of a matrix in memory at a time. */
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
    const sources = parts.map((part) => checkpoint.matrix(part));
    const written = writeMatrix(file, { name, sources, columns, format: format[kind] });
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

interface MatrixSource {
  readonly name: string;
  /** Matrices that read the same input, one below the other, so that one multiplication computes them all. */
  readonly sources: readonly RowSource[];
  readonly columns: number;
  readonly format: BlockFormat | "fp32";
}

/** Writes a matrix piece by piece: rows share nothing, so it comes out the same as in one. */
function writeMatrix(file: WeightsFile, { name, sources, columns, format }: MatrixSource): Matrix {
  const rows = sources.reduce((sum, source) => sum + source.rows, 0);
  if (format === "fp32") {
    const values = file.reserve(name, "float32", [rows, columns]);
    for (const source of sources) for (const piece of pieces(source, PIECE_WEIGHTS)) values.write(piece);
    return { name, rows, columns, stored: { kind: "dense", values: values.tensor } };
  }
  const { packedBytes, blocks, zeroPointBytes } = rowLayout(columns, format);
  const packed = file.reserve(`${name}.packed`, "uint8", [rows, blocks, packedBytes / blocks]);
  const scales = file.reserve(`${name}.scales`, "float32", [rows, blocks]);
  const zeroPoints = format.symmetric
    ? undefined
    : file.reserve(`${name}.zero_points`, "uint8", [rows, zeroPointBytes]);
  for (const source of sources) {
    for (const piece of pieces(source, PIECE_WEIGHTS)) {
      const quantized = quantizeBlocks(piece, { rows: piece.length / columns, columns }, format);
      packed.write(quantized.packed);
      scales.write(quantized.scales);
      if (quantized.zeroPoints !== undefined) zeroPoints?.write(quantized.zeroPoints);
    }
  }
  const places = { packed: packed.tensor, scales: scales.tensor, zeroPoints: zeroPoints?.tensor };
  return { name, rows, columns, stored: { kind: "blocks", format, ...places } };
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
