/** The real command and a hub on the loopback: killed, started twice at once, on a full disk, behind a proxy. */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Hub, parseRange, startHub } from "../../../fakes/hub.ts";
import { writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";
import { COMPILE_CACHE } from "../../../setup/compile-cache.ts";
import { fetchEnvironment } from "./fetching.ts";

const COMMAND = fileURLToPath(new URL("../../../../origin/command/main.ts", import.meta.url));
const TOKEN = "hf_a-secret-that-nobody-else-may-see";

let folder = "";
let hub: Hub;
let gguf: Buffer;
let name = "";
const running = new Set<ChildProcess>();

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-command-"));
  hub = await startHub();
  writeTinyCheckpoint(join(folder, "tiny.gguf"));
  gguf = readFileSync(join(folder, "tiny.gguf"));
  hub.files.set("/files/tiny.gguf", { bytes: gguf, etag: '"1"', lastModified: "Tue, 02 Jan 2024 03:04:05 GMT" });
  name = `${hub.origin}/files/tiny.gguf`;
});
afterEach(async () => {
  for (const child of running) child.kill("SIGKILL");
  await hub[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

interface Run {
  readonly child: ChildProcess;
  readonly outcome: Promise<Outcome>;
}

function start(args: readonly string[], env: Readonly<Record<string, string>> = {}, shell = 'exec "$@"'): Run {
  const child = spawn("sh", ["-c", shell, "sh", process.execPath, COMMAND, ...args], {
    env: { ...process.env, ...COMPILE_CACHE, ...fetchEnvironment(hub, join(folder, "models")), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  const outcome = Promise.all([once(child, "close"), text(child.stdout), text(child.stderr)]).then(
    ([[code], stdout, stderr]) => {
      running.delete(child);
      return { code: code as number | null, stdout, stderr };
    },
  );
  return { child, outcome };
}

const model = (args: readonly string[], env?: Readonly<Record<string, string>>, shell?: string) =>
  start(args, env, shell).outcome;
const blobs = () => readdirSync(join(folder, "models", ".store", "blobs"));
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

describe("a download that was killed", () => {
  test.each([1, 170_003])("after %i bytes is resumed there, and no byte is requested twice", async (bytesMax) => {
    let sent = 0;
    let isHeld = true;
    const held = Promise.withResolvers<void>();
    const answer = hub.handler;
    hub.handler = (request, response) => {
      const range = parseRange(request, gguf.length, '"1"');
      if (!isHeld || range === undefined || range.to === 1) return answer(request, response);
      const { from, to } = range;
      const end = Math.min(to, from + bytesMax - sent);
      sent += end - from;
      response.writeHead(206, { etag: '"1"', "content-range": `bytes ${from}-${to - 1}/${gguf.length}` });
      response.write(gguf.subarray(from, end));
      if (end < to) held.resolve();
      else response.end();
    };
    const first = start(["pull", name], { COLDPATH_DOWNLOAD_CONNECTIONS: "1" });
    await held.promise;
    await waitFor(() => countersOnDisk() === bytesMax);
    first.child.kill("SIGKILL");
    expect((await first.outcome).code).toBeNull();
    expect(blobs()).toEqual([]);

    isHeld = false;
    hub.seen.length = 0;
    const { code, stdout } = await model(["pull", name]);
    expect(code).toBe(0);
    expect(readFileSync(stdout.trim()).equals(gguf)).toBe(true);
    const ranges = hub.seen.slice(1).map(({ range }) =>
      /(\d+)-(\d+)/
        .exec(range ?? "")!
        .slice(1)
        .map(Number),
    );
    expect(ranges.reduce((sum, [from = 0, last = 0]) => sum + last + 1 - from, 0)).toBe(gguf.length - bytesMax);
  });
});

test("two processes that need the same file fetch it once", async () => {
  const outcomes = await Promise.all([model(["import", name]), model(["import", name])]);
  expect(outcomes.map(({ code }) => code)).toEqual([0, 0]);
  expect(outcomes[0].stdout).toBe(outcomes[1].stdout);
  const ranges = hub.seen.map(({ range }) => range).filter((range) => range !== "bytes=0-0");
  expect(new Set(ranges).size).toBe(ranges.length);
});

test("a full disk leads to one sentence, and leaves nothing that looks complete", async () => {
  // A limit on file sizes stands for a full disk. dash counts it in blocks of 512 bytes.
  const { code, stdout, stderr } = await model(["pull", name], {}, 'ulimit -f 200; exec "$@"');
  expect([code, stdout]).toEqual([1, ""]);
  expect(stderr).toMatch(/^no space left on the disk for .*the download is kept and will be resumed\n$/);
  expect(blobs()).toEqual([]);
  hub.seen.length = 0;
  expect((await model(["pull", name])).code).toBe(0);
});

test("imports a download to the same bytes in another folder, and records its source in coldpath.json", async () => {
  const imported = async (models: string) => {
    const { stdout } = await model(["import", name, "--format", "int4"], { COLDPATH_MODELS_DIR: join(folder, models) });
    return readdirSync(stdout.trim()).map((file) => [file, sha256(readFileSync(join(stdout.trim(), file)))]);
  };
  const [one, two] = [await imported("models"), await imported("others")];
  expect(one).toEqual(two);
  const manifest = JSON.parse(readFileSync(join(folder, "models", "tiny", "coldpath.json"), "utf8")) as unknown;
  const file = { bytes: gguf.length, sha256: sha256(gguf) };
  expect(manifest).toMatchObject({
    source: { kind: "url", name, location: name, revision: '"1"', ...file, files: { "tiny.gguf": file } },
    command: ["npm", "run", "model", "--", "import", name, "--name", "tiny", "--format", "int4"],
    tool: { name: "coldpath" },
    created: "2024-01-02T03:04:05.000Z",
  });
});

test("list, verify and rm work on models and downloads; verify finds one flipped bit in either", async () => {
  expect(await model(["import", name])).toMatchObject({ code: 0 });
  const { stdout } = await model(["list"]);
  expect(stdout).toMatch(/^tiny\tint8-(rotated|rows)\t/m);
  expect(stdout).toContain(`${name}\tdownload\t`);
  expect((await model(["verify"])).stdout).toMatch(/^\d+ files are what they were/);

  const blob = join(folder, "models", ".store", "blobs", sha256(gguf));
  const weights = join(folder, "models", "tiny", "model.onnx.data");
  for (const path of [blob, weights]) {
    const bytes = readFileSync(path);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(path, bytes);
    const { code, stderr } = await model(["verify", "tiny"]);
    expect([code, stderr]).toEqual([1, expect.stringContaining(`damaged: ${path};`)]);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(path, bytes);
  }
  expect((await model(["verify", name])).code).toBe(0);

  expect((await model(["rm", "tiny"])).stdout).toMatch(/ are free\n$/);
  expect([existsSync(blob), existsSync(weights)]).toEqual([false, false]);
  expect(await model(["rm", "tiny"])).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/neither a model nor/) as string,
  });
});

test("uses the environment's proxy, except for the hosts in NO_PROXY", async () => {
  const tunnels: string[] = [];
  const proxy = createServer().on("connect", ({ url = "" }, socket) => {
    tunnels.push(url);
    const upstream = connect(hub.port, "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 OK\r\n\r\n");
      upstream.pipe(socket).pipe(upstream);
    });
    upstream.on("error", () => socket.destroy());
    socket.on("error", () => upstream.destroy());
  });
  await new Promise<void>((listening) => proxy.listen(0, "127.0.0.1", listening));
  try {
    const env = { HTTP_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}` };
    // A host that only the proxy can resolve.
    const far = `http://models.example/files/tiny.gguf`;
    expect(await model(["pull", far], env)).toMatchObject({ code: 0 });
    expect(new Set(tunnels)).toEqual(new Set(["models.example:80"]));
    tunnels.length = 0;
    expect(await model(["pull", name], { ...env, NO_PROXY: "127.0.0.1" })).toMatchObject({ code: 0 });
    expect(tunnels).toEqual([]);
  } finally {
    proxy.closeAllConnections();
    proxy.close();
  }
});

test("a malformed proxy URL leads to one sentence", async () => {
  expect(await model(["list"], { HTTPS_PROXY: "::: " })).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/^HTTPS_PROXY or HTTP_PROXY is not .*\n$/) as string,
  });
});

