/// <reference lib="esnext.float16" />
/**
 * 8-bit codes with one scale for a whole row of weights: weight = (code - 128) * scale. Where a token's activations share
 * a scale too, the products of a row add up in whole numbers, exactly and in any order, so that whatever kernel is fastest
 * may add them. Knows no graph and no file.
 */
import { halfScale } from "./half.ts";
import type { MatrixShape } from "./quantize-blocks.ts";

/** The code of a weight of 0, and how many codes there are to either side of it. */
export const ZERO_CODE = 128;
export const CODE_MAX = 127;

export interface QuantizedRows {
  /** `[columns, rows]`: the other way round than the weights, as products of whole numbers read them. */
  readonly codes: Uint8Array;
  /** `[rows]`. */
  readonly scales: Float16Array;
}

/**
 * Quantizes a row-major matrix. The largest weight of a row gets the outermost code.
 *
 * @throws {RangeError} when the matrix does not have `rows * columns` elements
 * @throws {ImportError} `unsupported-model` for weights that are too large for a scale
 */
export function quantizeRows(matrix: Float32Array, { rows, columns }: MatrixShape): QuantizedRows {
  if (matrix.length !== rows * columns) {
    throw new RangeError(`${matrix.length} weights are not a ${rows} × ${columns} matrix`);
  }
  const codes = new Uint8Array(matrix.length);
  const scales = new Float16Array(rows);
  for (let row = 0; row < rows; row++) {
    const weights = matrix.subarray(row * columns, (row + 1) * columns);
    const scale = scaleOf(weights);
    scales[row] = scale;
    const inverse = scale === 0 ? 0 : 1 / scale;
    for (let column = 0; column < columns; column++) {
      codes[column * rows + row] = ZERO_CODE + Math.round(weights[column]! * inverse);
    }
  }
  return { codes, scales };
}

/** Turns codes back into weights. @returns row-major `[rows, columns]` */
export function dequantizeRows({ codes, scales }: QuantizedRows, { rows, columns }: MatrixShape): Float32Array {
  return Float32Array.from({ length: rows * columns }, (_, index) => {
    const [row, column] = [Math.floor(index / columns), index % columns];
    return (codes[column * rows + row]! - ZERO_CODE) * scales[row]!;
  });
}

function scaleOf(weights: Float32Array): number {
  const largest = weights.reduce((max, weight) => Math.max(max, Math.abs(weight)), 0);
  return halfScale(largest / CODE_MAX, largest);
}
