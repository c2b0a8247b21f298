/** Imports into folders, also with damaged or missing files, and several imports at once. */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel, type EnsureOptions } from "../../../origin/import/import.ts";
import { type ImportedModel, listModels } from "../../../origin/import/folder/model-folder.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { modelDigest, readManifest } from "../../../origin/manifest/manifest.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";

let root = "";
let gguf = "";
let modelsDir = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-import-"));
  gguf = join(root, "Tiny Model.gguf");
  modelsDir = join(root, "models");
  writeTinyCheckpoint(gguf);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** Imports for an unknown processor, so that the default format does not depend on the machine. */
function ensure(options: Partial<EnsureOptions> = {}): Promise<ImportedModel> {
  const config = readImportConfig({ COLDPATH_MODELS_DIR: modelsDir });
  const processor = { arch: "x64", cpuinfo: "" };
  return ensureModel({ model: gguf, config, processor, progress: silentProgress, fetch, ...options });
}

function digests(folder: string): Record<string, string> {
  const digest = (file: string) =>
    createHash("sha256")
      .update(readFileSync(join(folder, file)))
      .digest("hex");
  return Object.fromEntries(readdirSync(folder).map((file) => [file, digest(file)]));
}

test("a model without a chat template is imported with a message, twice to the same bytes", async () => {
  writeTinyCheckpoint(gguf, { metadata: { "tokenizer.chat_template": undefined } });
  const lines: string[] = [];
  const progress = { ...silentProgress, line: (text: string) => void lines.push(text) };
  const { folder, manifest } = await ensure({ progress });
  expect(lines).toEqual(["tiny-model has no chat template: it serves /v1/completions only"]);
  expect(manifest.chat).toBe(false);
  expect(existsSync(join(folder, "chat_template.jinja"))).toBe(false);
  const first = digests(folder);
  rmSync(folder, { recursive: true });
  expect(digests((await ensure()).folder)).toEqual(first);
});

test("writes a folder whose manifest describes every file", async () => {
  const { folder, manifest } = await ensure();
  expect(folder).toBe(join(modelsDir, "tiny-model"));
  expect(readManifest(folder)).toEqual(manifest);
  expect(manifest).toMatchObject({
    name: "tiny-model",
    quantization: { format: "int8-rotated", matrices: { up: { bits: 8, blockSize: 64 } } },
  });
  const original = {
    bytes: statSync(gguf).size,
    sha256: createHash("sha256").update(readFileSync(gguf)).digest("hex"),
  };
  expect(manifest.source).toEqual({
    kind: "file",
    name: "Tiny Model.gguf",
    location: "Tiny Model.gguf",
    revision: null,
    ...original,
    files: { "Tiny Model.gguf": original },
  });
  expect(manifest.command.slice(4)).toEqual([
    "import",
    "Tiny Model.gguf",
    "--name",
    "tiny-model",
    "--format",
    "int8-rotated",
  ]);
  expect(manifest.tool).toEqual({ name: "coldpath", version: expect.stringMatching(/^\d+\.\d+\.\d+$/) as string });
  const { "coldpath.json": _, ...files } = digests(folder);
  expect(Object.fromEntries(Object.entries(manifest.files).map(([file, { sha256 }]) => [file, sha256]))).toEqual(files);
  expect(readdirSync(modelsDir)).toEqual(["tiny-model"]);
});

test("writes the same bytes in another folder", async () => {
  const first = await ensure({ folder: join(root, "a"), name: "same" });
  const second = await ensure({ folder: join(root, "b"), name: "same" });
  expect(digests(first.folder)).toEqual(digests(second.folder));
  expect(modelDigest(first.manifest)).toBe(modelDigest(second.manifest));
});

test("chooses the default format by the processor, but keeps an existing folder's format", async () => {
  const { manifest } = await ensure({ processor: { arch: "x64", cpuinfo: "flags : avx2 fma\n" } });
  expect(manifest.quantization.format).toBe("int8-rows");
  expect((await ensure()).manifest).toEqual(manifest);
});

describe("does nothing", () => {
  test("if the folder is up to date", async () => {
    const { folder } = await ensure();
    const before = statSync(join(folder, "coldpath.json")).mtimeMs;
    await ensure();
    expect(statSync(join(folder, "coldpath.json")).mtimeMs).toBe(before);
  });

  test("if the folder has a format that was chosen before and no format is given now", async () => {
    await ensure({ format: "int4" });
    expect((await ensure()).manifest.quantization.format).toBe("int4");
  });
});

