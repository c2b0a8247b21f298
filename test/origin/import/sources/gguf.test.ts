/** Reading GGUF: the right values of a valid file, and one clear sentence for any other file. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import { ImportError } from "../../../../origin/manifest/import-error.ts";
import { readCheckpoint } from "../../../../origin/import/architectures/read-checkpoint.ts";
import {
  tinyCheckpoint,
  type TinyCheckpointOptions,
  type TinyTensor,
  writeTinyCheckpoint,
} from "../../../fakes/tiny-checkpoint.ts";

let folder = "";
let path = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-gguf-"));
  path = join(folder, "model.gguf");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Opens and reads `path` the way the import does. */
async function read(): Promise<void> {
  using file = openGguf(path);
  readCheckpoint(file);
}

/** The error, which must be an ImportError with one line that names the file. */
async function failure(): Promise<ImportError> {
  const error: unknown = await read().then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ImportError);
  const { message } = error as ImportError;
  expect(message).toContain(path);
  expect(message).not.toContain("\n");
  return error as ImportError;
}

describe("reads a valid file's", () => {
  test("sizes and rotary embeddings", async () => {
    writeTinyCheckpoint(path, { tied: false });
    using file = openGguf(path);
    const { config } = readCheckpoint(file);
    expect(config).toMatchObject({ layers: 2, hiddenSize: 128, queryHeads: 4, kvHeads: 2, headDim: 32, ffnSize: 192 });
    expect(config).toMatchObject({ vocabSize: 272, contextLength: 256, tiedEmbeddings: false });
    expect(config.normEpsilon).toBeCloseTo(1e-5, 10);
    expect(config.attention[0]?.rope.frequencies).toHaveLength(16);
    expect(config.attention[0]?.rope.frequencies[0]).toBe(1);
    expect(config.attention[0]?.rope.frequencies[8]).toBeCloseTo(0.01, 12);
  });
});

describe("refuses an incomplete file:", () => {
  test("truncated at any byte of the header, or anywhere in the data", async () => {
    const { bytes, dataOffset } = tinyCheckpoint({ layers: 1 });
    // Each of the first 600 bytes, where all kinds of fields begin and end; then every 97th byte; and the last one.
    const cuts = [...Array(600).keys(), bytes.length - 1, dataOffset - 1, dataOffset, dataOffset + 1];
    for (let cut = 600; cut < bytes.length; cut += cut < dataOffset ? 97 : 9_973) cuts.push(cut);
    for (const cut of cuts) {
      writeFileSync(path, bytes.subarray(0, cut));
      expect(["truncated-file", "invalid-file", "unreadable-file"], `cut at ${cut}`).toContain((await failure()).code);
    }
  });

  test("missing, a folder, or empty", async () => {
    path = join(folder, "missing.gguf");
    expect((await failure()).message).toContain("there is no such file");
    path = folder;
    expect((await failure()).message).toContain("is not a file");
    path = join(folder, "model.gguf");
    writeFileSync(path, "");
    expect((await failure()).code).toBe("truncated-file");
  });

  test("a file of another format", async () => {
    writeFileSync(path, "<!DOCTYPE html><title>404 Not Found</title>".repeat(100));
    expect((await failure()).message).toMatch(/magic number/);
  });
});

describe("refuses a header with", () => {
  const cases: readonly (readonly [string, TinyCheckpointOptions, string, RegExp])[] = [
    [
      "an offset behind the end of the file",
      { editTensors: edit("output_norm.weight", { offset: 2n ** 40n }) },
      "truncated-file",
      /ends at byte/,
    ],
    [
      "an offset beyond safe integers",
      { editTensors: edit("output_norm.weight", { offset: 2n ** 64n - 32n }) },
      "truncated-file",
      /ends at byte/,
    ],
    [
      "a shape larger than the file",
      { editTensors: edit("output_norm.weight", { shape: [2 ** 31, 2 ** 20] }) },
      "truncated-file",
      /ends at byte|valid/,
    ],
    [
      "a shape that overflows",
      { editTensors: edit("output_norm.weight", { shape: [2 ** 31, 2 ** 31, 2 ** 31] }) },
      "invalid-file",
      /impossible shape|valid/,
    ],
    [
      "a shape without elements",
      { editTensors: edit("output_norm.weight", { shape: [0] }) },
      "invalid-file",
      /impossible shape|valid/,
    ],
    [
      "an unknown element type",
      { editTensors: edit("output_norm.weight", { dtype: 16 }) },
      "unsupported-model",
      /GGML type 16/,
    ],
    [
      "rows that are not whole blocks",
      { editTensors: edit("output_norm.weight", { dtype: 8, shape: [33] }) },
      "invalid-file",
      /impossible shape/,
    ],
    ["a duplicate tensor", { editTensors: (all) => [...all, all[0]!] }, "invalid-file", /a duplicate tensor/],
    [
      "a missing tensor",
      { editTensors: (all) => all.filter(({ name }) => !name.includes("ffn_up")) },
      "invalid-file",
      /lacks the tensor blk\.0\.ffn_up/,
    ],
    [
      "a transposed matrix",
      { editTensors: edit("blk.0.ffn_up.weight", { shape: [192, 128] }) },
      "invalid-file",
      /of shape \[128, 192\]/,
    ],
    [
      "an unexpected tensor",
      { editTensors: (all) => [...all, { ...all[1]!, name: "blk.0.attn_q.bias" }] },
      "unsupported-model",
      /attn_q\.bias/,
    ],
  ];
  test.each(cases)("%s", async (_, options, code, message) => {
    writeTinyCheckpoint(path, options);
    const error = await failure();
    expect(error.message).toMatch(message);
    expect(error.code).toBe(code);
  });

  test("counts that would exhaust memory", async () => {
    for (const at of [8, 16]) {
      const bytes = Buffer.from(tinyCheckpoint().bytes);
      bytes.writeBigUInt64LE(2n ** 62n, at);
      writeFileSync(path, bytes);
      expect((await failure()).code).toBe("invalid-file");
    }
  });
});

describe("reads rows", () => {
  test("equal to the rows of the whole tensor", async () => {
    writeTinyCheckpoint(path);
    using file = openGguf(path);
    const whole = file.readTensor("token_embd.weight");
    expect(file.readRows("token_embd.weight", 3, 7)).toEqual(whole.slice(3 * 128, 7 * 128));
    expect(file.readRows("token_embd.weight", 271, 272)).toEqual(whole.slice(271 * 128));
    expect(file.readRows("output_norm.weight", 0, 1)).toEqual(file.readTensor("output_norm.weight"));
  });

  test("that exist, and no others", async () => {
    writeTinyCheckpoint(path);
    using file = openGguf(path);
    for (const [from, to] of [
      [-1, 1],
      [2, 1],
      [0, 273],
      [Number.NaN, 1],
    ] as const) {
      expect(() => file.readRows("token_embd.weight", from, to)).toThrow(RangeError);
    }
    expect(() => file.readRows("nothing", 0, 1)).toThrow(ImportError);
  });
});

test("keeps its file open until it is disposed, and notices a file that becomes shorter", async () => {
  writeTinyCheckpoint(path);
  using file = openGguf(path);
  writeFileSync(path, readFileSync(path).subarray(0, 8_000));
  expect(() => file.readTensor("blk.1.ffn_down.weight")).toThrow(/was truncated while it was read/);
});

/** Changes one tensor of a checkpoint. */
function edit(name: string, change: Partial<TinyTensor>): (tensors: TinyTensor[]) => TinyTensor[] {
  return (tensors) => tensors.map((tensor) => (tensor.name === name ? { ...tensor, ...change } : tensor));
}
