/// <reference lib="esnext.float16" />
/**
 * Block-wise weight quantization in the layout of ONNX Runtime's `MatMulNBits`.
 * Every `blockSize` weights of a row share one scale and one zero point: weight = (code - zeroPoint) * scale. The scales
 * are codes themselves, of 8 bits, and the row has one number in half precision that they are multiplied by: with blocks
 * of 64 that is 8.14 bits for a weight of 8 instead of 8.5. Knows no graph and no file.
 *
 * Source: ONNX Runtime, docs/ContribOperators.md, `com.microsoft.MatMulNBits` and `com.microsoft.GatherBlockQuantized`;
 * Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3, for scales of scales.
 */
import { blockScales } from "../../onnx/scales.ts";
import type { BlockFormat, MatrixFormat } from "../../onnx/weight-formats.ts";
import { type BlockRange, extremeRange, fittedRange } from "./block-range.ts";
import { halfScale } from "./half.ts";

/** The furthest code of a scale, to either side. */
const SCALE_CODE_MAX = 127;

export interface MatrixShape {
  /** Outputs: `N` of `MatMulNBits`. */
  readonly rows: number;
  /** Inputs: `K` of `MatMulNBits`, padded to whole blocks in the codes. */
  readonly columns: number;
}

export interface QuantizedMatrix {
  /** `[rows, blocks, blockSize * bits / 8]`; of two 4-bit codes in a byte the first is the low one. */
  readonly packed: Uint8Array;
  /** `[rows, blocks]`: a block's scale is its code times its row's. */
  readonly scaleCodes: Int8Array;
  /** `[rows]`. */
  readonly rowScales: Float16Array;
  /** `[rows, ceil(blocks * bits / 8)]`, packed like the codes; absent where the format is symmetric. */
  readonly zeroPoints?: Uint8Array;
}

/** What one row of a matrix takes, which is whole bytes: rows can be quantized apart and put together. */
export interface RowLayout {
  readonly blocks: number;
  readonly packedBytes: number;
  /** Of an asymmetric format. */
  readonly zeroPointBytes: number;
}

export function rowLayout(columns: number, { bits, blockSize }: BlockFormat): RowLayout {
  const blocks = Math.ceil(columns / blockSize);
  return { blocks, packedBytes: (blocks * blockSize * bits) / 8, zeroPointBytes: Math.ceil((blocks * bits) / 8) };
}

/** What a matrix takes on disk. */
export function matrixBytes({ rows, columns }: MatrixShape, format: MatrixFormat): number {
  if (typeof format === "string") return rows * columns * (format === "fp32" ? 4 : 2);
  if ("scale" in format) return rows * (columns + Float16Array.BYTES_PER_ELEMENT);
  const { blocks, packedBytes, zeroPointBytes } = rowLayout(columns, format);
  const scaleBytes = blocks * Int8Array.BYTES_PER_ELEMENT + Float16Array.BYTES_PER_ELEMENT;
  return rows * (packedBytes + scaleBytes + (format.symmetric ? 0 : zeroPointBytes));
}

/**
 * Quantizes a row-major matrix.
 *
 * @throws {RangeError} when the matrix does not have `rows * columns` elements or the block size can't be packed
 * @throws {ImportError} `unsupported-model` for weights that are too large for a scale
 */
export function quantizeBlocks(matrix: Float32Array, shape: MatrixShape, format: BlockFormat): QuantizedMatrix {
  const { rows, columns } = shape;
  const { bits, blockSize, symmetric, fitted } = format;
  checkShape(matrix.length, shape, format);
  const { blocks, packedBytes, zeroPointBytes } = rowLayout(columns, format);
  const codes = new Uint8Array(blockSize);
  const blockBytes = packedBytes / blocks;
  const packed = new Uint8Array(rows * packedBytes);
  const scaleCodes = new Int8Array(rows * blocks);
  const rowScales = new Float16Array(rows);
  const zeroPoints = symmetric ? undefined : new Uint8Array(rows * zeroPointBytes);

  for (let row = 0; row < rows; row++) {
    const blockOf = (block: number): Float32Array => {
      const from = row * columns + block * blockSize;
      return matrix.subarray(from, Math.min(from + blockSize, (row + 1) * columns));
    };
    const ranges = Array.from({ length: blocks }, (_, block) =>
      fitted ? fittedRange(blockOf(block), format) : extremeRange(blockOf(block), format),
    );
    const rowScale = scaleOfRow(ranges);
    rowScales[row] = rowScale;
    for (const [block, { scale, zeroPoint }] of ranges.entries()) {
      const index = row * blocks + block;
      const scaleCode = scaleCodeOf(scale, rowScale);
      scaleCodes[index] = scaleCode;
      encode(blockOf(block), { scale: Math.fround(scaleCode * rowScale), zeroPoint }, bits, codes);
      pack(codes, bits, packed, index * blockBytes);
      if (zeroPoints !== undefined) putCode(zeroPoints, row * zeroPointBytes, block, zeroPoint, bits);
    }
  }
  return { packed, scaleCodes, rowScales, ...(zeroPoints && { zeroPoints }) };
}