describe("imports again", () => {
  test("if a file is missing or has another size", async () => {
    const { folder } = await ensure();
    const whole = digests(folder);
    truncateSync(join(folder, "model.onnx.data"), 1000);
    await ensure();
    expect(digests(folder)).toEqual(whole);
    rmSync(join(folder, "tokenizer.json"));
    await ensure();
    expect(digests(folder)).toEqual(whole);
  });

  test("if the manifest is damaged or of another version", async () => {
    const { folder } = await ensure();
    for (const text of ["", "{", "null", JSON.stringify({ importVersion: 0 })]) {
      writeFileSync(join(folder, "coldpath.json"), text);
      expect(listModels(modelsDir)).toEqual([]);
      await ensure();
      expect(listModels(modelsDir)).toHaveLength(1);
    }
  });

  test("if the source has changed, or another format is given", async () => {
    const first = await ensure();
    writeTinyCheckpoint(gguf, { seed: 2 });
    utimesSync(gguf, 1e9, 1e9);
    const second = await ensure();
    expect(modelDigest(second.manifest)).not.toBe(modelDigest(first.manifest));
    expect((await ensure({ format: "fp32" })).manifest.quantization).toMatchObject({
      format: "fp32",
      matrices: { head: "fp32" },
    });
  });

  test("in the same format and with a message if another version imported the model", async () => {
    const { folder } = await ensure({ format: "int4" });
    const path = join(folder, "coldpath.json");
    const older = { ...(JSON.parse(readFileSync(path, "utf8")) as object), importVersion: 3 };
    writeFileSync(path, JSON.stringify({ ...older, quantization: { format: "int4", blockSize: 32 } }));
    const lines: string[] = [];
    const { manifest } = await ensure({ progress: { ...silentProgress, line: (text) => lines.push(text) } });
    expect(manifest.quantization.format).toBe("int4");
    expect(lines).toContain("importing tiny-model again: another version of coldpath imported it");
  });

  test("over the remains of a killed import", async () => {
    const { folder } = await ensure();
    rmSync(folder, { recursive: true });
    const left = join(modelsDir, ".tiny-model.importing");
    writeFileSync(left, "a file where the folder was");
    writeFileSync(join(modelsDir, ".tiny-model.lock"), "4194305");
    await ensure();
    expect(readdirSync(modelsDir)).toEqual(["tiny-model"]);
  });
});

test("four imports at once import the model once and return the same", async () => {
  const models = await Promise.all([ensure(), ensure(), ensure(), ensure()]);
  expect(new Set(models.map(({ manifest }) => modelDigest(manifest))).size).toBe(1);
  expect(readdirSync(modelsDir)).toEqual(["tiny-model"]);
});

test("a failed import keeps the model that it would have replaced", async () => {
  const { folder } = await ensure();
  const whole = digests(folder);
  writeFileSync(gguf, readFileSync(gguf).subarray(0, 500_000));
  await expect(ensure()).rejects.toMatchObject({ code: "truncated-file" });
  expect(digests(folder)).toEqual(whole);
  expect(readdirSync(modelsDir)).toEqual(["tiny-model"]);
});

test("finds an imported model by its name, without its source file", async () => {
  const imported = await ensure({ name: "mine" });
  rmSync(gguf);
  expect(await ensure({ model: "mine" })).toEqual(imported);
});

describe("refuses, in one sentence,", () => {
  const cases: readonly (readonly [string, Partial<EnsureOptions>, string, RegExp])[] = [
    ["an unknown model", { model: "gpt-5" }, "unknown-model", /unknown model "gpt-5".*smollm2-135m-instruct/],
    ["a missing file", { model: "nowhere.gguf" }, "unreadable-file", /no file .*nowhere\.gguf/],
    ["a name that leads out of the models folder", { name: "../evil" }, "unknown-model", /can't be a model's name/],
    ["a hidden name", { name: ".downloads" }, "unknown-model", /can't be a model's name/],
    ["an empty name", { name: "" }, "unknown-model", /can't be a model's name/],
  ];
  test.each(cases)("%s", async (_, options, code, message) => {
    await expect(ensure(options)).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string });
    expect(existsSync(join(root, "evil"))).toBe(false);
  });
});
