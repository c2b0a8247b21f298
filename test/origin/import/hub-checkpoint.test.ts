/** Safetensors checkpoints, imported to the same bytes as a GGUF file with the same weights. */
import {
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { type ImportedModel, listModels } from "../../../origin/import/folder/model-folder.ts";
import { ImportError } from "../../../origin/manifest/import-error.ts";
import { locateModel } from "../../../origin/import/locate.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";
import { writeHubCheckpoint } from "../../fakes/tiny-hub-checkpoint.ts";

let root = "";
let modelsDir = "";
let fromGguf: ImportedModel;
let checkpoint = "";
let parts: { readonly tokenizer: string; readonly chatTemplate: string };

beforeAll(async () => {
  root = mkdtempSync(join(tmpdir(), "coldpath-hub-"));
  modelsDir = join(root, "models");
  writeTinyCheckpoint(join(root, "tiny.gguf"));
  fromGguf = await ensure(join(root, "tiny.gguf"));
  const text = (name: string) => readFileSync(join(fromGguf.folder, name), "utf8");
  parts = { tokenizer: text("tokenizer.json"), chatTemplate: text("chat_template.jinja") };
});
afterAll(() => rmSync(root, { recursive: true, force: true }));
beforeEach(() => {
  checkpoint = join(root, "Tiny-Instruct");
  rmSync(checkpoint, { recursive: true, force: true });
  rmSync(join(modelsDir, "tiny-instruct"), { recursive: true, force: true });
});

function ensure(model: string): Promise<ImportedModel> {
  return ensureModel({
    model,
    config: readImportConfig({ COLDPATH_MODELS_DIR: modelsDir }),
    progress: silentProgress,
    fetch,
  });
}

describe("gives the same bytes as its GGUF file,", () => {
  test.each([
    ["as one file, given by the folder", 1, ""],
    ["as one file, given by the file", 1, "model.safetensors"],
    ["as three files, given by the folder", 3, ""],
    ["as three files, given by the index", 3, "model.safetensors.index.json"],
  ])("%s", async (_, shards, name) => {
    writeHubCheckpoint(checkpoint, { ...parts, shards });
    const { folder, manifest } = await ensure(join(checkpoint, name));
    expect(folder).toBe(join(modelsDir, "tiny-instruct"));
    expect(locateModel({ model: join(checkpoint, name), modelsDir })).toBe(folder);
    expect(manifest.files).toEqual(fromGguf.manifest.files);
    expect(manifest.architecture).toEqual(fromGguf.manifest.architecture);
    expect(manifest.tokens).toMatchObject({ bos: 1, addBos: false });
    expect(manifest.tokens.ends).toContain(2);
    const weights = shards === 1 ? ["model.safetensors"] : ["model.safetensors.index.json"];
    expect(Object.keys(manifest.source.files)).toEqual(
      expect.arrayContaining(["config.json", "generation_config.json", "tokenizer.json", ...weights]),
    );
  });
});

test("is imported again only if one of its files changed", async () => {
  writeHubCheckpoint(checkpoint, { ...parts, shards: 3 });
  const { folder } = await ensure(checkpoint);
  const before = statSync(join(folder, "coldpath.json")).mtimeMs;
  await ensure(checkpoint);
  expect(statSync(join(folder, "coldpath.json")).mtimeMs).toBe(before);
  const later = statSync(join(checkpoint, "config.json")).mtimeMs / 1000 + 100;
  utimesSync(join(checkpoint, "generation_config.json"), later, later);
  await ensure(checkpoint);
  expect(statSync(join(folder, "coldpath.json")).mtimeMs).not.toBe(before);
});

describe("is refused in one sentence without leaving files,", () => {
  const cases: readonly (readonly [string, () => void, string, RegExp])[] = [
    [
      "without a tokenizer",
      () => rmSync(join(checkpoint, "tokenizer.json")),
      "unsupported-tokenizer",
      /has no tokenizer\.json/,
    ],
    [
      "without a shard",
      () => rmSync(join(checkpoint, "model-00002-of-00003.safetensors")),
      "unreadable-file",
      /no such file/,
    ],
    [
      "with a truncated shard",
      () => truncateSync(join(checkpoint, "model-00003-of-00003.safetensors"), 5_000),
      "truncated-file",
      /is truncated/,
    ],
    [
      "with one shard in the place of another",
      () =>
        copyFileSync(
          join(checkpoint, "model-00001-of-00003.safetensors"),
          join(checkpoint, "model-00002-of-00003.safetensors"),
        ),
      "invalid-file",
      /model-0000/,
    ],
  ];
  test.each(cases)("%s", async (_, damage, code, message) => {
    writeHubCheckpoint(checkpoint, { ...parts, shards: 3 });
    damage();
    const error: unknown = await ensure(checkpoint).catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(ImportError);
    expect((error as ImportError).message).toMatch(message);
    expect((error as ImportError).code).toBe(code);
    expect(listModels(modelsDir).map(({ manifest }) => manifest.name)).toEqual(["tiny"]);
  });

  test("if the path is not a checkpoint", async () => {
    await expect(ensure(`${root}/`)).rejects.toThrow(/has no config\.json, so it is not a checkpoint/);
    await expect(ensure(join(root, "missing"))).rejects.toThrow(/does not exist/);
    writeFileSync(join(root, "notes.txt"), "weights");
    await expect(ensure(join(root, "notes.txt"))).rejects.toThrow(/neither a \.gguf or \.safetensors file/);
    await expect(ensure(join(root, "missing.safetensors"))).rejects.toThrow(/there is no file/);
  });
});
