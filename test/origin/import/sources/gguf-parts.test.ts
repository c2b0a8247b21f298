/** A GGUF in several files: the same model as in one, from any part; and no model where the parts are not one. */
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
  /** What the parts say of how many they are; default the truth. */
  readonly count?: number;
  /** What they say of how many tensors there are; default the truth. */
  readonly tensors?: number;
  /** Which parts are written; default all. */
  readonly only?: readonly number[];
}

/** Cuts the tiny model as `llama-gguf-split` would: a third of the tensors each, what the model is in the first. */
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
    // How many there are is known only when they have been made.
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

test.each([1, 2, 3])("is read whole, whichever part is named: %d", (number) => {
  using expected = openGguf(whole);
  using actual = openGguf(part(number));
  expect(actual.shapes).toEqual(expected.shapes);
  expect(actual.metadata).toMatchObject({ "general.architecture": "llama" });
  for (const name of expected.shapes.keys()) expect(actual.readTensor(name)).toEqual(expected.readTensor(name));
});

test("is imported under the name without numbers, to the same weights, and once only", async () => {
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

/** What it is refused with. */
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
        new RegExp(`is one of 3 parts, and .*0000${number}-of-00003.gguf is not there`),
      );
    }
    expect(refusal(part(number))).toMatch(/not there|no such file/);
  });

  test("with parts in another order, or one of them twice", () => {
    renameSync(part(2), join(folder, "second"));
    copyFileSync(part(3), part(2));
    expect(refusal(part(1))).toMatch(/0002-of-00003.gguf says that it is number 2 of 3, from 0 on/);
    renameSync(join(folder, "second"), part(3));
    expect(refusal(part(1))).toMatch(/are not one model/);
  });

  test("with a part of a model of other tensors", () => {
    writeParts({ only: [2], layers: 3 });
    expect(refusal(part(1))).toMatch(/0002-of-00003.gguf is of \d+ tensors, not \d+/);
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
    expect(refusal(part(1))).toMatch(/has token_embd\.weight once more/);
  });

  test.each([
    ["of another count", { count: 2 }, /says that it is number 0 of 2, from 0 on/],
    ["of no count", { count: 0 }, /says nothing of other parts/],
    ["of more tensors than they have", { tensors: 1000 }, /have \d+ tensors, not the 1000 that they speak of/],
  ] as const)("where they speak %s", (_, options, message) => {
    writeParts(options);
    expect(refusal(part(1))).toMatch(message);
  });

  test("with a part that is cut, in one line that names it", () => {
    truncateSync(part(3), statSync(part(3)).size - 1);
    expect(refusal(part(1))).toMatch(/00003-of-00003.gguf is truncated/);
    truncateSync(part(3), 20);
    expect(refusal(part(1))).toMatch(/00003-of-00003.gguf is not a sound GGUF file/);
  });

  test("where its name does not say that there are others", () => {
    const lone = join(folder, "lone.gguf");
    copyFileSync(part(1), lone);
    expect(refusal(lone)).toMatch(/says that it is one of 3 files, but its name does not end like/);
  });

  test("without a folder being left of it", async () => {
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
