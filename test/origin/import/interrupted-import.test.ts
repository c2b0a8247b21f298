/** An import that does not get to its end: a full disk, a kill. Nothing is left that a later start takes for a model. */
import { execFile } from "node:child_process";
import fs, { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { WEIGHT_FORMATS, type WeightFormatName } from "../../../origin/onnx/weight-formats.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel, type EnsureOptions, type ImportedModel, listModels } from "../../../origin/import/import.ts";
import { ImportError } from "../../../origin/manifest/import-error.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";
import { COMPILE_CACHE } from "../../setup/compile-cache.ts";

/** Writes that are left before one fails; every write of the import counts. */
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

describe("a disk without room for what would be written", () => {
  /** What is left to others. */
  const SPARE = 64 * 2 ** 20;

  test("is noticed before a byte is: one sentence with what is needed and what there is", async () => {
    await expect(ensure({ freeBytes: () => 1 })).rejects.toMatchObject({
      code: "disk-full",
      message: expect.stringMatching(/^tiny needs 67\.\d MB in \S+models, where 1 B are free$/) as string,
    });
    expect(readdirSync(modelsDir)).toEqual([]);
  });

  test.each(Object.keys(WEIGHT_FORMATS) as WeightFormatName[])("is told from one with room: %s", async (format) => {
    const { manifest } = await ensure({ format });
    const written = manifest.files["model.onnx.data"]?.bytes ?? 0;
    const again = (freeBytes: number) => ensure({ format, name: "again", freeBytes: () => freeBytes });
    // All but the gaps between the weights counts.
    await expect(again(SPARE + Math.round(written * 0.9))).rejects.toMatchObject({ code: "disk-full" });
    await again(SPARE + written);
  });
});

describe("a disk that is full", () => {
  test("at any write: one sentence, and nothing is left", async () => {
    let writes = 0;
    for (let done = false; !done; writes++) {
      disk.writesLeft = writes;
      const outcome = await ensure().catch((error: unknown) => error);
      disk.writesLeft = Number.POSITIVE_INFINITY;
      done = !(outcome instanceof Error);
      if (done) break;
      // The lock is written first of all; without it nothing was begun.
      if (writes > 0) {
        expect(outcome, `write ${writes}`).toBeInstanceOf(ImportError);
        expect((outcome as ImportError).message).toBe(
          `there is no room left for ${join(modelsDir, "tiny")} (ENOSPC); nothing of it was kept`,
        );
      }
      expect(readdirSync(modelsDir)).toEqual([]);
    }
    // Weights, four graphs, tokenizer, template, manifest.
    expect(writes).toBeGreaterThan(15);
    expect(listModels(modelsDir)).toHaveLength(1);
  });

  test.each(["EDQUOT", "EFBIG"])("by a limit (%s) is told like one that is full", async (code) => {
    Object.assign(disk, { code, writesLeft: 5 });
    await expect(ensure()).rejects.toMatchObject({ code: "disk-full", message: expect.stringContaining(`(${code})`) });
  });

  test("beside a model that is there: it stays", async () => {
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

interface Ended {
  readonly signal: NodeJS.Signals | undefined;
  readonly stderr: string;
}

/** Runs the real command in a process of its own, whose `call` of node:fs kills it when it is made for the n-th time. */
function killedAt(call: "writeSync" | "writeFileSync" | "renameSync", count: number): Promise<Ended> {
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

function run(command: string, args: readonly string[]): Promise<Ended> {
  const env = { ...process.env, ...COMPILE_CACHE, COLDPATH_MODELS_DIR: modelsDir };
  return new Promise((resolve) => {
    execFile(command, args, { env }, (error, _stdout, stderr) =>
      resolve({ signal: error?.signal ?? undefined, stderr }),
    );
  });
}

describe("the command, in a process of its own,", () => {
  test.each([
    // Node's own writeFileSync writes by writeSync: the first call is the lock's.
    ["in its lock, which then has no owner", "writeSync", 1],
    ["between weights", "writeSync", 7],
    ["before its manifest", "writeFileSync", 8],
    ["before it gets its name", "renameSync", 1],
  ] as const)("killed %s leaves no model, and the next import is whole", async (_, call, count) => {
    expect((await killedAt(call, count)).signal).toBe("SIGKILL");
    expect(listModels(modelsDir)).toEqual([]);
    const { manifest } = await ensure();
    expect(listModels(modelsDir)).toHaveLength(1);
    expect(readdirSync(modelsDir)).toEqual([manifest.name]);
  });

  test("past a limit on files' sizes says so in one line", async () => {
    const { stderr } = await run("sh", [
      "-c",
      `ulimit -f 100; exec "${process.execPath}" origin/command/main.ts import "${gguf}"`,
    ]);
    expect(stderr).toBe(`there is no room left for ${join(modelsDir, "tiny")} (EFBIG); nothing of it was kept\n`);
    expect(readdirSync(modelsDir)).toEqual([]);
  });
});
