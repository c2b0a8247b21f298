/** Downloads from hubs on the loopback: well-behaved ones, and ones that close connections, stall and send wrong data. */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type ImportConfig, readImportConfig } from "../../../../origin/import/config.ts";
import { PartialFile } from "../../../../origin/import/fetch/partial-file.ts";
import type { Preset, PresetSource } from "../../../../origin/import/fetch/presets.ts";
import { pull, type PullOptions, type PulledModel } from "../../../../origin/import/fetch/pull.ts";
import { ModelStore } from "../../../../origin/import/fetch/store.ts";
import { type ProgressReporter, silentProgress } from "../../../../origin/import/progress/progress.ts";
import { type Handler, type Hub, parseRange, serve, startHub } from "../../../fakes/hub.ts";
import { fetchConfig, pullNamed as pullByName, SEGMENT_BYTES } from "./fetching.ts";

const BYTES = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 31 + (i >> 8)) & 255));
const SEGMENT = SEGMENT_BYTES;
const FILE = "model.gguf";
const URL_PATH = `/someone/model/resolve/main/${FILE}`;

let folder = "";
let hub: Hub;
let lines: string[] = [];

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-pull-"));
  lines = [];
  hub = await startHub();
  hub.files.set(URL_PATH, { bytes: BYTES });
  hub.files.set(`/scope/models/someone/model/resolve/master/${FILE}`, { bytes: BYTES });
});
afterEach(async () => {
  await hub[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true, force: true });
});

const first: PresetSource = { kind: "hugging-face", repository: "someone/model" };
const second: PresetSource = { kind: "modelscope", repository: "someone/model" };

function config(overrides: Readonly<Record<string, string>> = {}): ImportConfig {
  return fetchConfig(hub, folder, overrides);
}

function options(settings = config(), more: Partial<PullOptions> = {}): PullOptions {
  const progress: ProgressReporter = { ...silentProgress, line: (line) => lines.push(line) };
  return { config: settings, progress, fetch, ...more };
}

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Pulls the file as a preset, whose digest is known beforehand. */
function pullPreset(sources: readonly PresetSource[], settings = config(), more: Partial<PullOptions> = {}) {
  const preset: Preset = {
    name: "model",
    licence: "none",
    published: "2024-01-02T00:00:00.000Z",
    files: [{ path: FILE, bytes: BYTES.length, sha256: sha256(BYTES) }],
    sources,
  };
  return pull({ kind: "preset", preset }, options(settings, more));
}

const pullNamed = (name: string, settings = config()) => pullByName(name, settings);

const store = () => new ModelStore(config());
const left = () => readdirSync(join(folder, ".store", "partial"));

function expectWhole({ path }: PulledModel): void {
  expect(readFileSync(path).equals(BYTES)).toBe(true);
  expect(readdirSync(join(folder, ".store", "blobs"))).toEqual([sha256(BYTES)]);
  expect(left()).toEqual([]);
}

/** Leaves a partial download of the preset's file on disk, with so many bytes of each segment. */
async function leavePartial(perSegment: number, bytes: Uint8Array = BYTES): Promise<void> {
  store().prepare();
  const path = store().partialPath(sha256(BYTES));
  await using partial = await PartialFile.open(path, { bytes: BYTES.length, segmentBytes: SEGMENT });
  for (const segment of partial.segments) {
    await partial.append(segment, bytes.subarray(segment.from, segment.from + Math.min(perSegment, segment.length)));
  }
}

