/**
 * The scale and the zero point that a block of weights shares. Two ways to choose them: by the block's extremes alone, and
 * by searching near them for what loses least. Knows no layout.
 *
 * Source of the search: the scale that is best for given codes is a line fitted through the origin, and which codes are
 * worth fitting is found by trying ranges a little narrower and wider, as ggml's `make_qx_quants` does.
 */
import type { CodeFormat } from "../../onnx/weight-formats.ts";

/** weight = (code - zeroPoint) * scale, with codes of `bits` bits. */
export interface BlockRange {
  /** May be negative: then the larger weights have the smaller codes. */
  readonly scale: number;
  readonly zeroPoint: number;
}

/** What has no room for a fraction: added and taken away again it rounds, five times as fast as `Math.round`. */
const ROUNDING = 1.5 * 2 ** 52;

/** How far inside and beyond the last code a search lets the outermost weight lie, in codes. */
const INSIDE = 0.5;
const BEYOND = 2.5;
const STEP = 0.5;

/** By the block's extremes, so that no weight is cut off, or by less than a code. */
export function extremeRange(weights: Float32Array, { bits, symmetric }: CodeFormat): BlockRange {
  return symmetric ? symmetricRange(weights, bits) : asymmetricRange(weights, bits);
}

/**
 * The range that loses least of those that a search tries. An error counts by its weight's square, so that the large
 * weights, which a text notices first, are not cut off for the sake of the many small ones; but all errors together, each
 * counting the same, are never more than those of the range by extremes.
 */
export function fittedRange(weights: Float32Array, format: CodeFormat): BlockRange {
  const codeMax = (1 << format.bits) - 1;
  const extreme = extremeRange(weights, format);
  if (extreme.scale === 0) return extreme;
  const nearby = (format.symmetric ? searchScale : searchScaleAndZero)(weights, extreme, codeMax);
  const fitted = { scale: fitScale(weights, nearby, codeMax), zeroPoint: nearby.zeroPoint };
  return squaredError(weights, fitted, codeMax) < squaredError(weights, extreme, codeMax) ? fitted : extreme;
}

/** Tries scales a little smaller and larger, of both signs: the longer side of 4-bit codes may suit either end. */
function searchScale(weights: Float32Array, extreme: BlockRange, codeMax: number): BlockRange {
  const { zeroPoint } = extreme;
  const half = zeroPoint;
  // With 8 bits the outermost code of a range by extremes is 127, one less than the furthest.
  const furthest = extreme.scale * (codeMax === 15 ? half : half - 1);
  let scale = extreme.scale;
  let most = 0;
  for (let codes = half - INSIDE; codes <= half + BEYOND; codes += STEP) {
    for (const tried of [furthest / codes, -furthest / codes]) {
      const explained = explainedSquares(weights, tried, zeroPoint, codeMax);
      if (explained <= most) continue;
      most = explained;
      scale = tried;
    }
  }
  return { scale, zeroPoint };
}

/** Tries scales a little smaller and larger, each with the zero points next to where the least weight puts it. */
function searchScaleAndZero(weights: Float32Array, extreme: BlockRange, codeMax: number): BlockRange {
  let min = Infinity;
  for (const weight of weights) if (weight < min) min = weight;
  let best = extreme;
  let most = 0;
  for (let codes = codeMax - INSIDE; codes <= codeMax + BEYOND; codes += STEP) {
    const scale = (extreme.scale * codeMax) / codes;
    const lowest = Math.floor(-min / scale);
    for (let zeroPoint = Math.max(0, lowest - 1); zeroPoint <= Math.min(codeMax, lowest + 1); zeroPoint++) {
      const explained = explainedSquares(weights, scale, zeroPoint, codeMax);
      if (explained <= most) continue;
      most = explained;
      best = { scale, zeroPoint };
    }
  }
  return best;
}

/** How much of what counts the codes of a range account for, with the scale that suits those codes best. */
function explainedSquares(weights: Float32Array, scale: number, zeroPoint: number, codeMax: number): number {
  const inverse = 1 / scale;
  const low = -zeroPoint;
  const high = codeMax - zeroPoint;
  let product = 0;
  let squares = 0;
  for (let i = 0; i < weights.length; i++) {
    const weight = weights[i]!;
    const rounded = weight * inverse + ROUNDING - ROUNDING;
    const code = rounded < low ? low : rounded > high ? high : rounded;
    const counted = weight * code;
    product += weight * weight * counted;
    squares += counted * counted;
  }
  return squares === 0 ? 0 : (product * product) / squares;
}

/** The scale that suits a range's codes best, as it will be stored. */
function fitScale(weights: Float32Array, { scale, zeroPoint }: BlockRange, codeMax: number): number {
  const inverse = 1 / scale;
  let product = 0;
  let squares = 0;
  for (const weight of weights) {
    const code = clamp(weight * inverse + ROUNDING - ROUNDING, -zeroPoint, codeMax - zeroPoint);
    const counted = weight * code;
    product += weight * weight * counted;
    squares += counted * counted;
  }
  return squares === 0 ? scale : Math.fround(product / squares);
}

function squaredError(weights: Float32Array, { scale, zeroPoint }: BlockRange, codeMax: number): number {
  const inverse = 1 / scale;
  const stored = Math.fround(scale);
  let error = 0;
  for (const weight of weights) {
    const code = weight * inverse + ROUNDING - ROUNDING;
    error += (weight - clamp(code, -zeroPoint, codeMax - zeroPoint) * stored) ** 2;
  }
  return error;
}

function clamp(value: number, low: number, high: number): number {
  return value < low ? low : value > high ? high : value;
}

/**
 * The scale whose code 0 (4 bits) or 1 (8 bits) is the weight furthest from zero. With 4 bits the range is lopsided,
 * -8 to 7, and giving its longer side to that weight costs nothing and gains a sixteenth (as in llama.cpp's Q4_0); with
 * 8 bits a range of ±127 reproduces the codes of Q8_0 exactly.
 */
function symmetricRange(weights: Float32Array, bits: 4 | 8): BlockRange {
  let furthest = 0;
  for (const weight of weights) if (Math.abs(weight) > Math.abs(furthest)) furthest = weight;
  return bits === 4 ? { scale: furthest / -8, zeroPoint: 8 } : { scale: Math.abs(furthest) / 127, zeroPoint: 128 };
}

/** From the smallest to the largest weight, zero included, so that zero is a code and the zero point is in range. */
function asymmetricRange(weights: Float32Array, bits: 4 | 8): BlockRange {
  const codeMax = (1 << bits) - 1;
  let min = 0;
  let max = 0;
  for (const weight of weights) {
    if (weight < min) min = weight;
    else if (weight > max) max = weight;
  }
  const scale = (max - min) / codeMax;
  return { scale, zeroPoint: scale === 0 ? 0 : Math.round(-min / scale) };
}
