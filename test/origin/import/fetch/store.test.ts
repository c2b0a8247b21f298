/** The store on disk: files that names share, removals, and damaged files. */
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { isAbsolute, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Download, ModelStore } from "../../../../origin/import/fetch/store.ts";

let folder = "";
let store: ModelStore;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-store-"));
  store = new ModelStore({ modelsDir: folder, lockWaitMs: 30_000 });
  store.prepare();
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

/** Puts files into the store, as a finished download. */
function addFiles(name: string, contents: Readonly<Record<string, string>>): Download {
  const files: Download["files"] = {};
  for (const [path, text] of Object.entries(contents)) {
    writeFileSync(store.blobPath(sha256(text)), text);
    files[path] = { bytes: text.length, sha256: sha256(text) };
  }
  return {
    name,
    kind: "url",
    location: "https://example.org/",
    revision: null,
    modified: "2024-01-01T00:00:00.000Z",
    files,
  };
}

const blobs = () => readdirSync(join(folder, ".store", "blobs")).toSorted((a, b) => a.localeCompare(b));

test("names one file, or several files as a folder of relative links", async () => {
  const one = addFiles("hf:a/b:x.gguf", { "x.gguf": "weights" });
  const several = addFiles("hf:a/b", { "config.json": "{}", "1_Pooling/config.json": "[]" });
  expect([await store.add(one), await store.add(several)]).toEqual([true, true]);
  expect(readFileSync(store.pathOf(one), "utf8")).toBe("weights");
  const path = store.pathOf(several);
  expect(readFileSync(join(path, "1_Pooling", "config.json"), "utf8")).toBe("[]");
  expect(isAbsolute(readlinkSync(join(path, "config.json")))).toBe(false);
  expect(store.find("hf:a/b")).toEqual(several);
  expect(store.list().map(({ name }) => name)).toEqual(["hf:a/b", "hf:a/b:x.gguf"]);
});

test("keeps names apart that would be the same file name", async () => {
  const names = [
    "hf:a/b-c",
    "hf:a-b/c",
    "hf:a/b:c",
    "HF:a/b:c",
    `hf:${"x".repeat(200)}/y`,
    "..",
    "/etc/passwd",
    "a\0b",
  ];
  for (const name of names) await store.add(addFiles(name, { "a.gguf": name }));
  for (const name of names) expect(readFileSync(store.pathOf(store.find(name)!), "utf8")).toBe(name);
  expect(readdirSync(folder)).toEqual([".store"]);
});

describe("a removal", () => {
  test("deletes the files that no other name needs, and returns their bytes", async () => {
    await store.add(addFiles("one", { "a.gguf": "own", "tokenizer.json": "shared" }));
    await store.add(addFiles("two", { "b.gguf": "other", "tokenizer.json": "shared" }));
    expect(await store.remove("one")).toBe("own".length);
    expect(blobs()).toEqual([sha256("other"), sha256("shared")].toSorted((a, b) => a.localeCompare(b)));
    expect(readFileSync(join(store.pathOf(store.find("two")!), "tokenizer.json"), "utf8")).toBe("shared");
    expect(await store.remove("two")).toBe("othershared".length);
    expect(blobs()).toEqual([]);
  });

  test("counts the same content under two paths once", async () => {
    await store.add(addFiles("one", { "a.json": "{}", "b.json": "{}" }));
    expect(await store.remove("one")).toBe(2);
  });

  test("of an unknown name returns undefined", async () => {
    expect(await store.remove("unknown")).toBeUndefined();
  });
});

test("a name that gets new files releases its old ones", async () => {
  await store.add(addFiles("one", { "a.gguf": "old" }));
  await store.add(addFiles("one", { "a.gguf": "new" }));
  expect(blobs()).toEqual([sha256("new")]);
});

test("a name can't be added without its files, and is not found without them", async () => {
  const one = addFiles("one", { "a.gguf": "weights" });
  rmSync(store.blobPath(sha256("weights")));
  expect(await store.add(one)).toBe(false);
  await store.add(addFiles("one", { "a.gguf": "weights" }));
  writeFileSync(store.blobPath(sha256("weights")), "cut");
  expect(store.find("one")).toBeUndefined();
  expect(await store.verify(store.list()[0]!)).toMatchObject([{ file: "a.gguf", reason: "changed" }]);
  rmSync(store.blobPath(sha256("weights")));
  expect(await store.verify(store.list()[0]!)).toMatchObject([{ file: "a.gguf", reason: "missing" }]);
});

test("verify finds one flipped bit anywhere", async () => {
  const text = "w".repeat(3_000);
  const one = addFiles("one", { "a.gguf": text, "config.json": "{}" });
  await store.add(one);
  expect(await store.verify(one)).toEqual([]);
  for (const at of [0, 1_499, 2_999]) {
    const bytes = Buffer.from(text);
    bytes[at]! ^= 1;
    writeFileSync(store.blobPath(sha256(text)), bytes);
    expect(await store.verify(one)).toEqual([
      { name: "one", file: "a.gguf", path: store.blobPath(sha256(text)), reason: "changed" },
    ]);
  }
});

test.each(["", "{", "null", '{"name":"one"}', '{"name":"one","files":{"../../evil":{"bytes":1,"sha256":"x"}}}'])(
  "ignores a record with the content %j",
  async (record) => {
    await store.add(addFiles("one", { "a.gguf": "weights" }));
    const file = readdirSync(join(folder, ".store", "models")).find((name) => name.endsWith(".json"));
    writeFileSync(join(folder, ".store", "models", file ?? ""), record);
    expect([store.find("one"), store.list()]).toEqual([undefined, []]);
  },
);

test("deletes a partial download after two weeks without progress, and keeps a newer one", async () => {
  const [old, recent] = [store.partialPath("old"), store.partialPath("recent")];
  for (const path of [old, recent]) writeFileSync(path, "part");
  const longAgo = Date.now() / 1000 - 15 * 24 * 3600;
  utimesSync(old, longAgo, longAgo);
  await store.add(addFiles("one", { "a.gguf": "weights" }));
  expect([existsSync(old), existsSync(recent)]).toEqual([false, true]);
});

test("concurrent additions and removals leave a consistent store", async () => {
  const names = Array.from({ length: 12 }, (_, i) => `name-${i}`);
  await Promise.all(names.map((name) => store.add(addFiles(name, { "a.gguf": "shared", "b.json": name }))));
  await Promise.all(names.slice(0, 6).map((name) => store.remove(name)));
  expect(store.list().map(({ name }) => name)).toEqual(names.slice(6).toSorted((a, b) => (a < b ? -1 : 1)));
  for (const one of store.list()) expect(await store.verify(one)).toEqual([]);
  expect(blobs()).toHaveLength(7);
});
