/** Downloads from a hub on the loopback that behaves, breaks off, and lies. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ImportConfig, readImportConfig } from "../../../origin/import/config.ts";
import type { ModelSource, Preset } from "../../../origin/import/presets.ts";
import { type Progress, silentProgress } from "../../../origin/import/progress.ts";
import { pullPreset } from "../../../origin/import/pull.ts";

const BYTES = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 31 + (i >> 8)) & 255));
const FILE = "model.gguf";

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

let folder = "";
let server: Server;
let handler: Handler;
let requests: { readonly url: string; readonly range: string | undefined }[] = [];
let lines: string[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-pull-"));
  requests = [];
  lines = [];
  server = createServer((request, response) => {
    requests.push({ url: request.url ?? "", range: request.headers.range });
    handler(request, response);
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
});
afterEach(() => {
  server.closeAllConnections();
  server.close();
  rmSync(folder, { recursive: true, force: true });
});

const hub: ModelSource = { kind: "hugging-face", repository: "someone/model" };
const modelScope: ModelSource = { kind: "modelscope", repository: "someone/model" };

function config(overrides: Readonly<Record<string, string>> = {}): ImportConfig {
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return readImportConfig({
    COLDPATH_MODELS_DIR: folder,
    COLDPATH_HUB_ENDPOINT: origin,
    COLDPATH_MODELSCOPE_ENDPOINT: `${origin}/scope`,
    COLDPATH_DOWNLOAD_STALL_MS: "300",
    COLDPATH_DOWNLOAD_CONNECT_MS: "300",
    ...overrides,
  });
}

function pull(sources: readonly ModelSource[], settings = config()): Promise<string> {
  const sha256 = createHash("sha256").update(BYTES).digest("hex");
  const preset: Preset = { name: "model", file: FILE, bytes: BYTES.length, sha256, sources };
  const progress: Progress = { ...silentProgress, line: (line) => lines.push(line) };
  return pullPreset(preset, { config: settings, progress, fetch });
}

function putPart(bytes: Uint8Array): void {
  mkdirSync(join(folder, ".downloads"), { recursive: true });
  writeFileSync(join(folder, ".downloads", `${FILE}.part`), bytes);
}

/** A hub that does ranges. */
const honest: Handler = (request, response) => {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  if (start >= BYTES.length) {
    response.writeHead(416, { "content-range": `bytes */${BYTES.length}` }).end();
    return;
  }
  const range = start > 0 ? { "content-range": `bytes ${start}-${BYTES.length - 1}/${BYTES.length}` } : {};
  response.writeHead(start > 0 ? 206 : 200, { "content-length": BYTES.length - start, ...range });
  response.end(BYTES.subarray(start));
};

const chunked =
  (bytes: Uint8Array): Handler =>
  (_, response) => {
    response.writeHead(200);
    response.end(bytes);
  };

function expectWhole(path: string): void {
  expect(readFileSync(path).equals(BYTES)).toBe(true);
  expect(readdirSync(join(folder, ".downloads"))).toEqual([FILE]);
}