describe("fetches a preset's file", () => {
  test("once, from the first source, in segments under the hub's address", async () => {
    expectWhole(await pullPreset([first, second]));
    expect(hub.seen.map(({ path }) => path)).toEqual(Array(6).fill(URL_PATH));
    expect(hub.seen.map(({ range }) => range ?? "").toSorted()).toEqual(
      [0, 1, 2, 3, 4, 5].map((i) => `bytes=${i * SEGMENT}-${(i + 1) * SEGMENT - 1}`).toSorted(),
    );
    await pullPreset([first]);
    expect(hub.seen).toHaveLength(6);
  });

  test("over the configured number of connections, after the first has shown that the server supports ranges", async () => {
    let open = 0;
    let most = 0;
    const before: number[] = [];
    const answer = hub.handler;
    hub.handler = (request, response) => {
      before.push(open);
      most = Math.max(most, ++open);
      response.once("close", () => open--);
      setTimeout(() => answer(request, response), 20);
    };
    expectWhole(await pullPreset([first], config({ COLDPATH_DOWNLOAD_CONNECTIONS: "3" })));
    expect(before[0]).toBe(0);
    // The second request is sent after the headers of the first response.
    expect(most).toBe(3);
  });

  test("requesting only what an earlier process did not receive, segment by segment", async () => {
    await leavePartial(20_000);
    expectWhole(await pullPreset([first]));
    expect(hub.seen.map(({ range }) => range ?? "").toSorted()).toEqual(
      [0, 1, 2, 3, 4, 5].map((i) => `bytes=${i * SEGMENT + 20_000}-${(i + 1) * SEGMENT - 1}`).toSorted(),
    );
  });

  test("without a request if an earlier process completed the download", async () => {
    await leavePartial(SEGMENT);
    expectWhole(await pullPreset([first]));
    expect(hub.seen).toHaveLength(0);
  });

  test("over connections that keep breaking, each of which resumes the one before", async () => {
    hub.handler = (request, response) => {
      const { from, to } = parseRange(request, BYTES.length) ?? { from: 0, to: BYTES.length };
      response.writeHead(206, { "content-range": `bytes ${from}-${to - 1}/${BYTES.length}` });
      const end = Math.min(from + 20_000, to);
      response.write(BYTES.subarray(from, end), () => (end === to ? response.end() : response.destroy()));
    };
    expectWhole(await pullPreset([first]));
    const froms = hub.seen.map(({ range }) => Number(/\d+/.exec(range ?? "")?.[0]));
    expect(new Set(froms).size).toBe(froms.length);
    expect(lines).toEqual([]);
  });

  test("after a connection stalled in the middle of a segment", async () => {
    let stalls = 0;
    const answer = hub.handler;
    hub.handler = (request, response) => {
      if (++stalls > 2) return answer(request, response);
      const { from, to } = parseRange(request, BYTES.length)!;
      response.writeHead(206, {
        "content-range": `bytes ${from}-${to - 1}/${BYTES.length}`,
        "content-length": to - from,
      });
      response.write(BYTES.subarray(from, from + 1_000));
    };
    expectWhole(await pullPreset([first], config({ COLDPATH_DOWNLOAD_STALL_MS: "300" })));
  });

  test.each([
    ["429", 429, { "retry-after": "0" }],
    ["503 with a date in the past", 503, { "retry-after": "Fri, 31 Dec 1999 23:59:59 GMT" }],
    ["503 with a Retry-After of a year, which is cut to the longest wait", 503, { "retry-after": "31536000" }],
    ["502 without Retry-After", 502, {}],
  ])("with a repeated request after %s", async (_, status, headers) => {
    let refusals = 0;
    const answer = hub.handler;
    hub.handler = (request, response) =>
      ++refusals > 3 ? answer(request, response) : void response.writeHead(status, headers).end("busy");
    expectWhole(await pullPreset([first]));
    expect(lines).toEqual([]);
  });

  test("in one piece from a server that ignores ranges", async () => {
    hub.handler = (_, response) => void response.writeHead(200).end(BYTES);
    await leavePartial(1_000, Buffer.alloc(BYTES.length));
    expectWhole(await pullPreset([first]));
    // One request for a range, one for the whole file. The other connections are never opened.
    expect(hub.seen.map(({ range }) => range?.slice(0, 5))).toEqual(["bytes", undefined]);
  });

  test.each<[string, (from: number, to: number) => string]>([
    ["begins at another byte", (_, to) => `bytes 0-${to - 1}/${BYTES.length}`],
    ["ends beyond the requested range", (from, to) => `bytes ${from}-${to}/${BYTES.length}`],
    ["is not a range", () => "lines 1-2/3"],
    ["is missing", () => ""],
  ])("in one piece from a server whose Content-Range %s", async (_, contentRange) => {
    hub.handler = (request, response) => {
      const range = parseRange(request, BYTES.length);
      if (range === undefined) return serve({ bytes: BYTES }, request, response);
      response.writeHead(206, { "content-range": contentRange(range.from, range.to) });
      response.end(BYTES.subarray(range.from, range.to));
    };
    expectWhole(await pullPreset([first]));
  });

  test("in one piece from a server that refuses ranges with 416", async () => {
    hub.handler = (request, response) =>
      request.headers.range === undefined
        ? serve({ bytes: BYTES }, request, response)
        : void response.writeHead(416).end();
    expectWhole(await pullPreset([first]));
  });

  test("from a server that always compresses", async () => {
    hub.handler = (_, response) => {
      const body = gzipSync(BYTES);
      response.writeHead(200, { "content-encoding": "gzip", "content-length": body.length }).end(body);
    };
    expectWhole(await pullPreset([first]));
    expect(hub.seen.every(({ headers }) => headers["accept-encoding"] === "identity")).toBe(true);
  });

  test("without taking a compressed range for a range of the file", async () => {
    hub.handler = (request, response) => {
      const range = parseRange(request, BYTES.length);
      if (range === undefined) return serve({ bytes: BYTES }, request, response);
      response.writeHead(206, {
        "content-encoding": "gzip",
        "content-range": `bytes ${range.from}-${range.to - 1}/${BYTES.length}`,
      });
      response.end(gzipSync(BYTES.subarray(range.from, range.to)));
    };
    expectWhole(await pullPreset([first]));
  });

  test("again from the beginning if the partial download belongs to another file", async () => {
    await leavePartial(30_000, Buffer.alloc(BYTES.length, 7));
    expectWhole(await pullPreset([first]));
    expect(lines).toEqual([]);
  });

  test.each([
    ["empty", Buffer.alloc(0)],
    ["in an older format, without counters", BYTES.subarray(0, 100_000)],
    ["longer than the file", Buffer.alloc(BYTES.length * 2, 255)],
    ["with counters beyond their segments", Buffer.alloc(BYTES.length + 8 * 7, 255)],
  ])("although the partial download is %s", async (_, bytes) => {
    store().prepare();
    writeFileSync(store().partialPath(sha256(BYTES)), bytes);
    expectWhole(await pullPreset([first]));
  });

  test("without a request if a version without a store downloaded it and its digest matches", async () => {
    mkdirSync(join(folder, ".downloads"));
    writeFileSync(join(folder, ".downloads", FILE), BYTES);
    expectWhole(await pullPreset([first]));
    expect(hub.seen).toHaveLength(0);
    expect(existsSync(join(folder, ".downloads"))).toBe(false);

    await store().remove("model");
    mkdirSync(join(folder, ".downloads"));
    writeFileSync(join(folder, ".downloads", FILE), Buffer.alloc(BYTES.length));
    expectWhole(await pullPreset([first]));
    expect(hub.seen).toHaveLength(6);
  });

  test("once for two pulls at the same time", async () => {
    const answer = hub.handler;
    hub.handler = (request, response) => void setTimeout(() => answer(request, response), 30);
    await Promise.all([pullPreset([first]), pullPreset([first])]);
    expect(hub.seen).toHaveLength(6);
    expect(lines).toEqual([expect.stringMatching(/^waiting for process \d+, which is downloading model$/)]);
  });

  test("despite the lock of a dead process", async () => {
    store().prepare();
    // Linux's largest process id is 4194304.
    writeFileSync(store().lockPath("model"), "4194305");
    expectWhole(await pullPreset([first]));
  });
});