/** What scales are counted in: the row's largest is the outermost code, so none is more than rounded. */
function scaleOfRow(ranges: readonly BlockRange[]): number {
  const largest = ranges.reduce((max, { scale }) => Math.max(max, Math.abs(scale)), 0);
  return halfScale(largest / SCALE_CODE_MAX, largest);
}

/** Rounded away from zero, so that the weights a scale was made for are inside its codes. */
function scaleCodeOf(scale: number, rowScale: number): number {
  if (scale === 0) return 0;
  const code = Math.min(SCALE_CODE_MAX, Math.ceil(Math.abs(scale) / rowScale));
  return scale < 0 ? -code : code;
}

/**
 * Turns codes back into weights.
 *
 * @returns row-major `[rows, columns]`, the padding dropped
 */
export function dequantizeBlocks(quantized: QuantizedMatrix, shape: MatrixShape, format: BlockFormat): Float32Array {
  const { rows, columns } = shape;
  const { bits, blockSize } = format;
  const blocks = Math.ceil(columns / blockSize);
  const zeroPointBytes = Math.ceil((blocks * bits) / 8);
  const matrix = new Float32Array(rows * columns);
  const scales = blockScales(quantized);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const block = Math.floor(column / blockSize);
      const scale = scales[row * blocks + block]!;
      const zeroPoint =
        quantized.zeroPoints === undefined
          ? 1 << (bits - 1)
          : getCode(quantized.zeroPoints, row * zeroPointBytes, block, bits);
      // Blocks are whole bytes, so a row's codes are contiguous.
      const code = getCode(quantized.packed, (row * blocks * blockSize * bits) / 8, column, bits);
      matrix[row * columns + column] = (code - zeroPoint) * scale;
    }
  }
  return matrix;
}

/** Writes one code per weight, and the zero point where a row's last block is padded. */
function encode(weights: Float32Array, { scale, zeroPoint }: BlockRange, bits: 4 | 8, codes: Uint8Array): void {
  const codeMax = (1 << bits) - 1;
  const inverse = scale === 0 ? 0 : 1 / scale;
  codes.fill(zeroPoint);
  for (let i = 0; i < weights.length; i++) {
    const code = Math.round(weights[i]! * inverse) + zeroPoint;
    codes[i] = code < 0 ? 0 : code > codeMax ? codeMax : code;
  }
}

function pack(codes: Uint8Array, bits: 4 | 8, packed: Uint8Array, offset: number): void {
  if (bits === 8) packed.set(codes, offset);
  else for (let i = 0; i < codes.length; i += 2) packed[offset + i / 2] = codes[i]! | (codes[i + 1]! << 4);
}

function putCode(bytes: Uint8Array, offset: number, index: number, code: number, bits: 4 | 8): void {
  if (bits === 8) bytes[offset + index] = code;
  else bytes[offset + (index >> 1)]! |= code << ((index & 1) * 4);
}

function getCode(bytes: Uint8Array, offset: number, index: number, bits: 4 | 8): number {
  return bits === 8 ? bytes[offset + index]! : (bytes[offset + (index >> 1)]! >> ((index & 1) * 4)) & 15;
}

function checkShape(length: number, { rows, columns }: MatrixShape, { blockSize }: BlockFormat): void {
  if (length !== rows * columns) throw new RangeError(`${length} weights are not a ${rows} × ${columns} matrix`);
  if (blockSize < 16 || !Number.isInteger(Math.log2(blockSize))) {
    throw new RangeError(`a block of ${blockSize} weights can't be packed: it must be a power of two, at least 16`);
  }
}
