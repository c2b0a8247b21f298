/** Codes with one scale for a whole row: hand-made rows, the bound that rounding promises, and what can't be had. */
import { describe, expect, test } from "vitest";
import { dequantizeRows, quantizeRows } from "../../../../origin/import/quantize/quantize-rows.ts";

test("the furthest weight of a row has the code 1 or 255, zero has 128, and codes lie by column", () => {
  const weights = Float32Array.of(-127, 0, 64, /* the second row */ 0.25, 1, 0);
  const { codes, scales } = quantizeRows(weights, { rows: 2, columns: 3 });
  expect([...codes]).toEqual([1, 160, 128, 255, 192, 128]);
  expect(scales[0]).toBe(1);
  expect(scales[1]).toBeCloseTo(1 / 127, 4);
});

describe("loses no more than rounding to a code and to half precision", () => {
  const shape = { rows: 5, columns: 77 };
  const weights = Float32Array.from({ length: 5 * 77 }, (_, i) => Math.sin(i * i) * 10 ** -Math.floor(i / 77));

  test("row by row, whatever the others' size", () => {
    const quantized = quantizeRows(weights, shape);
    const back = dequantizeRows(quantized, shape);
    for (const [row, scale] of quantized.scales.entries()) {
      expect(scale).toBeLessThan(10 ** -row / 127 / 0.999 + 2 ** -24);
      for (let i = row * shape.columns; i < (row + 1) * shape.columns; i++) {
        expect(Math.abs(back[i]! - weights[i]!)).toBeLessThan(scale * 0.501);
      }
    }
  });

  test("all zeros stay zeros", () => {
    const back = dequantizeRows(quantizeRows(new Float32Array(8), { rows: 2, columns: 4 }), { rows: 2, columns: 4 });
    expect(back.every((weight) => weight === 0)).toBe(true);
  });
});

test("refuses a matrix of another size and weights that no model has", () => {
  expect(() => quantizeRows(new Float32Array(7), { rows: 2, columns: 4 })).toThrow(RangeError);
  expect(() => quantizeRows(new Float32Array(4).fill(1e10), { rows: 1, columns: 4 })).toThrow(/weights as large as/);
});
