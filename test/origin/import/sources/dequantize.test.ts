/** Dequantization, bit for bit equal to llama.cpp's Python package. dequantize.fixture.py made the fixture. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ggmlType, ggmlTypeNames } from "../../../../origin/import/sources/dequantize/ggml-types.ts";
import { dequantize, type WeightEncoding } from "../../../../origin/import/sources/dequantize/weight-encoding.ts";
import { mulberry32 } from "../../../fakes/mulberry32.ts";

interface Case {
  readonly dtype: number;
  readonly name: string;
  /** Byte offsets of the halves in a block. */
  readonly halves: readonly number[];
  readonly sha256: string;
  readonly first: readonly number[];
}

const fixture = JSON.parse(readFileSync(new URL("dequantize.fixture.json", import.meta.url), "utf8")) as {
  readonly blocks: number;
  readonly cases: readonly Case[];
};

/** The fixture's blocks: random bytes without infinities and NaN. */
function randomBlocks({ dtype, name, halves }: Case, { blockBytes }: WeightEncoding): Uint8Array<ArrayBuffer> {
  const random = mulberry32(dtype + 1);
  const bytes = Uint8Array.from({ length: fixture.blocks * blockBytes }, () => Math.floor(random() * 256));
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < bytes.length; block += blockBytes) {
    if (name === "F32") clear32(view, block);
    else if (name === "BF16") clear16(view, block, 0x7f_80);
    else if (name === "F16") clear16(view, block, 0x7c_00);
    else for (const at of halves) clear16(view, block + at, 0x7c_00);
  }
  return bytes;
}

/** Clears the lowest bit of an exponent that is all ones. */
function clear16(view: DataView, at: number, exponent: number): void {
  const word = view.getUint16(at, true);
  if ((word & exponent) === exponent) view.setUint16(at, word & ~(exponent & -exponent), true);
}

function clear32(view: DataView, at: number): void {
  const word = view.getUint32(at, true);
  if ((word & 0x7f_80_00_00) === 0x7f_80_00_00) view.setUint32(at, word & ~0x80_00_00, true);
}

test.each(fixture.cases)("decodes $name to the same bits as llama.cpp's package", (expected) => {
  const type = ggmlType(expected.dtype)!;
  expect(type.name).toBe(expected.name);
  const bytes = randomBlocks(expected, type);
  const weights = dequantize(bytes, type);
  expect([...weights.subarray(0, 32)]).toEqual(expected.first);
  expect(createHash("sha256").update(new Uint8Array(weights.buffer)).digest("hex")).toBe(expected.sha256);

  // The same blocks two bytes into a larger buffer, so that only halves are aligned.
  const shifted = new Uint8Array(bytes.length + 4);
  shifted.set(bytes, 2);
  expect(dequantize(shifted.subarray(2, 2 + bytes.length), type)).toEqual(weights);
});

test("the fixture has all supported types", () => {
  expect(fixture.cases.map(({ name }) => name).toSorted()).toEqual(ggmlTypeNames().split(", ").toSorted());
});

test("has no encoding for other type numbers", () => {
  for (const dtype of [-1, 4, 5, 9, 15, 16, 31, 1.5, Number.NaN]) expect(ggmlType(dtype)).toBeUndefined();
});