describe("fetches the file", () => {
  test("once, from the first source, under the hub's address", async () => {
    handler = honest;
    expectWhole(await pull([hub, modelScope]));
    expect(requests).toEqual([{ url: `/someone/model/resolve/main/${FILE}`, range: undefined }]);
    await pull([hub]);
    expect(requests).toHaveLength(1);
  });

  test("resuming what an earlier process left", async () => {
    handler = honest;
    putPart(BYTES.subarray(0, 100_000));
    expectWhole(await pull([hub]));
    expect(requests.map(({ range }) => range)).toEqual(["bytes=100000-"]);
  });

  test("taking a complete part without asking anybody", async () => {
    handler = honest;
    putPart(BYTES);
    expectWhole(await pull([hub]));
    expect(requests).toHaveLength(0);
  });

  test("over connections that break off again and again, each going on where the last ended", async () => {
    handler = (request, response) => {
      const start = Number(/\d+/.exec(request.headers.range ?? "0")?.[0]);
      const range = { "content-range": `bytes ${start}-${BYTES.length - 1}/${BYTES.length}` };
      response.writeHead(start > 0 ? 206 : 200, start > 0 ? range : {});
      const end = Math.min(start + 100_000, BYTES.length);
      response.write(BYTES.subarray(start, end), () => (end === BYTES.length ? response.end() : response.destroy()));
    };
    expectWhole(await pull([hub]));
    expect(requests.length).toBeGreaterThanOrEqual(3);
  });

  test("from a server that ignores ranges and sends all of it", async () => {
    handler = chunked(BYTES);
    putPart(Buffer.alloc(1000));
    expectWhole(await pull([hub]));
  });

  test("from a server whose answer to a range begins elsewhere", async () => {
    handler = (request, response) => {
      if (request.headers.range === undefined) return honest(request, response);
      response.writeHead(206, { "content-range": `bytes 0-${BYTES.length - 1}/${BYTES.length}` }).end(BYTES);
    };
    putPart(BYTES.subarray(0, 5_000));
    expectWhole(await pull([hub]));
  });

  test("again from its beginning when what was left is another file's", async () => {
    handler = honest;
    putPart(Buffer.alloc(100_000, 7));
    expectWhole(await pull([hub]));
    expect(requests.map(({ range }) => range)).toEqual(["bytes=100000-", undefined]);
  });

  test("again when the part is longer than the file, or the server refuses the range", async () => {
    handler = (request, response) =>
      request.headers.range === undefined ? honest(request, response) : void response.writeHead(416).end();
    putPart(Buffer.alloc(BYTES.length + 1));
    expectWhole(await pull([hub]));
    rmSync(join(folder, ".downloads", FILE));
    putPart(BYTES.subarray(0, 9));
    expectWhole(await pull([hub]));
  });

  test("once for two that ask at the same time", async () => {
    handler = (request, response) => void setTimeout(() => honest(request, response), 200);
    await Promise.all([pull([hub]), pull([hub])]);
    expect(requests).toHaveLength(1);
    expect(lines).toEqual([expect.stringMatching(/^waiting for process \d+, which is downloading model\.gguf$/)]);
  });

  test("past the lock of a process that died", async () => {
    handler = honest;
    mkdirSync(join(folder, ".downloads"));
    // Linux's largest process id is 4194304.
    writeFileSync(join(folder, ".downloads", `${FILE}.lock`), "4194305");
    expectWhole(await pull([hub]));
  });
});

describe("names each source that fails, with its reason, and goes on to the next", () => {
  const wrong = Buffer.from(BYTES);
  wrong[200_000]! ^= 1;
  const cases: readonly (readonly [string, Handler, RegExp])[] = [
    ["404", (_, response) => void response.writeHead(404).end("nothing"), /: the server answered 404$/],
    [
      "a page instead of the file",
      (_, r) => void r.writeHead(200, { "content-length": 5 }).end("hello"),
      /offers 5 bytes/,
    ],
    ["one wrong bit", chunked(wrong), /another SHA-256; it was deleted$/],
    ["more than the file", chunked(Buffer.concat([BYTES, BYTES])), /sent more than the file's 300000 bytes$/],
    ["less than the file, every time", chunked(BYTES.subarray(0, 10)), /ended at byte 10 of 300000|refused to resume/],
    ["no answer", () => {}, /no answer within 300 ms$/],
    ["headers and then nothing", (_, response) => response.writeHead(200).flushHeaders(), /no data for 300 ms$/],
    ["a connection closed at once", (request) => void request.socket.destroy(), /other side closed|ECONNRESET|socket/],
  ];
  test.each(cases)("%s", async (_, broken, reason) => {
    handler = (request, response) => (request.url?.startsWith("/scope/") ? honest : broken)(request, response);
    expectWhole(await pull([hub, modelScope], config({ COLDPATH_DOWNLOAD_ATTEMPTS: "2" })));
    expect(lines).toHaveLength(1);
    expect(lines[0]).toMatch(reason);
  });

  test("and says what to do when none is left", async () => {
    handler = (_, response) => void response.writeHead(503).end();
    const failed = pull([hub, modelScope]);
    await expect(failed).rejects.toMatchObject({
      code: "download-failed",
      message: expect.stringMatching(/any of its 2 sources; set COLDPATH_HUB_ENDPOINT/) as string,
    });
    expect(lines).toHaveLength(2);
    expect(existsSync(join(folder, ".downloads", FILE))).toBe(false);
  });
});

test("gives up on a lock that another process keeps", async () => {
  handler = honest;
  mkdirSync(join(folder, ".downloads"));
  writeFileSync(join(folder, ".downloads", `${FILE}.lock`), "1");
  await expect(pull([hub], config({ COLDPATH_IMPORT_WAIT_MS: "150" }))).rejects.toMatchObject({ code: "busy" });
});
