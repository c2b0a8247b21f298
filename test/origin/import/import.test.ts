/** Importing: the folder's promises, and what happens when something is damaged, missing or done twice at once. */
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
import { ensureModel, type EnsureOptions, type ImportedModel, listModels } from "../../../origin/import/import.ts";
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

/** On a processor of which nothing is known, wherever the tests run. */
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

test("a model without a chat template is imported and said to have none, twice to the same bytes", async () => {
  writeTinyCheckpoint(gguf, { metadata: { "tokenizer.chat_template": undefined } });
  const lines: string[] = [];
  const progress = { ...silentProgress, line: (text: string) => void lines.push(text) };
  const { folder, manifest } = await ensure({ progress });
  expect(lines).toEqual(["tiny-model has no chat template: it goes on with texts and can't chat"]);
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

test("gives the same bytes when it is done again elsewhere", async () => {
  const first = await ensure({ folder: join(root, "a"), name: "same" });
  const second = await ensure({ folder: join(root, "b"), name: "same" });
  expect(digests(first.folder)).toEqual(digests(second.folder));
  expect(modelDigest(first.manifest)).toBe(modelDigest(second.manifest));
});

test("chooses the format by the processor, once: a folder that is moved to another keeps its own", async () => {
  const { manifest } = await ensure({ processor: { arch: "x64", cpuinfo: "flags : avx2 fma\n" } });
  expect(manifest.quantization.format).toBe("int8-rows");
  expect((await ensure()).manifest).toEqual(manifest);
});

describe("does nothing", () => {
  test("while the folder is up to date", async () => {
    const { folder } = await ensure();
    const before = statSync(join(folder, "coldpath.json")).mtimeMs;
    await ensure();
    expect(statSync(join(folder, "coldpath.json")).mtimeMs).toBe(before);
  });

  test("when a format was chosen before and none is named now", async () => {
    await ensure({ format: "int4" });
    expect((await ensure()).manifest.quantization.format).toBe("int4");
  });
});

describe("imports again", () => {
  test("when a file is missing or has another size", async () => {
    const { folder } = await ensure();
    const whole = digests(folder);
    truncateSync(join(folder, "model.onnx.data"), 1000);
    await ensure();
    expect(digests(folder)).toEqual(whole);
    rmSync(join(folder, "tokenizer.json"));
    await ensure();
    expect(digests(folder)).toEqual(whole);
  });

  test("when the manifest is damaged or another version's", async () => {
    const { folder } = await ensure();
    for (const text of ["", "{", "null", JSON.stringify({ importVersion: 0 })]) {
      writeFileSync(join(folder, "coldpath.json"), text);
      expect(listModels(modelsDir)).toEqual([]);
      await ensure();
      expect(listModels(modelsDir)).toHaveLength(1);
    }
  });

  test("when the source has changed, or another format is asked for", async () => {
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

  test("when another version imported it, in the format it had then, and says so", async () => {
    const { folder } = await ensure({ format: "int4" });
    const path = join(folder, "coldpath.json");
    const older = { ...(JSON.parse(readFileSync(path, "utf8")) as object), importVersion: 3 };
    writeFileSync(path, JSON.stringify({ ...older, quantization: { format: "int4", blockSize: 32 } }));
    const lines: string[] = [];
    const { manifest } = await ensure({ progress: { ...silentProgress, line: (text) => lines.push(text) } });
    expect(manifest.quantization.format).toBe("int4");
    expect(lines).toContain("tiny-model was imported by another version of coldpath: it is imported again");
  });

  test("over what a killed import left", async () => {
    const { folder } = await ensure();
    rmSync(folder, { recursive: true });
    const left = join(modelsDir, ".tiny-model.importing");
    writeFileSync(left, "a file where the folder was");
    writeFileSync(join(modelsDir, ".tiny-model.lock"), "4194305");
    await ensure();
    expect(readdirSync(modelsDir)).toEqual(["tiny-model"]);
  });
});

test("done by four at once it is done once, and all get the same", async () => {
  const models = await Promise.all([ensure(), ensure(), ensure(), ensure()]);
  expect(new Set(models.map(({ manifest }) => modelDigest(manifest))).size).toBe(1);
  expect(readdirSync(modelsDir)).toEqual(["tiny-model"]);
});

test("a file that can't be imported leaves the model it would have replaced", async () => {
  const { folder } = await ensure();
  const whole = digests(folder);
  writeFileSync(gguf, readFileSync(gguf).subarray(0, 500_000));
  await expect(ensure()).rejects.toMatchObject({ code: "truncated-file" });
  expect(digests(folder)).toEqual(whole);
  expect(readdirSync(modelsDir)).toEqual(["tiny-model"]);
});

test("finds an imported model by its name, without the file it came from", async () => {
  const imported = await ensure({ name: "mine" });
  rmSync(gguf);
  expect(await ensure({ model: "mine" })).toEqual(imported);
});

describe("refuses, in one sentence,", () => {
  const cases: readonly (readonly [string, Partial<EnsureOptions>, string, RegExp])[] = [
    ["a model nobody knows", { model: "gpt-5" }, "unknown-model", /no model "gpt-5".*smollm2-135m-instruct/],
    ["a file that is not there", { model: "nowhere.gguf" }, "unreadable-file", /no file .*nowhere\.gguf/],
    ["a name that leaves the folder", { name: "../evil" }, "unknown-model", /can't be a model's name/],
    ["a hidden name", { name: ".downloads" }, "unknown-model", /can't be a model's name/],
    ["a name for nothing", { name: "" }, "unknown-model", /can't be a model's name/],
  ];
  test.each(cases)("%s", async (_, options, code, message) => {
    await expect(ensure(options)).rejects.toMatchObject({ code, message: expect.stringMatching(message) as string });
    expect(existsSync(join(root, "evil"))).toBe(false);
  });
});