describe("prints one line about a failed source and tries the next one, after", () => {
  const wrong = Buffer.from(BYTES);
  wrong[200_000]! ^= 1;
  const cases: readonly (readonly [string, Handler, RegExp])[] = [
    ["status 404", (_, r) => void r.writeHead(404).end("nothing"), /: the server answered 404;/],
    ["status 401, with a hint", (_, r) => void r.writeHead(401).end(), /answered 401: .*COLDPATH_HUB_TOKEN/],
    ["status 503 every time", (_, r) => void r.writeHead(503).end(), /: the server answered 503;/],
    [
      "a page instead of the file",
      (_, r) => void r.writeHead(200, { "content-length": 5 }).end("hello"),
      /offers 5 bytes/,
    ],
    [
      "a range of another file",
      (_, r) => void r.writeHead(206, { "content-range": "bytes 0-49999/77777" }).end(BYTES.subarray(0, SEGMENT)),
      /offers 77777 bytes, but the file has 300000/,
    ],
    ["one wrong bit", (q, r) => serve({ bytes: wrong }, q, r), /model\.gguf has a wrong SHA-256 and was deleted;/],
    [
      "more bytes than the file has",
      (_, r) => void r.writeHead(200).end(Buffer.concat([BYTES, BYTES])),
      /sent more than the file's/,
    ],
    [
      "more bytes than the range has",
      (_, r) => void r.writeHead(206, { "content-range": `bytes 0-49999/300000` }).end(BYTES.subarray(0, SEGMENT + 9)),
      /sent more than the file's/,
    ],
    [
      "fewer bytes than the file has, every time",
      (_, r) => void r.writeHead(200).end(BYTES.subarray(0, 10)),
      /ended at byte 10 of/,
    ],
    ["no response", () => {}, /^\S+ can't be reached;/],
    ["headers without a body", (_, r) => r.writeHead(200).flushHeaders(), /no data for 300 ms;/],
    ["a connection closed at once", (request) => void request.socket.destroy(), /^\S+ can't be reached;/],
    ["endless redirects", (q, r) => void r.writeHead(302, { location: q.url }).end(), /redirects more than 8 times/],
    [
      "a redirect to a non-http URL",
      (_, r) => void r.writeHead(302, { location: "file:///etc/passwd" }).end(),
      /a non-http URL/,
    ],
    ["a redirect without a location", (_, r) => void r.writeHead(302).end(), /answered 302/],
  ];
  test.each(cases)("%s", async (_, broken, reason) => {
    const answer = hub.handler;
    hub.handler = (request, response) => (request.url?.startsWith("/scope/") ? answer : broken)(request, response);
    const hasty = { COLDPATH_DOWNLOAD_CONNECT_MS: "700", COLDPATH_DOWNLOAD_STALL_MS: "300" };
    expectWhole(await pullPreset([first, second], config({ COLDPATH_DOWNLOAD_ATTEMPTS: "2", ...hasty })));
    expect(lines).toEqual([expect.stringMatching(reason)]);
    expect(lines[0]).toMatch(/; trying 127\.0\.0\.1:\d+$/);
  });

  test("a part of the file, and keeps that part", async () => {
    const answer = hub.handler;
    hub.handler = (request, response) => {
      const range = parseRange(request, BYTES.length);
      const isLost = !request.url?.startsWith("/scope/") && range !== undefined && range.from >= 2 * SEGMENT;
      return isLost ? void response.writeHead(403).end() : answer(request, response);
    };
    expectWhole(await pullPreset([first, second], config({ COLDPATH_DOWNLOAD_CONNECTIONS: "1" })));
    const again = hub.seen.filter(({ path }) => path.startsWith("/scope/")).map(({ range }) => range);
    expect(again[0]).toBe(`bytes=${2 * SEGMENT}-${3 * SEGMENT - 1}`);
    expect(again).toHaveLength(4);
  });

  test("the last source: then the error has all reasons and the remedy", async () => {
    hub.handler = (_, response) => void response.writeHead(404).end();
    await expect(pullPreset([first, second])).rejects.toMatchObject({
      code: "download-failed",
      message: expect.stringMatching(
        /^model could not be downloaded \(\S+: the server answered 404; \S+: the server answered 404\); set COLDPATH_HUB_ENDPOINT/,
      ) as string,
    });
    expect(lines).toHaveLength(1);
    expect(store().list()).toEqual([]);
  });
});

test("calls the hubs by their names, and prints no reason for an unreachable one", async () => {
  const cause = new Error("ECONNREFUSED");
  const refused: typeof fetch = () => Promise.reject(new TypeError("fetch failed", { cause }));
  const settings = readImportConfig({ COLDPATH_MODELS_DIR: folder });
  await expect(pullPreset([first, second], settings, { fetch: refused })).rejects.toThrow(
    /\(Hugging Face: ECONNREFUSED; ModelScope: ECONNREFUSED\)/,
  );
  expect(lines).toEqual(["Hugging Face can't be reached; trying ModelScope"]);
});

test("stops waiting for a lock that another process keeps", async () => {
  store().prepare();
  writeFileSync(store().lockPath("model"), "1");
  await expect(pullPreset([first], config({ COLDPATH_IMPORT_WAIT_MS: "150" }))).rejects.toMatchObject({ code: "busy" });
});

test("refuses a file that does not fit on the disk before any request, counting bytes that are already there", async () => {
  const spare = 64 * 1024 * 1024;
  const tight = { freeBytes: () => spare + BYTES.length - 1 };
  await expect(pullPreset([first], config(), tight)).rejects.toMatchObject({
    code: "disk-full",
    message: expect.stringMatching(/^model needs 67\.4 MB in .*, but only 67\.4 MB are free$/) as string,
  });
  expect(hub.seen).toHaveLength(0);
  await leavePartial(SEGMENT / 2);
  expectWhole(await pullPreset([first], config(), tight));
});

describe("without a digest known beforehand", () => {
  const path = `/files/${FILE}`;
  const name = () => `${hub.origin}${path}`;

  test("requests the same entity tag, and records the digest", async () => {
    hub.files.set(path, { bytes: BYTES, etag: '"one"', lastModified: "Tue, 02 Jan 2024 03:04:05 GMT" });
    const pulled = await pullNamed(name());
    expectWhole(pulled);
    expect(pulled.download).toEqual({
      name: name(),
      kind: "url",
      location: name(),
      revision: '"one"',
      modified: "2024-01-02T03:04:05.000Z",
      files: { [FILE]: { bytes: BYTES.length, sha256: sha256(BYTES) } },
    });
    expect(hub.seen.slice(1).every(({ headers }) => headers["if-range"] === '"one"')).toBe(true);
  });

  test("does not mix two versions of a file that changes during the download", async () => {
    const changed = Buffer.from(BYTES.toReversed());
    hub.handler = (request, response) => {
      const file = hub.seen.length > 3 ? { bytes: changed, etag: '"two"' } : { bytes: BYTES, etag: '"one"' };
      serve(file, request, response);
    };
    await expect(pullNamed(name())).rejects.toMatchObject({
      code: "download-failed",
      message: expect.stringMatching(/changed on the server during the download/) as string,
    });
    // The bytes of the first version are not used for the second one.
    const { path: whole } = await pullNamed(name());
    expect(readFileSync(whole).equals(changed)).toBe(true);
  });

  test("and without a tag, uses one connection and ignores an earlier attempt", async () => {
    hub.files.set(path, { bytes: BYTES });
    const answer = hub.handler;
    let asked = 0;
    hub.handler = (request, response) => {
      if (++asked !== 2) return answer(request, response);
      response.writeHead(200, { "content-length": BYTES.length });
      response.write(Buffer.alloc(100_000), () => response.destroy());
    };
    await expect(pullNamed(name(), config({ COLDPATH_DOWNLOAD_ATTEMPTS: "1" }))).rejects.toThrow(
      /ended|terminated|closed/,
    );
    hub.seen.length = 0;
    expectWhole(await pullNamed(name()));
    expect(hub.seen.map(({ range }) => range)).toEqual(["bytes=0-0", undefined]);
  });

  test("checks a digest in the name", async () => {
    hub.files.set(path, { bytes: BYTES });
    expectWhole(await pullNamed(`${name()}#sha256=${sha256(BYTES)}`));
    await store().remove(`${name()}#sha256=${sha256(BYTES)}`);
    await expect(pullNamed(`${name()}#sha256=${"0".repeat(64)}`)).rejects.toThrow(/a wrong SHA-256/);
    expect([left(), store().list()]).toEqual([[], []]);
  });

  test("checks a digest in the headers of a hub's redirect", async () => {
    hub.files.set("/cdn", { bytes: BYTES });
    const answer = hub.handler;
    const announce =
      (digest: string): Handler =>
      (request, response) => {
        if (request.url !== path) return answer(request, response);
        response.writeHead(302, { location: "/cdn", "x-linked-etag": `"${digest}"` }).end();
      };
    hub.handler = announce("1".repeat(64));
    await expect(pullNamed(name())).rejects.toThrow(/a wrong SHA-256/);
    hub.handler = announce(sha256(BYTES));
    expectWhole(await pullNamed(name()));
  });

  test.each<[string, Handler, RegExp]>([
    ["does not exist", (_, r) => void r.writeHead(404).end(), /there is no file at/],
    ["has no length", (_, r) => void r.writeHead(200).end(BYTES), /does not send the size of/],
    ["is empty", (_, r) => void r.writeHead(200, { "content-length": 0 }).end(), /a size of 0 bytes/],
    [
      "claims a size beyond safe integers",
      (_, r) => void r.writeHead(206, { "content-range": "bytes 0-0/99999999999999999999" }).end("x"),
      /a size of 100000000000000000000 bytes/,
    ],
    [
      "claims a size beyond any disk",
      (_, r) => void r.writeHead(206, { "content-range": "bytes 0-0/9007199254740991" }).end("x"),
      /needs 9007\.2 TB in/,
    ],
  ])("refuses a file that %s", async (_, handler, message) => {
    hub.handler = handler;
    await expect(pullNamed(name())).rejects.toThrow(message);
    expect(store().list()).toEqual([]);
  });
});
