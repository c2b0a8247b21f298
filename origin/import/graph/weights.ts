/// <reference lib="esnext.float16" />
/**
 * Writes a checkpoint's weights into the data file, in the shapes that the graph multiplies by, and says where each lies.
 * Knows formats and places, no operator.
 */
import type { Checkpoint, DecoderConfig, LayerTensor, Rope, TensorName } from "../checkpoint.ts";
import type { ExternalTensor } from "../../onnx/onnx-graph.ts";
import {
  type BlockFormat,
  type MatrixFormat,
  type MatrixKind,
  matrixBytes,
  type MatrixShape,
  quantizeBlocks,
  rowLayout,
  type WeightFormat,
} from "../quantize.ts";
import { quantizeRows, type RowFormat } from "../quantize-rows.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { gatedBlock } from "../rotate.ts";
import { pieces, type RowSource } from "../rows.ts";
import { WeightsFile } from "../weights-file.ts";
import { scaleNames } from "../../onnx/scales.ts";

/** Weights in memory at once, where the rows can be had one by one: 16 MiB as floats. */
const PIECE_WEIGHTS = 2 ** 22;

/** A matrix on disk. */
export interface Matrix extends MatrixShape {
  readonly name: string;
  /** Numbers, or codes. */
  readonly stored: StoredNumbers | StoredBlocks | StoredRows;
}

/** One that is not quantized. */
interface StoredNumbers {
  readonly kind: "dense";
  readonly type: "float32" | "float16";
  readonly values: ExternalTensor;
}

/** The parts of a quantized one. */
export interface StoredBlocks {
  readonly kind: "blocks";
  readonly format: BlockFormat;
  readonly packed: ExternalTensor;
  readonly scaleCodes: ExternalTensor;
  readonly rowScales: ExternalTensor;
  readonly zeroPoints: ExternalTensor | undefined;
}

/** The parts of one with a scale for each row. */
export interface StoredRows {
  readonly kind: "rows";
  /** `uint8`, `[columns, rows]`. */
  readonly codes: ExternalTensor;
  /** `float16`, `[rows]`. */
  readonly scales: ExternalTensor;
  readonly normedInputs: boolean;
}

/** All of a decoder's weights on disk. */
export interface Weights {
  readonly embedding: Matrix;
  readonly head: Matrix;
  readonly layers: readonly LayerWeights[];
  readonly outputNorm: ExternalTensor;
  /** `float16`. */
  readonly beforeHead: ExternalTensor | undefined;
}

/** One layer's. What an architecture has not is undefined. */
export interface LayerWeights {
  readonly rotations: Rotations;
  readonly attentionNorm: ExternalTensor;
  readonly qkv: Matrix;
  readonly qkvBias: ExternalTensor | undefined;
  readonly headNorms: { readonly query: ExternalTensor; readonly key: ExternalTensor } | undefined;
  readonly attentionOutput: Matrix;
  readonly attentionPostNorm: ExternalTensor | undefined;
  readonly ffnNorm: ExternalTensor;
  readonly gateUp: Matrix;
  /** What every block of what `down` reads goes through first. All layers share it. */
  readonly beforeDown: Matrix | undefined;
  readonly down: Matrix;
  readonly ffnPostNorm: ExternalTensor | undefined;
}

/** Cosine and sine of every position's rotations, `[contextLength, headDim / 2]` each. Layers that rotate alike share them. */
interface Rotations {
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
  const { hiddenSize, ffnSize, qkvBias, qkNorm, postNorms } = config;
  const attentionSize = config.queryHeads * config.headDim;
  const total = config.layers * 4 + (config.tiedEmbeddings ? 1 : 2);
  let done = 0;
  using file = new WeightsFile(path);

