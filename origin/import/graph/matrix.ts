/// <reference lib="esnext.float16" />
/** Writes matrices into the data file in the layouts that the graph's operators read. Depends on no operator. */
import type { BlockFormat, MatrixFormat, RowFormat } from "../../onnx/weight-formats.ts";
import type { ExternalTensor } from "../../onnx/onnx-graph.ts";
import { type MatrixShape, quantizeBlocks, rowLayout } from "../quantize/quantize-blocks.ts";
import { quantizeRows } from "../quantize/quantize-rows.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { pieces, type RowSource } from "../checkpoint/rows.ts";
import type { WeightsFile } from "./weights-file.ts";
import { scaleNames } from "../../onnx/scales.ts";

/** Upper bound of the weights in memory at once, where rows can be read one by one: 16 MiB as floats. */
const PIECE_WEIGHTS = 2 ** 22;

/** A matrix on disk. */
export interface Matrix<Stored = StoredNumbers | StoredBlocks | StoredRows> extends MatrixShape {
  readonly name: string;
  readonly stored: Stored;
}

/** A matrix that is not quantized. */
interface StoredNumbers {
  readonly kind: "dense";
  readonly type: "float32" | "float16";
  readonly values: ExternalTensor;
}

/** A matrix of codes with a scale for each block. */
export interface StoredBlocks {
  readonly kind: "blocks";
  readonly format: BlockFormat;
  readonly packed: ExternalTensor;
  readonly scaleCodes: ExternalTensor;
  readonly rowScales: ExternalTensor;
  readonly zeroPoints: ExternalTensor | undefined;
}

/** A matrix of codes with a scale for each row. */
export interface StoredRows {
  readonly kind: "rows";
  /** `uint8`, `[columns, rows]`. */
  readonly codes: ExternalTensor;
  /** `float16`, `[rows]`. */
  readonly scales: ExternalTensor;
  readonly normedInputs: boolean;
}

export interface MatrixSource<Format = MatrixFormat> {
  readonly name: string;
  /** Matrices with the same input. They are stacked, so that one multiplication computes them all. */
  readonly sources: readonly RowSource[];
  readonly columns: number;
  readonly format: Format;
}

/** Writes a matrix piece by piece. Rows are quantized independently, so the result does not depend on the pieces. */
export function writeMatrix(file: WeightsFile, source: MatrixSource): Matrix {
  const { name, sources, columns, format } = source;
  const rows = countRows(sources);
  if (typeof format === "string") {
    const type = format === "fp32" ? "float32" : "float16";
    const values = file.reserve(name, type, [rows, columns]);
    for (const piece of allPieces(sources)) values.write(format === "fp32" ? piece : halves(name, piece));
    return { name, rows, columns, stored: { kind: "dense", type, values: values.tensor } };
  }
  const stored = "scale" in format ? writeRows(file, { ...source, format }) : writeBlocks(file, { ...source, format });
  return { name, rows, columns, stored };
}

function writeBlocks(file: WeightsFile, { name, sources, columns, format }: MatrixSource<BlockFormat>): StoredBlocks {
  const rows = countRows(sources);
  const { packedBytes, blocks, zeroPointBytes } = rowLayout(columns, format);
  const packed = file.reserve(`${name}.packed`, "uint8", [rows, blocks, packedBytes / blocks]);
  const names = scaleNames(name);
  const scaleCodes = file.reserve(names.codes, "int8", [rows, blocks]);
  const rowScales = file.reserve(names.rows, "float16", [rows, 1]);
  const zeroPoints = format.symmetric
    ? undefined
    : file.reserve(`${name}.zero_points`, "uint8", [rows, zeroPointBytes]);
  for (const piece of allPieces(sources)) {
    const quantized = quantizeBlocks(piece, { rows: piece.length / columns, columns }, format);
    packed.write(quantized.packed);
    scaleCodes.write(quantized.scaleCodes);
    rowScales.write(quantized.rowScales);
    if (quantized.zeroPoints !== undefined) zeroPoints?.write(quantized.zeroPoints);
  }
  return {
    kind: "blocks",
    format,
    packed: packed.tensor,
    scaleCodes: scaleCodes.tensor,
    rowScales: rowScales.tensor,
    zeroPoints: zeroPoints?.tensor,
  };
}

/** The codes are stored by column: a piece of rows fills a part of every column. */
function writeRows(file: WeightsFile, { name, sources, columns, format }: MatrixSource<RowFormat>): StoredRows {
  const rows = countRows(sources);
  const codes = file.reserve(`${name}.row_codes`, "uint8", [columns, rows]);
  const scales = file.reserve(`${name}.row_scales`, "float16", [rows]);
  let written = 0;
  for (const piece of allPieces(sources)) {
    const count = piece.length / columns;
    const quantized = quantizeRows(piece, { rows: count, columns });
    scales.write(quantized.scales);
    for (let column = 0; column < columns; column++) {
      const part = quantized.codes.subarray(column * count, (column + 1) * count);
      codes.write(part, { at: column * rows + written });
    }
    written += count;
  }
  return { kind: "rows", codes: codes.tensor, scales: scales.tensor, normedInputs: format.normedInputs ?? false };
}

/** Writes a matrix in `float16`: enough where its inputs are quantized more coarsely anyway. */
export function writeHalfMatrix(file: WeightsFile, name: string, source: RowSource): ExternalTensor {
  const place = file.reserve(name, "float16", [source.rows, source.columns]);
  for (const piece of pieces(source, PIECE_WEIGHTS)) place.write(halves(name, piece));
  return place.tensor;
}

function* allPieces(sources: readonly RowSource[]): Generator<Float32Array> {
  for (const source of sources) yield* pieces(source, PIECE_WEIGHTS);
}

function countRows(sources: readonly RowSource[]): number {
  return sources.reduce((sum, { rows }) => sum + rows, 0);
}

function halves(name: string, values: Float32Array): Float16Array {
  const rounded = Float16Array.from(values);
  if (rounded.every(Number.isFinite)) return rounded;
  throw new ImportError("unsupported-model", `${name} has weights that are too large for half precision`);
}
