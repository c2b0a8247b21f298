/** The order of syncs and renames, because no test can cut the power. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { readImportConfig } from "../../../../origin/import/config.ts";
import { renameDurably } from "../../../../origin/import/disk/durable.ts";
import { ensureModel } from "../../../../origin/import/import.ts";
import { silentProgress } from "../../../../origin/import/progress/progress.ts";
import { writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";

/** Calls in order, as `sync PATH` and `rename FROM TO`. */
const done = vi.hoisted((): string[] => []);

vi.mock(import("node:fs"), async (original) => {
  const real = await original();
  const paths = new Map<number, string>();
  const openSync: typeof real.openSync = (path, ...rest) => {
    const file = real.openSync(path, ...rest);
    paths.set(file, String(path));
    return file;
  };
  const fsyncSync: typeof real.fsyncSync = (file) => {
    real.fsyncSync(file);
    done.push(`sync ${paths.get(file)}`);
  };
  const renameSync: typeof real.renameSync = (from, to) => {
    real.renameSync(from, to);
    done.push(`rename ${String(from)} ${String(to)}`);
  };
  return { ...real, openSync, fsyncSync, renameSync };
});

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-durable-"));
  done.length = 0;
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

test("a file is synced and renamed, then its folder is synced", () => {
  const [from, to] = [join(root, "a.part"), join(root, "blobs", "a")];
  mkdirSync(join(root, "blobs"));
  writeFileSync(from, "x");
  renameDurably(from, to);
  expect(done).toEqual([`sync ${from}`, `rename ${from} ${to}`, `sync ${join(root, "blobs")}`]);
});

test("an imported model gets its name after every file of it is synced", async () => {
  const gguf = join(root, "tiny.gguf");
  writeTinyCheckpoint(gguf, { layers: 1 });
  const modelsDir = join(root, "models");
  const config = readImportConfig({ COLDPATH_MODELS_DIR: modelsDir });
  const { folder } = await ensureModel({ model: gguf, config, progress: silentProgress, fetch });
  const unfinished = join(modelsDir, ".tiny.importing");
  const renamed = done.indexOf(`rename ${unfinished} ${folder}`);
  const before = done.slice(0, renamed).map((line) => line.replace("sync ", ""));
  expect(before.map((path) => basename(path)).toSorted()).toEqual(
    [".tiny.importing", ...readdirSync(folder)].toSorted(),
  );
  expect(before.at(-1)).toBe(unfinished);
  expect(done.slice(renamed + 1)).toEqual([`sync ${modelsDir}`]);
});
