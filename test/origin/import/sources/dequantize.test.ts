/** De-quantization against the reference implementation's own numbers. */
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { dequantize, elementType } from "../../../../origin/import/sources/dequantize.ts";

interface Fixture {
  readonly cases: readonly {
    readonly dtype: number;
    readonly name: string;
    readonly bytes: string;
    readonly weights: readonly number[];
  }[];
}

const { cases } = JSON.parse(readFileSync(new URL("dequantize.fixture.json", import.meta.url), "utf8")) as Fixture;

test.each(cases)(
  "decodes $name to the weights that llama.cpp's own package decodes",
  ({ dtype, name, bytes, weights }) => {
    const type = elementType(dtype)!;
    expect(type.name).toBe(name);
    const decoded = dequantize(Buffer.from(bytes, "base64"), type);
    expect(decoded).toHaveLength(weights.length);
    // llama.cpp rounds code * scale to a float before it adds the minimum, JavaScript after: one rounding apart.
    for (const [i, weight] of weights.entries()) expect(Math.abs(decoded[i]! - weight)).toBeLessThanOrEqual(2e-6);
  },
);

test("knows no element type that it can't decode", () => {
  expect(elementType(12)).toBeUndefined();
  expect(elementType(-1)).toBeUndefined();
});