  const vector = (name: string, parts: readonly TensorName[]): ExternalTensor => {
    const values = parts.map((part) => checkpoint.tensor(part));
    const place = file.reserve(name, "float32", [values.reduce((sum, { length }) => sum + length, 0)]);
    for (const part of values) place.write(part);
    return place.tensor;
  };
  const norm = (name: TensorName): ExternalTensor => vector(name, [name]);
  const matrix = (name: string, parts: readonly TensorName[], columns: number, kind: MatrixKind): Matrix => {
    const sources = parts.map((part) => checkpoint.matrix(part));
    const written = writeMatrix(file, { name, sources, columns, format: format.matrices[kind] });
    onProgress?.(++done, total);
    return written;
  };

  const rotations = writeRotations(file, config);
  const embedding = matrix("token_embd", ["token_embd.weight"], hiddenSize, "head");
  const beforeDown = checkpoint.beforeDown && writeSquare(file, "before_down", checkpoint.beforeDown);
  const layers = rotations.map((rotation, layer): LayerWeights => {
    const named = (part: LayerTensor): TensorName => `blk.${layer}.${part}`;
    const stacked = (name: string, parts: readonly LayerTensor[], columns: number, kind: MatrixKind): Matrix =>
      matrix(`blk.${layer}.${name}`, parts.map(named), columns, kind);
    const biases: readonly LayerTensor[] = ["attn_q.bias", "attn_k.bias", "attn_v.bias"];
    return {
      rotations: rotation,
      attentionNorm: norm(named("attn_norm.weight")),
      qkv: stacked("attn_qkv", ["attn_q.weight", "attn_k.weight", "attn_v.weight"], hiddenSize, "attention"),
      qkvBias: qkvBias ? vector(`blk.${layer}.attn_qkv.bias`, biases.map(named)) : undefined,
      headNorms: qkNorm
        ? { query: norm(named("attn_q_norm.weight")), key: norm(named("attn_k_norm.weight")) }
        : undefined,
      attentionOutput: stacked("attn_output", ["attn_output.weight"], attentionSize, "attention"),
      attentionPostNorm: postNorms ? norm(named("post_attention_norm.weight")) : undefined,
      ffnNorm: norm(named("ffn_norm.weight")),
      gateUp: stacked("ffn_gate_up", ["ffn_gate.weight", "ffn_up.weight"], hiddenSize, "up"),
      beforeDown,
      down: stacked("ffn_down", ["ffn_down.weight"], ffnSize, "down"),
      ffnPostNorm: postNorms ? norm(named("post_ffw_norm.weight")) : undefined,
    };
  });
  return {
    embedding,
    layers,
    outputNorm: norm("output_norm.weight"),
    beforeHead: checkpoint.beforeHead && writeHalf(file, "before_head", checkpoint.beforeHead),
    head: config.tiedEmbeddings ? embedding : matrix("output", ["output.weight"], hiddenSize, "head"),
  };
}

/** What `writeWeights` takes on disk, but for vectors and the gaps between weights: some thousandths. */
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

export interface MatrixSource {
  readonly name: string;
  /** Matrices that read the same input, one below the other, so that one multiplication computes them all. */
  readonly sources: readonly RowSource[];
  readonly columns: number;
  readonly format: MatrixFormat;
}

