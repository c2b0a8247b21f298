/** Block quantization: hand-made blocks, the bounds that rounding promises, and the shapes that can't be packed. */
import { describe, expect, test } from "vitest";
import type { BlockFormat } from "../../../../origin/onnx/weight-formats.ts";
import { blockScales } from "../../../../origin/onnx/scales.ts";
import { extremeRange } from "../../../../origin/import/quantize/block-range.ts";
import { dequantizeBlocks, quantizeBlocks } from "../../../../origin/import/quantize/quantize-blocks.ts";

const int4: BlockFormat = { bits: 4, blockSize: 16, symmetric: true };
const int8: BlockFormat = { bits: 8, blockSize: 16, symmetric: true };

describe("packs codes as MatMulNBits reads them", () => {
  test("four bits: low nibble first, zero point 8, the furthest weight at code 0", () => {
    const weights = Float32Array.of(-8, 7, 0, 1, 2, 3, 4, 5, 6, -1, -2, -3, -4, -5, -6, -7);
    const quantized = quantizeBlocks(weights, { rows: 1, columns: 16 }, int4);
    expect([...quantized.packed]).toEqual([0xf0, 0x98, 0xba, 0xdc, 0x7e, 0x56, 0x34, 0x12]);
    expect(blockScales(quantized)[0]).toBeCloseTo(1, 2);
    expect(quantized.zeroPoints).toBeUndefined();
  });

  test("eight bits: zero point 128, the furthest weight at 1 or 255", () => {
    const weights = new Float32Array(16).fill(0.5);
    weights[3] = -127;
    const quantized = quantizeBlocks(weights, { rows: 1, columns: 16 }, int8);
    expect(quantized.packed[3]).toBe(1);
    expect(quantized.packed[0]).toBe(128);
    expect(blockScales(quantized)[0]).toBeCloseTo(1, 2);
  });

  test("four bits with zero points: two blocks' zero points in one byte, an odd last block alone", () => {
    const weights = new Float32Array(48);
    for (let i = 0; i < 16; i++) {
      weights[i] = i; // 0 to 15: zero point 0
      weights[16 + i] = -i; // -15 to 0: zero point 15
      weights[32 + i] = i - 5; // -5 to 10: zero point 5
    }
    const format = { ...int4, symmetric: false };
    const { packed, scaleCodes, zeroPoints } = quantizeBlocks(weights, { rows: 1, columns: 48 }, format);
    expect([...scaleCodes]).toEqual([127, 127, 127]);
    expect([...zeroPoints!]).toEqual([0xf0, 0x05]);
    expect(packed[0]).toBe(0x10);
    expect(packed[8]).toBe(0xef);
  });

  test("a row that is no whole number of blocks is padded with zeros of its own block", () => {
    const weights = Float32Array.from({ length: 40 }, (_, i) => i - 20);
    const { packed, scaleCodes } = quantizeBlocks(weights, { rows: 2, columns: 20 }, int8);
    expect(packed).toHaveLength(2 * 2 * 16);
    expect(scaleCodes).toHaveLength(4);
    expect([...packed.subarray(20, 32)]).toEqual(Array.from({ length: 12 }, () => 128));
  });
});

describe("loses no more than rounding to a code", () => {
  const weights = Float32Array.from({ length: 6 * 100 }, (_, i) => Math.sin(i * i) * (1 + (i % 7)));
  const shape = { rows: 6, columns: 100 };
  test.each([
    ["int4", int4, 8],
    ["int4 with zero points", { ...int4, symmetric: false }, 7.5],
    ["int8", int8, 127],
    ["int8 with zero points, block 64", { bits: 8, blockSize: 64, symmetric: false } as const, 127.5],
  ] as const)("%s", (_, format, steps) => {
    const back = dequantizeBlocks(quantizeBlocks(weights, shape, format), shape, format);
    expect(back).toHaveLength(weights.length);
    for (const [i, weight] of weights.entries()) {
      // Half a code of a range as wide as the largest weight; symmetric int4 may clip the other side by a whole code.
      expect(Math.abs(back[i]! - weight)).toBeLessThanOrEqual((7 / steps) * (format.bits === 4 ? 1 : 0.51));
    }
  });

  test("all zeros stay zeros in every format", () => {
    for (const format of [int4, int8, { ...int4, symmetric: false }, { ...int8, symmetric: false }]) {
      const shapeOfOne = { rows: 1, columns: 16 };
      const back = dequantizeBlocks(quantizeBlocks(new Float32Array(16), shapeOfOne, format), shapeOfOne, format);
      expect(back.every((weight) => weight === 0)).toBe(true);
    }
  });
});

describe("a block's scale is a code times its row's", () => {
  const shape = { rows: 2, columns: 48 };
  // Blocks of 1, a tenth and a hundredth in the first row; the second is ten thousand times smaller.
  const weights = Float32Array.from(
    { length: 96 },
    (_, i) => Math.cos(i * 7) * 10 ** -Math.floor((i % 48) / 16) * (i < 48 ? 1 : 1e-4),
  );

  test.each([int4, int8, { ...int4, symmetric: false }, { ...int8, symmetric: false }])(
    "and never smaller than the weights need, nor larger by more than a step: %j",
    (format) => {
      const quantized = quantizeBlocks(weights, shape, format);
      for (const [index, scale] of blockScales(quantized).entries()) {
        const [row, block] = [Math.floor(index / 3), index % 3];
        const wanted = extremeRange(weights.subarray(row * 48 + block * 16, row * 48 + (block + 1) * 16), format).scale;
        expect(Math.sign(scale)).toBe(Math.sign(wanted));
        expect(Math.abs(scale)).toBeGreaterThanOrEqual(Math.abs(wanted) * (1 - 1e-6));
        expect(Math.abs(scale)).toBeLessThanOrEqual(Math.abs(wanted) + quantized.rowScales[row]! * (1 + 1e-6));
      }
    },
  );

  test("also where half precision has few digits left", () => {
    const tiny = weights.map((weight) => weight * 1e-4);
    const back = dequantizeBlocks(quantizeBlocks(tiny, shape, int8), shape, int8);
    // The smallest number in half precision, in each of 127 codes of the scale: half of it lost at most.
    for (const [i, weight] of tiny.entries()) expect(Math.abs(back[i]! - weight)).toBeLessThan((127 * 2 ** -24) / 2);
  });

  test("and refuses weights that no model has", () => {
    const huge = new Float32Array(96).fill(1e10);
    expect(() => quantizeBlocks(huge, shape, int8)).toThrow(/weights as large as/);
  });
});

test("refuses a matrix of another size and a block that can't be packed", () => {
  expect(() => quantizeBlocks(new Float32Array(31), { rows: 2, columns: 16 }, int4)).toThrow(RangeError);
  expect(() => quantizeBlocks(new Float32Array(24), { rows: 1, columns: 24 }, { ...int4, blockSize: 24 })).toThrow(
    RangeError,
  );
});
