/** Split GGUF files: the same model as a single file, opened by any part; and parts that don't belong together. */
import { copyFileSync, mkdtempSync, renameSync, rmSync, statSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readImportConfig } from "../../../../origin/import/config.ts";
import { ensureModel } from "../../../../origin/import/import.ts";
import { silentProgress } from "../../../../origin/import/progress/progress.ts";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import { modelDigest } from "../../../../origin/manifest/manifest.ts";
import { type TinyCheckpointOptions, type TinyTensor, writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";

const PARTS = 3;

let folder = "";
let whole = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-parts-"));
  whole = join(folder, "whole.gguf");
  writeTinyCheckpoint(whole);
  writeParts();
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function part(number: number, of = PARTS): string {
  return join(folder, `tiny-0000${number}-of-0000${of}.gguf`);
}

interface PartOptions extends TinyCheckpointOptions {
  /** Number of parts in the metadata; default the real one. */
  readonly count?: number;
  /** Number of tensors in the metadata; default the real one. */
  readonly tensors?: number;
  /** Numbers of the parts to write; default all. */
  readonly only?: readonly number[];
}

/** Splits the tiny model like `llama-gguf-split`: a third of the tensors in each part. */
function writeParts({ count = PARTS, tensors, only, ...options }: PartOptions = {}): void {
  for (const number of only ?? [1, 2, 3]) {
    let total = 0;
    const editTensors = (all: TinyTensor[]): TinyTensor[] => {
      total = all.length;
      const size = Math.ceil(all.length / PARTS);
      return all.slice((number - 1) * size, number * size);
    };
    const write = (metadata: TinyCheckpointOptions["metadata"]): void =>
      writeTinyCheckpoint(part(number), { ...options, metadata: { ...options.metadata, ...metadata }, editTensors });
    // The number of tensors is known only after the first write.
    write({});
    write({
      "split.no": { type: "uint32", value: number - 1 },
      "split.count": { type: "uint32", value: count },
      "split.tensors.count": { type: "int32", value: tensors ?? total },
    });
  }
}

function importFrom(model: string): ReturnType<typeof ensureModel> {
  const config = readImportConfig({ COLDPATH_MODELS_DIR: join(folder, "models") });
  return ensureModel({ model, config, progress: silentProgress, fetch });
}

test.each([1, 2, 3])("is read completely, opened by part %d", (number) => {
  using expected = openGguf(whole);
  using actual = openGguf(part(number));
  expect(actual.shapes).toEqual(expected.shapes);
  expect(actual.metadata).toMatchObject({ "general.architecture": "llama" });
  for (const name of expected.shapes.keys()) expect(actual.readTensor(name)).toEqual(expected.readTensor(name));
});

test("is imported once, under the name without the part's number, to the same weights", async () => {
  const { manifest } = await importFrom(part(2));
  const { manifest: fromWhole } = await importFrom(whole);
  expect(manifest.name).toBe("tiny");
  expect(manifest.files["model.onnx.data"]).toEqual(fromWhole.files["model.onnx.data"]);
  expect(modelDigest(manifest)).toBe(modelDigest(fromWhole));
  expect(Object.keys(manifest.source.files)).toEqual([1, 2, 3].map((number) => `tiny-0000${number}-of-00003.gguf`));
  expect(manifest.source.bytes).toBe([1, 2, 3].reduce((sum, number) => sum + statSync(part(number)).size, 0));
  const { folder: written } = await importFrom(part(1));
  const before = statSync(join(written, "coldpath.json")).mtimeMs;
  await importFrom(part(3));
  expect(statSync(join(written, "coldpath.json")).mtimeMs).toBe(before);
});

/** The message of the error, or "opened". */
function refusal(path: string): string {
  try {
    openGguf(path)[Symbol.dispose]();
  } catch (error) {
    return (error as Error).message;
  }
  return "opened";
}

describe("is refused", () => {
  test.each([1, 2, 3])("without part %d", (number) => {
    rmSync(part(number));
    for (const named of [1, 2, 3].filter((other) => other !== number)) {
      expect(refusal(part(named))).toMatch(
        new RegExp(`is one of 3 parts, but .*0000${number}-of-00003.gguf is missing`),
      );
    }
    expect(refusal(part(number))).toMatch(/is missing|no such file/);
  });

  test("with parts in the wrong order, or one part twice", () => {
    renameSync(part(2), join(folder, "second"));
    copyFileSync(part(3), part(2));
    expect(refusal(part(1))).toMatch(/0002-of-00003.gguf says that it is number 2 of 3, counted from 0/);
    renameSync(join(folder, "second"), part(3));
    expect(refusal(part(1))).toMatch(/are not one model/);
  });

  test("with a part of another model", () => {
    writeParts({ only: [2], layers: 3 });
    expect(refusal(part(1))).toMatch(/0002-of-00003.gguf says \d+ tensors in all, not \d+/);
  });

  test("with a tensor in two parts", () => {
    writeTinyCheckpoint(part(3), {
      metadata: {
        "split.no": { type: "uint32", value: 2 },
        "split.count": { type: "uint32", value: 3 },
        "split.tensors.count": { type: "int32", value: openShapes(whole) },
      },
      editTensors: (all) => all.slice(0, all.length - 2 * Math.ceil(all.length / 3)),
    });
    expect(refusal(part(1))).toMatch(/has a second tensor token_embd\.weight/);
  });

  test.each([
    ["a wrong number of parts", { count: 2 }, /says that it is number 0 of 2, counted from 0/],
    ["no number of parts", { count: 0 }, /says nothing about other parts/],
    ["too many tensors", { tensors: 1000 }, /have \d+ tensors, but their metadata says 1000/],
  ] as const)("with %s in the metadata", (_, options, message) => {
    writeParts(options);
    expect(refusal(part(1))).toMatch(message);
  });

  test("with a truncated part, which the message names", () => {
    truncateSync(part(3), statSync(part(3)).size - 1);
    expect(refusal(part(1))).toMatch(/00003-of-00003.gguf is truncated/);
    truncateSync(part(3), 20);
    expect(refusal(part(1))).toMatch(/00003-of-00003.gguf is not a valid GGUF file/);
  });

  test("with a file name that has no part number", () => {
    const lone = join(folder, "lone.gguf");
    copyFileSync(part(1), lone);
    expect(refusal(lone)).toMatch(/says that it is one of 3 files, but its name does not end like/);
  });

  test("without leaving a folder", async () => {
    rmSync(part(3));
    await expect(importFrom(part(1))).rejects.toMatchObject({ code: "unreadable-file" });
    await expect(importFrom(join(folder, "other-00001-of-00003.gguf"))).rejects.toMatchObject({
      code: "unreadable-file",
    });
  });
});

function openShapes(path: string): number {
  using file = openGguf(path);
  return file.shapes.size;
}
