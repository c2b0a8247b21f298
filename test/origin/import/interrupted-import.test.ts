/** Imports that fail on a full disk or are killed. Nothing is left that a later start takes for a model. */
import { execFile } from "node:child_process";
import fs, { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { WEIGHT_FORMATS, type WeightFormatName } from "../../../origin/onnx/weight-formats.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel, type EnsureOptions } from "../../../origin/import/import.ts";
import { type ImportedModel, listModels } from "../../../origin/import/folder/model-folder.ts";
import { ImportError } from "../../../origin/manifest/import-error.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";
import { COMPILE_CACHE } from "../../setup/compile-cache.ts";

/** Writes that succeed before one fails. Every write of the import counts. */
const disk = vi.hoisted(() => ({ writesLeft: Number.POSITIVE_INFINITY, code: "ENOSPC" }));

vi.mock(import("node:fs"), async (original) => {
  const real = await original();
  // eslint-disable-next-line unicorn/consistent-function-scoping -- mocks are hoisted above what is outside
  const orFull = <Args extends readonly unknown[], Result>(write: (...args: Args) => Result) => {
    return (...args: Args): Result => {
      if (disk.writesLeft-- > 0) return write(...args);
      throw Object.assign(new Error(`${disk.code}: no space left on device, write`), {
        code: disk.code,
        syscall: "write",
      });
    };
  };
  const writeSync = orFull(real.writeSync as (...args: readonly unknown[]) => number) as typeof real.writeSync;
  const writeFileSync = orFull(real.writeFileSync);
  return { ...real, writeSync, writeFileSync };
});

let root = "";
let gguf = "";
let modelsDir = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-interrupted-"));
  gguf = join(root, "tiny.gguf");
  modelsDir = join(root, "models");
  mkdirSync(modelsDir);
  writeTinyCheckpoint(gguf, { layers: 1 });
});
afterEach(() => {
  Object.assign(disk, { code: "ENOSPC", writesLeft: Number.POSITIVE_INFINITY });
  rmSync(root, { recursive: true, force: true });
});

function ensure(options: Partial<EnsureOptions> = {}): Promise<ImportedModel> {
  const config = readImportConfig({ COLDPATH_MODELS_DIR: modelsDir });
  return ensureModel({ model: gguf, config, progress: silentProgress, fetch, ...options });
}

describe("a disk without enough space", () => {
  /** Bytes that an import leaves free. */
  const SPARE = 64 * 2 ** 20;

  test("is noticed before anything is written: one sentence with the needed and the free space", async () => {
    await expect(ensure({ freeBytes: () => 1 })).rejects.toMatchObject({
      code: "disk-full",
      message: expect.stringMatching(/^tiny needs 67\.\d MB in \S+models, but only 1 B are free$/) as string,
    });
    expect(readdirSync(modelsDir)).toEqual([]);
  });

  test.each(Object.keys(WEIGHT_FORMATS) as WeightFormatName[])("is recognized with the format %s", async (format) => {
    const { manifest } = await ensure({ format });
    const written = manifest.files["model.onnx.data"]?.bytes ?? 0;
    const again = (freeBytes: number) => ensure({ format, name: "again", freeBytes: () => freeBytes });
    // Everything counts except the gaps between weights.
    await expect(again(SPARE + Math.round(written * 0.9))).rejects.toMatchObject({ code: "disk-full" });
    await again(SPARE + written);
  });
});

describe("a disk that is full", () => {
  test("at any write leads to one sentence, and nothing is left", async () => {
    let writes = 0;
    for (let done = false; !done; writes++) {
      disk.writesLeft = writes;
      const outcome = await ensure().catch((error: unknown) => error);
      disk.writesLeft = Number.POSITIVE_INFINITY;
      done = !(outcome instanceof Error);
      if (done) break;
      // The lock is written first. Without it nothing has started.
      if (writes > 0) {
        expect(outcome, `write ${writes}`).toBeInstanceOf(ImportError);
        expect((outcome as ImportError).message).toBe(
          `no space left on the disk for ${join(modelsDir, "tiny")} (ENOSPC); the unfinished import was deleted`,
        );
      }
      expect(readdirSync(modelsDir)).toEqual([]);
    }
    // Weights, five graphs, tokenizer, template, manifest.
    expect(writes).toBeGreaterThan(15);
    expect(listModels(modelsDir)).toHaveLength(1);
  });

  test.each(["EDQUOT", "EFBIG"])("because of a limit (%s) leads to the same error", async (code) => {
    Object.assign(disk, { code, writesLeft: 5 });
    await expect(ensure()).rejects.toMatchObject({ code: "disk-full", message: expect.stringContaining(`(${code})`) });
  });

  test("keeps the model that the import would have replaced", async () => {
    await ensure();
    writeTinyCheckpoint(gguf, { layers: 1, seed: 2 });
    fs.utimesSync(gguf, 1e9, 1e9);
    disk.writesLeft = 10;
    await expect(ensure()).rejects.toMatchObject({ code: "disk-full" });
    disk.writesLeft = Number.POSITIVE_INFINITY;
    expect(listModels(modelsDir)).toHaveLength(1);
    expect(readdirSync(modelsDir)).toEqual(["tiny"]);
  });
});

interface CommandResult {
  readonly signal: NodeJS.Signals | undefined;
  readonly stderr: string;
}

/** Runs the real command in a process that kills itself at the `count`-th call of a function of node:fs. */
function killedAt(call: "writeSync" | "writeFileSync" | "renameSync", count: number): Promise<CommandResult> {
  const preload = `
    import fs from "node:fs";
    import { syncBuiltinESMExports } from "node:module";
    const real = fs.${call};
    let left = ${count};
    fs.${call} = (...args) => {
      if (--left === 0) process.kill(process.pid, "SIGKILL");
      return real(...args);
    };
    syncBuiltinESMExports();`;
  const url = `data:text/javascript,${encodeURIComponent(preload)}`;
  return run(process.execPath, ["--import", url, "origin/command/main.ts", "import", gguf]);
}

function run(command: string, args: readonly string[]): Promise<CommandResult> {
  const env = { ...process.env, ...COMPILE_CACHE, COLDPATH_MODELS_DIR: modelsDir };
  return new Promise((resolve) => {
    execFile(command, args, { env }, (error, _stdout, stderr) =>
      resolve({ signal: error?.signal ?? undefined, stderr }),
    );
  });
}

describe("the command, in its own process,", () => {
  test.each([
    // Node's writeFileSync calls writeSync: the first call writes the lock.
    ["while it writes its lock, which then has no owner", "writeSync", 1],
    ["between weights", "writeSync", 7],
    ["before the manifest", "writeFileSync", 8],
    ["before the folder gets its name", "renameSync", 1],
  ] as const)("killed %s leaves no model, and the next import succeeds", async (_, call, count) => {
    expect((await killedAt(call, count)).signal).toBe("SIGKILL");
    expect(listModels(modelsDir)).toEqual([]);
    const { manifest } = await ensure();
    expect(listModels(modelsDir)).toHaveLength(1);
    expect(readdirSync(modelsDir)).toEqual([manifest.name]);
  });

  test("prints one line at a limit on file sizes", async () => {
    const { stderr } = await run("sh", [
      "-c",
      `ulimit -f 100; exec "${process.execPath}" origin/command/main.ts import "${gguf}"`,
    ]);
    expect(stderr).toBe(
      `no space left on the disk for ${join(modelsDir, "tiny")} (EFBIG); the unfinished import was deleted\n`,
    );
    expect(readdirSync(modelsDir)).toEqual([]);
  });
});