test("prints no secret, whatever fails", async () => {
  const secrets = {
    COLDPATH_HUB_TOKEN: TOKEN,
    AWS_ACCESS_KEY_ID: "AKIDEXAMPLE",
    AWS_SECRET_ACCESS_KEY: "a-very-secret-key",
  };
  hub.handler = ({ url = "" }, response) => {
    const status = url.startsWith("/api/") ? 403 : url.startsWith("/s3/") ? 500 : 302;
    response.writeHead(status, { location: "gopher://x" }).end();
  };
  for (const reference of ["someone/model", "s3://bucket/model.gguf", `${name}?signature=${TOKEN}`]) {
    const { code, stdout, stderr } = await model(["pull", reference], { ...secrets, COLDPATH_DOWNLOAD_ATTEMPTS: "1" });
    expect(code).toBe(1);
    expect(stdout + stderr).not.toMatch(/hf_a-secret|a-very-secret/);
    expect(stderr.trimEnd()).not.toContain("\n");
  }
});

/** The bytes that a partial file has received: the sum of its counters. */
function countersOnDisk(): number {
  const partial = readdirSync(join(folder, "models", ".store", "partial")).find((file) => file.endsWith(".part"));
  if (partial === undefined) return 0;
  const bytes = readFileSync(join(folder, "models", ".store", "partial", partial));
  let sum = 0;
  for (let at = gguf.length + 8; at + 8 <= bytes.length; at += 8) sum += Number(bytes.readBigUInt64LE(at));
  return sum;
}

async function waitFor(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 10));
}
