/**
 * Searched scales against the definition: the error of a range is counted here, one weight after the other, and the search
 * is held to the range by extremes and, on few weights, to every range of a fine grid.
 */
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { CodeFormat } from "../../../../origin/onnx/weight-formats.ts";
import { type BlockRange, extremeRange, fittedRange } from "../../../../origin/import/quantize/block-range.ts";
import { mulberry32 } from "../../../fakes/mulberry32.ts";

const FORMATS: readonly CodeFormat[] = [
  { bits: 4, symmetric: true },
  { bits: 4, symmetric: false },
  { bits: 8, symmetric: true },
  { bits: 8, symmetric: false },
];

/** The squared error of the nearest code of every weight, from the definition of a code, times what the weight counts. */
function squaredError(
  weights: Float32Array,
  { scale, zeroPoint }: BlockRange,
  { bits }: CodeFormat,
  counts: (weight: number) => number = () => 1,
): number {
  let error = 0;
  for (const weight of weights) {
    let nearest = Infinity;
    for (let code = 0; code < 1 << bits; code++) {
      nearest = Math.min(nearest, Math.abs(weight - (code - zeroPoint) * Math.fround(scale)));
    }
    error += counts(weight) * nearest ** 2;
  }
  return error;
}

function bellShaped(seed: number, length: number): Float32Array {
  const random = mulberry32(seed);
  return Float32Array.from({ length }, () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random()));
}

const weightsArbitrary = fc.array(fc.float({ min: -8, max: 8, noNaN: true }), { minLength: 1, maxLength: 64 });

describe.each(FORMATS)("%j", (format) => {
  test("a searched range never loses more than the one by extremes", () => {
    fc.assert(
      fc.property(weightsArbitrary, (values) => {
        const weights = Float32Array.from(values);
        const fitted = squaredError(weights, fittedRange(weights, format), format);
        const extreme = squaredError(weights, extremeRange(weights, format), format);
        // The search rounds a weight that is half way between two codes to one of them, and both are as far.
        expect(fitted).toBeLessThanOrEqual(extreme * (1 + 1e-9));
      }),
      { numRuns: 300 },
    );
  });

  test("its scale is finite and its zero point a code, whatever the weights", () => {
    fc.assert(
      fc.property(weightsArbitrary, (values) => {
        const { scale, zeroPoint } = fittedRange(Float32Array.from(values), format);
        expect(Number.isFinite(scale)).toBe(true);
        expect(Number.isInteger(zeroPoint) && zeroPoint >= 0 && zeroPoint < 2 ** format.bits).toBe(true);
      }),
      { numRuns: 300 },
    );
  });

  test("a block of zeros has scale 0, one of equal weights loses next to nothing", () => {
    expect(Math.abs(fittedRange(new Float32Array(32), format).scale)).toBe(0);
    const equal = new Float32Array(32).fill(0.37);
    expect(squaredError(equal, fittedRange(equal, format), format)).toBeLessThan(1e-12);
  });

  test("weights that are codes already come back exactly", () => {
    const { symmetric, bits } = format;
    const zeroPoint = symmetric ? 1 << (bits - 1) : 5;
    const weights = Float32Array.from({ length: 64 }, (_, i) => (Math.max(1, i % (1 << bits)) - zeroPoint) * 0.0078125);
    weights[1] = (symmetric && bits === 4 ? -8 : 1 - zeroPoint) * 0.0078125;
    weights[2] = ((symmetric && bits === 4 ? 15 : (1 << bits) - 1) - zeroPoint) * 0.0078125;
    if (!symmetric) weights[1] = -zeroPoint * 0.0078125;
    expect(squaredError(weights, fittedRange(weights, format), format)).toBe(0);
  });
});

/** What the search is for: a weight's error counts by its square. */
const bySquare = (weight: number) => weight ** 2;

test.each(FORMATS.slice(0, 2))("a search of bell-shaped weights gains a tenth of what it is for: %j", (format) => {
  let [fitted, extreme] = [0, 0];
  for (let seed = 1; seed <= 50; seed++) {
    const weights = bellShaped(seed, 32);
    fitted += squaredError(weights, fittedRange(weights, format), format, bySquare);
    extreme += squaredError(weights, extremeRange(weights, format), format, bySquare);
  }
  expect(fitted).toBeLessThan(0.9 * extreme);
});

test("a search finds nearly what trying every scale would", () => {
  const format: CodeFormat = { bits: 4, symmetric: true };
  let [fitted, best] = [0, 0];
  for (let seed = 1; seed <= 20; seed++) {
    const weights = bellShaped(seed, 32);
    const furthest = weights.reduce((max, weight) => Math.max(max, Math.abs(weight)), 0);
    let least = Infinity;
    for (let step = -300; step <= 300; step++) {
      const scale = ((step / 200) * furthest) / 8;
      least = Math.min(least, squaredError(weights, { scale, zeroPoint: 8 }, format, bySquare));
    }
    fitted += squaredError(weights, fittedRange(weights, format), format, bySquare);
    best += least;
  }
  expect(fitted).toBeLessThan(1.1 * best);
});
