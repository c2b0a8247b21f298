/** GGUF headers: compared with another parser, all kinds of values, and limits of what a header may claim. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gguf } from "@huggingface/gguf";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { ImportError } from "../../../../origin/manifest/import-error.ts";
import { type GgufHeader, readGgufHeader } from "../../../../origin/import/sources/gguf-header.ts";
import { ReadableFile } from "../../../../origin/import/sources/readable-file.ts";
import { tinyCheckpoint, writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";

let folder = "";
let path = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-gguf-header-"));
  path = join(folder, "model.gguf");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function read(file = path): GgufHeader {
  using readable = new ReadableFile(file);
  return readGgufHeader(readable);
}

/** The error, which must be an ImportError. */
function failure(bytes: Uint8Array): ImportError {
  writeFileSync(path, bytes);
  let error: unknown;
  try {
    read();
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(ImportError);
  return error as ImportError;
}

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const u64 = (value: number | bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
};
const text = (value: string): Buffer => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

/** A header with these keys and values and no tensors. */
function header(...pairs: readonly (readonly [key: string, type: number, value: Uint8Array])[]): Buffer {
  const start = [Buffer.from("GGUF"), u32(3), u64(0), u64(pairs.length)];
  return Buffer.concat([...start, ...pairs.flatMap(([key, type, value]) => [text(key), u32(type), value])]);
}

const list = (type: number, length: number | bigint, ...elements: Uint8Array[]): Buffer =>
  Buffer.concat([u32(type), u64(length), ...elements]);

describe("reads the same as Hugging Face's parser", () => {
  test.each(["the real model's", "a tiny model's"])("in %s header", async (which) => {
    if (which.startsWith("a tiny")) writeTinyCheckpoint(path, { ropeFactors: [1, 2], tied: false });
    const file = which.startsWith("a tiny") ? path : inject("modelFile");
    const { metadata, tensors, dataOffset } = read(file);
    const theirs = await gguf(file, { allowLocalFile: true });
    const { version, tensor_count: tensorCount, kv_count: keyCount, ...pairs } = theirs.metadata;
    expect(version).toBeGreaterThan(1);
    expect(metadata).toEqual(pairs);
    expect(Object.keys(metadata)).toHaveLength(Number(keyCount));
    expect(tensors).toHaveLength(Number(tensorCount));
    expect(tensors).toEqual(
      theirs.tensorInfos.map(({ name, shape, dtype, offset }) => {
        return { name, shape: shape.map(Number).toReversed(), dtype, offset: Number(offset) };
      }),
    );
    expect(dataOffset).toBe(Number(theirs.tensorDataOffset));
  });
});

test("reads all kinds of values", () => {
  const f32 = Buffer.alloc(4);
  f32.writeFloatLE(-1.5);
  const f64 = Buffer.alloc(8);
  f64.writeDoubleLE(0.1);
  writeFileSync(
    path,
    header(
      ["u8", 0, Buffer.of(200)],
      ["i8", 1, Buffer.of(200)],
      ["u16", 2, Buffer.of(0xfe, 0xff)],
      ["i16", 3, Buffer.of(0xfe, 0xff)],
      ["u32", 4, u32(0xffff_fffe)],
      ["i32", 5, u32(0xffff_fffe)],
      ["f32", 6, f32],
      ["bool", 7, Buffer.of(1)],
      ["string", 8, text("größer 😀\0")],
      ["list", 9, list(8, 2, text("a"), text(""))],
      ["lists", 9, list(9, 2, list(7, 2, Buffer.of(0, 1)), list(4, 0))],
      ["u64", 10, u64(2n ** 53n - 1n)],
      ["u64 beyond", 10, u64(2n ** 53n)],
      ["i64", 11, u64(2n ** 64n - 2n)],
      ["f64", 12, f64],
      ["__proto__", 4, u32(7)],
    ),
  );
  const { metadata } = read();
  expect(Object.entries(metadata)).toEqual([
    ["u8", 200],
    ["i8", -56],
    ["u16", 65534],
    ["i16", -2],
    ["u32", 4294967294],
    ["i32", -2],
    ["f32", -1.5],
    ["bool", true],
    ["string", "größer 😀\0"],
    ["list", ["a", ""]],
    ["lists", [[false, true], []]],
    ["u64", 9007199254740991],
    ["u64 beyond", 9007199254740992n],
    ["i64", -2],
    ["f64", 0.1],
    ["__proto__", 7],
  ]);
});

test("reads a string that is longer than one read of the file", () => {
  const long = "é".repeat(3 * 2 ** 20);
  writeFileSync(
    path,
    header(["first", 8, text("x".repeat(2 ** 20 - 60))], ["long", 8, text(long)], ["last", 7, Buffer.of(0)]),
  );
  const { metadata } = read();
  expect(metadata["long"] === long).toBe(true);
  expect(metadata["last"]).toBe(false);
});

describe("refuses a header with", () => {
  const cases: readonly (readonly [string, Uint8Array, RegExp])[] = [
    [
      "big-endian numbers",
      Buffer.concat([Buffer.from("GGUF"), Buffer.of(0, 0, 0, 3), u64(0), u64(0)]),
      /is big-endian/,
    ],
    ["version 1", Buffer.concat([Buffer.from("GGUF"), u32(1), u64(0), u64(0)]), /version 1;/],
    ["a duplicate key", header(["a", 7, Buffer.of(0)], ["a", 7, Buffer.of(1)]), /a duplicate key a/],
    ["an unknown type", header(["a", 13, u64(0)]), /unknown type 13/],
    ["an unknown type in a list", header(["a", 9, list(13, 1, u64(0), u64(0))]), /unknown type 13/],
    ["a boolean of 2", header(["a", 7, Buffer.of(2)]), /2 as a boolean/],
    ["an alignment of 0", header(["general.alignment", 4, u32(0)]), /not a multiple of 8/],
    ["an odd alignment", header(["general.alignment", 4, u32(33)]), /not a multiple of 8/],
    ["a string as the alignment", header(["general.alignment", 8, text("32")]), /not a multiple of 8/],
    ["a string beyond the file", header(["a", 8, u64(2n ** 60n)]), /inside its header/],
    ["a list beyond the file", header(["a", 9, list(0, 2n ** 60n)]), /1152921504606847000 elements/],
    ["a list one byte beyond the file", header(["a", 9, list(0, 3, Buffer.of(1, 2))]), /claims 3 elements/],
    [
      "lists nested five deep",
      header(["a", 9, list(9, 1, list(9, 1, list(9, 1, list(9, 1, list(0, 1, u32(0))))))]),
      /4 deep/,
    ],
  ];
  test.each(cases)("%s", (_, bytes, message) => {
    const error = failure(bytes);
    expect(error.message).toMatch(message);
    expect(error.message).toContain(path);
  });

  test("a name of megabytes of control characters, in one short line", () => {
    const odd = "\n\u001b[2J\u2028".repeat(100_000);
    const { message } = failure(header([odd, 7, Buffer.of(0)], [odd, 7, Buffer.of(0)]));
    expect(message).not.toMatch(/[\p{Cc}\p{Zl}\p{Zp}]/u);
    expect(message.length).toBeLessThan(3_000);
  });

  test("a list that would exhaust memory although it fits into the file", () => {
    const error = failure(header(["a", 9, list(0, 2 ** 22 + 1, Buffer.alloc(2 ** 22 + 1))]));
    expect(error.message).toMatch(/a list of 4194305 elements; the limit is 4194304/);
  });

  test("more keys or tensors than fit into the file", () => {
    for (const at of [8, 16]) {
      const { bytes } = tinyCheckpoint();
      new DataView(bytes.buffer, bytes.byteOffset).setBigUint64(at, 2n ** 62n, true);
      expect(failure(bytes).message).toMatch(/claims 4611686018427388000 (keys|tensors)/);
    }
  });
});