/** Writes a matrix piece by piece: rows share nothing, so it comes out the same as in one. */
export function writeMatrix(file: WeightsFile, { name, sources, columns, format }: MatrixSource): Matrix {
  const rows = sources.reduce((sum, source) => sum + source.rows, 0);
  if (typeof format === "string") {
    const type = format === "fp32" ? "float32" : "float16";
    const values = file.reserve(name, type, [rows, columns]);
    for (const source of sources) {
      for (const piece of pieces(source, PIECE_WEIGHTS)) values.write(format === "fp32" ? piece : halves(name, piece));
    }
    return { name, rows, columns, stored: { kind: "dense", type, values: values.tensor } };
  }
  if ("scale" in format) return { name, rows, columns, stored: writeRows(file, name, sources, columns, format) };
  const { packedBytes, blocks, zeroPointBytes } = rowLayout(columns, format);
  const packed = file.reserve(`${name}.packed`, "uint8", [rows, blocks, packedBytes / blocks]);
  const names = scaleNames(name);
  const scaleCodes = file.reserve(names.codes, "int8", [rows, blocks]);
  const rowScales = file.reserve(names.rows, "float16", [rows, 1]);
  const zeroPoints = format.symmetric
    ? undefined
    : file.reserve(`${name}.zero_points`, "uint8", [rows, zeroPointBytes]);
  for (const source of sources) {
    for (const piece of pieces(source, PIECE_WEIGHTS)) {
      const quantized = quantizeBlocks(piece, { rows: piece.length / columns, columns }, format);
      packed.write(quantized.packed);
      scaleCodes.write(quantized.scaleCodes);
      rowScales.write(quantized.rowScales);
      if (quantized.zeroPoints !== undefined) zeroPoints?.write(quantized.zeroPoints);
    }
  }
  const places = { packed: packed.tensor, scaleCodes: scaleCodes.tensor, rowScales: rowScales.tensor };
  return { name, rows, columns, stored: { kind: "blocks", format, ...places, zeroPoints: zeroPoints?.tensor } };
}

/** A piece of rows is a piece of every column of codes. */
function writeRows(
  file: WeightsFile,
  name: string,
  sources: readonly RowSource[],
  columns: number,
  { normedInputs = false }: RowFormat,
): StoredRows {
  const rows = sources.reduce((sum, source) => sum + source.rows, 0);
  const codes = file.reserve(`${name}.row_codes`, "uint8", [columns, rows]);
  const scales = file.reserve(`${name}.row_scales`, "float16", [rows]);
  let written = 0;
  for (const source of sources) {
    for (const piece of pieces(source, PIECE_WEIGHTS)) {
      const count = piece.length / columns;
      const quantized = quantizeRows(piece, { rows: count, columns });
      scales.write(quantized.scales);
      for (let column = 0; column < columns; column++) {
        const part = quantized.codes.subarray(column * count, (column + 1) * count);
        codes.write(part, { at: column * rows + written });
      }
      written += count;
    }
  }
  return { kind: "rows", codes: codes.tensor, scales: scales.tensor, normedInputs };
}

/** One that is small, as it is. */
function writeSquare(file: WeightsFile, name: string, source: RowSource): Matrix {
  return writeMatrix(file, { name, sources: [source], columns: source.columns, format: "fp32" });
}

/** Half of the bytes, for a matrix whose inputs are rounded far more coarsely by what comes next. */
function writeHalf(file: WeightsFile, name: string, source: RowSource): ExternalTensor {
  const place = file.reserve(name, "float16", [source.rows, source.columns]);
  for (const piece of pieces(source, PIECE_WEIGHTS)) place.write(halves(name, piece));
  return place.tensor;
}

function halves(name: string, values: Float32Array): Float16Array {
  const rounded = Float16Array.from(values);
  if (rounded.every(Number.isFinite)) return rounded;
  throw new ImportError("unsupported-model", `${name} has weights that are too large for half precision`);
}

/** By layer. */
function writeRotations(file: WeightsFile, { attention, contextLength }: DecoderConfig): readonly Rotations[] {
  const written = new Map<Rope, Rotations>();
  return attention.map(({ rope }) => {
    const known = written.get(rope);
    if (known !== undefined) return known;
    const name = written.size === 0 ? "rope" : `rope.${written.size}`;
    const shape = [contextLength, rope.frequencies.length];
    const append = (part: string, wave: (angle: number) => number): ExternalTensor =>
      file.append(`${name}.${part}`, shape, tabulate(rope, contextLength, wave));
    const rotations = { cos: append("cos", Math.cos), sin: append("sin", Math.sin) };
    written.set(rope, rotations);
    return rotations;
  });
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
