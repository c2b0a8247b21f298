/** Repositories of several files: which files are fetched, how they are checked, and which hosts get a secret. */
import { createHash, createHmac } from "node:crypto";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { ModelStore } from "../../../../origin/import/fetch/store.ts";
import { type Hub, startHub } from "../../../fakes/hub.ts";
import { fetchConfig, pullNamed } from "./fetching.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const TOKEN = "hf_a-secret-that-nobody-else-may-see";

let folder = "";
let hub: Hub;
/** Another company's host, which the hub redirects downloads to. */
let cdn: Hub;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-repositories-"));
  [hub, cdn] = await Promise.all([startHub(), startHub()]);
});
afterEach(async () => {
  await Promise.all([hub[Symbol.asyncDispose](), cdn[Symbol.asyncDispose]()]);
  rmSync(folder, { recursive: true, force: true });
});

const config = (overrides: Readonly<Record<string, string>> = {}) => fetchConfig(hub, folder, overrides);
const text = (value: string) => Buffer.from(value);
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const json = (value: unknown) => ({ bytes: text(JSON.stringify(value)) });
const hmac = (key: string | Buffer, data: string) => createHmac("sha256", key).update(data).digest();
const gitBlob = (bytes: Uint8Array) => createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");

const CHECKPOINT: Readonly<Record<string, Buffer>> = {
  "config.json": text('{"model_type":"llama"}'),
  "tokenizer.json": text("{}"),
  "1_Pooling/config.json": text('{"pooling_mode_mean_tokens":true}'),
  "model.safetensors.index.json": text('{"weight_map":{}}'),
  "model-00001-of-00002.safetensors": Buffer.alloc(120_000, 1),
  "model-00002-of-00002.safetensors": Buffer.alloc(90_000, 2),
};
const OTHERS = {
  "README.md": text("# hello"),
  "readme.md": text("# the same file on a case-insensitive disk"),
  "consolidated.safetensors": Buffer.alloc(10, 9),
  "onnx/model.onnx": Buffer.alloc(10, 9),
  "run.py": text("import os"),
};

interface RepositoryOptions {
  /** Host that the files' addresses redirect to. Default: no redirect. */
  readonly redirectTo?: string;
  /** Changes the list of files. */
  readonly edit?: (entries: Record<string, unknown>[]) => void;
}

/** Puts `someone/model` on the hub, listed as by Hugging Face: SHA-256 of large files, git blob ids of small ones. */
function putRepository(files: Readonly<Record<string, Buffer>>, { redirectTo, edit }: RepositoryOptions = {}): void {
  const entries: Record<string, unknown>[] = Object.entries(files).map(([path, bytes]) =>
    bytes.length > 50_000
      ? { type: "file", path, size: 134, oid: "0".repeat(40), lfs: { oid: sha256(bytes), size: bytes.length } }
      : { type: "file", path, size: bytes.length, oid: gitBlob(bytes) },
  );
  edit?.(entries);
  const api = "/api/models/someone/model";
  for (const revision of ["main", "v1"]) {
    hub.files.set(`${api}/revision/${revision}`, json({ sha: COMMIT, lastModified: "2024-05-06T07:08:09.000Z" }));
  }
  const half = Math.ceil(entries.length / 2);
  hub.files.set(
    `${api}/tree/${COMMIT}?recursive=true`,
    json([{ type: "directory", path: "x", size: 0 }, ...entries.slice(0, half)]),
  );
  hub.files.set(`${api}/tree/${COMMIT}?recursive=true&cursor=2`, json(entries.slice(half)));
  const answer = hub.handler;
  hub.handler = (request, response) => {
    const url = request.url ?? "";
    if (redirectTo !== undefined && url.includes("/resolve/")) {
      response.writeHead(302, { location: `${redirectTo}${url}` }).end();
      return;
    }
    // A mirror passes on the original host's link to the next page.
    if (url.endsWith("?recursive=true"))
      response.setHeader("link", `<https://huggingface.co${url}&cursor=2>; rel="next"`);
    answer(request, response);
  };
  for (const [path, bytes] of Object.entries(files)) {
    const address = `/someone/model/resolve/${COMMIT}/${path}`;
    hub.files.set(address, { bytes });
    cdn.files.set(address, { bytes });
  }
}

/** The digests of a folder's files, by path. */
function filesBelow(path: string): Record<string, string> {
  const names = readdirSync(path, { recursive: true, encoding: "utf8" }).filter((name) =>
    statSync(join(path, name)).isFile(),
  );
  return Object.fromEntries(names.map((name) => [name, sha256(readFileSync(join(path, name)))]));
}

function digests(files: Readonly<Record<string, Buffer>>): Record<string, string> {
  return Object.fromEntries(Object.entries(files).map(([path, bytes]) => [path, sha256(bytes)]));
}

describe("a repository on Hugging Face", () => {
  test("is listed page by page, and only the files that the model needs are fetched, at one commit", async () => {
    putRepository({ ...OTHERS, ...CHECKPOINT });
    const { path, download } = await pullNamed("someone/model@v1", config());
    expect(filesBelow(path)).toEqual(digests(CHECKPOINT));
    expect(download).toMatchObject({
      name: "hf:someone/model@v1",
      kind: "hugging-face",
      location: "someone/model",
      revision: COMMIT,
      modified: "2024-05-06T07:08:09.000Z",
    });
    for (const [name, bytes] of Object.entries(CHECKPOINT)) {
      expect(download.files[name]).toEqual({ bytes: bytes.length, sha256: sha256(bytes) });
    }
    expect(hub.seen.some(({ path: requested }) => /README|consolidated|onnx|run\.py/.test(requested))).toBe(false);
  });

  test("shares unchanged files with its next revision, and with another name", async () => {
    putRepository(CHECKPOINT);
    await pullNamed("someone/model", config());
    hub.seen.length = 0;
    putRepository({ ...CHECKPOINT, "tokenizer.json": text('{"changed":1}') });
    const { path } = await pullNamed("someone/model", config());
    expect(readFileSync(join(path, "tokenizer.json"), "utf8")).toBe('{"changed":1}');
    expect(hub.seen.some(({ path: requested }) => requested.endsWith(".safetensors"))).toBe(false);
    await pullNamed("hf:someone/model@v1", config());
    expect(hub.seen.some(({ path: requested }) => requested.endsWith(".safetensors"))).toBe(false);
    // Each file is stored once for both names. The old tokenizer, which neither name needs, was deleted.
    expect(readdirSync(join(folder, ".store", "blobs"))).toHaveLength(Object.keys(CHECKPOINT).length);
  });

  const quantized = {
    "model-Q4_K_M.gguf": text("four"),
    "model-Q4_K_S.gguf": text("small"),
    "Q8_0/model-Q8_0.gguf": text("eight"),
    "big-Q6_K-00001-of-00002.gguf": text("half"),
  };

  test.each([
    ["someone/model:Q4_K_M", "four"],
    ["someone/model:q4_k_s", "small"],
    ["someone/model:Q8_0", "eight"],
    ["someone/model:Q8_0/model-Q8_0.gguf@main", "eight"],
  ])("finds the one file of %s", async (name, content) => {
    putRepository(quantized);
    const { path } = await pullNamed(name, config());
    expect(readFileSync(path, "utf8")).toBe(content);
    expect(path).toMatch(/\.gguf$/);
  });

  test.each([
    ["someone/model", /several \.gguf files; add a colon and one of these to the name: model-Q4_K_M\.gguf, /],
    ["someone/model:Q4_K", /no file "Q4_K"; it has model-Q4_K_M\.gguf/],
    ["someone/model:Q6_K", /which is one of several parts, but not big-Q6_K-00002-of-00002\.gguf/],
    ["someone/model:Q(4", /no file "Q\(4"/],
  ])("lists the available files if %s matches none or several", async (name, message) => {
    putRepository(quantized);
    await expect(pullNamed(name, config())).rejects.toThrow(message);
  });

  test.each(["someone/model:Q6_K", "someone/model:big-Q6_K-00002-of-00002.gguf"])(
    "fetches all parts of a split GGUF: %s",
    async (name) => {
      const other = { "big-Q6_K-00002-of-00002.gguf": text("other half") };
      putRepository({ ...quantized, ...other });
      const { path, download } = await pullNamed(name, config());
      expect(path).toMatch(/big-Q6_K-00001-of-00002\.gguf$/);
      expect(readFileSync(path, "utf8")).toBe("half");
      expect(filesBelow(dirname(path))).toEqual(digests({ "big-Q6_K-00001-of-00002.gguf": text("half"), ...other }));
      expect(Object.keys(download.files)).toHaveLength(2);
    },
  );

  test("is refused without weights, or without a configuration", async () => {
    putRepository(OTHERS);
    await expect(pullNamed("someone/model", config())).rejects.toThrow(/neither model\.safetensors nor a \.gguf file/);
    const { "config.json": _, ...rest } = CHECKPOINT;
    putRepository(rest);
    await expect(pullNamed("someone/model", config())).rejects.toThrow(/has weights but no config\.json/);
  });

  test("gets the token, and no other host does", async () => {
    putRepository(CHECKPOINT, { redirectTo: cdn.origin });
    await pullNamed("someone/model", config({ COLDPATH_HUB_TOKEN: TOKEN }));
    expect(hub.seen.every(({ headers }) => headers.authorization === `Bearer ${TOKEN}`)).toBe(true);
    expect(cdn.seen.length).toBeGreaterThan(5);
    expect(JSON.stringify(cdn.seen)).not.toContain(TOKEN);
    const names = readdirSync(join(folder, ".store", "models")).filter((name) => name.endsWith(".json"));
    const records = names.map((name) => readFileSync(join(folder, ".store", "models", name), "utf8"));
    expect(records).toHaveLength(1);
    expect(JSON.stringify(records)).not.toContain(TOKEN);
  });

  test("that refuses the token leads to an error without it", async () => {
    hub.handler = (_, response) => void response.writeHead(403).end();
    const refused = pullNamed("someone/model", config({ COLDPATH_HUB_TOKEN: TOKEN }));
    await expect(refused).rejects.toThrow(/403: .*COLDPATH_HUB_TOKEN/);
    await expect(refused).rejects.not.toThrow(TOKEN);
  });

  test.each<[string, (entries: Record<string, unknown>[]) => void, RegExp]>([
    [
      "a small file has a wrong blob id",
      (all) => Object.assign(all[0]!, { oid: "1".repeat(40) }),
      /a wrong git blob id/,
    ],
    [
      "a large file has a wrong SHA-256",
      (all) => Object.assign(all[4]!, { lfs: { oid: "1".repeat(64), size: 120_000 } }),
      /a wrong SHA-256 and was deleted/,
    ],
    [
      "a digest is malformed",
      (all) => Object.assign(all[4]!, { lfs: { oid: "../../x", size: 120_000 } }),
      /a malformed SHA-256/,
    ],
    ["a size is wrong", (all) => Object.assign(all[0]!, { size: 23 }), /offers 22 bytes, but the file has 23/],
    ["a size is negative", (all) => Object.assign(all[0]!, { size: -1 }), /a size of -1 bytes/],
    ["a shard is listed twice", (all) => all.push({ ...all[4]! }), /lists "model-00001-of-00002\.safetensors" twice/],
  ])("is refused if %s", async (_, edit, message) => {
    putRepository(CHECKPOINT, { edit });
    await expect(pullNamed("someone/model", config())).rejects.toMatchObject({
      code: "download-failed",
      message: expect.stringMatching(message) as string,
    });
    expect(new ModelStore(config()).list()).toEqual([]);
  });

  test.each([
    "../../evil.gguf",
    "/etc/evil.gguf",
    "a/../../evil.gguf",
    "a//evil.gguf",
    "a\\evil.gguf",
    "C:evil.gguf",
    "\u001b[2Jevil.gguf",
  ])("can't create a file at %j", async (path) => {
    putRepository({ "a.gguf": text("x") }, { edit: (all) => Object.assign(all[0]!, { path }) });
    await expect(pullNamed("someone/model", config())).rejects.toThrow(/lists the unsafe path/);
    expect(existsSync(join(dirname(folder), "evil.gguf"))).toBe(false);
  });

  test.each([
    ["an HTML page", "<html>", /is not JSON/],
    ["unexpected JSON", '{"sha":"main"}', /not the description of a revision/],
    ["an empty body", "", /is not JSON/],
  ])("is refused if its API sends %s", async (_, body, message) => {
    hub.handler = (__, response) => void response.end(body);
    await expect(pullNamed("someone/model", config())).rejects.toThrow(message);
  });

  test("is requested again while the hub is busy", async () => {
    putRepository(CHECKPOINT);
    const answer = hub.handler;
    let requests = 0;
    hub.handler = (request, response) =>
      ++requests < 3 ? void response.writeHead(429, { "retry-after": "0" }).end() : answer(request, response);
    const { path } = await pullNamed("someone/model", config());
    expect(filesBelow(path)).toEqual(digests(CHECKPOINT));
  });
});

test("a repository on ModelScope is listed by ModelScope's API, which has the SHA-256 of every file", async () => {
  const entries = Object.entries({ ...CHECKPOINT, ...OTHERS }).map(([Path, bytes]) => {
    hub.files.set(`/scope/models/someone/model/resolve/master/${Path}`, { bytes });
    return { Type: "blob", Path, Size: bytes.length, Sha256: sha256(bytes), CommittedDate: 1_700_000_000 };
  });
  const list = { Code: 200, Data: { Files: [{ Type: "tree", Path: "1_Pooling", Size: 0 }, ...entries] } };
  hub.files.set("/scope/api/v1/models/someone/model/repo/files?Revision=master&Recursive=true", {
    bytes: text(JSON.stringify(list)),
  });
  const { path, download } = await pullNamed("ms:someone/model", config({ COLDPATH_HUB_TOKEN: TOKEN }));
  expect(filesBelow(path)).toEqual(digests(CHECKPOINT));
  expect(download).toMatchObject({ kind: "modelscope", revision: "master", modified: "2023-11-14T22:13:20.000Z" });
  expect(JSON.stringify(hub.seen)).not.toContain(TOKEN);
});

describe("a folder behind a URL", () => {
  test("is probed for the file names of a checkpoint, and for the shards in its index", async () => {
    const index = text(
      JSON.stringify({ weight_map: { a: "model-00001-of-00002.safetensors", b: "model-00002-of-00002.safetensors" } }),
    );
    const files = { ...CHECKPOINT, "model.safetensors.index.json": index };
    for (const [path, bytes] of Object.entries(files)) hub.files.set(`/my/model/${path}`, { bytes, etag: `"${path}"` });
    const { path, download } = await pullNamed(`${hub.origin}/my/model/`, config());
    expect(filesBelow(path)).toEqual(digests(files));
    expect(download).toMatchObject({ kind: "url", location: `${hub.origin}/my/model/`, revision: null });
  });

  test.each(["../../../etc/passwd", "https://elsewhere.example/x.safetensors", "/model.safetensors"])(
    "is refused if its index has the shard %j",
    async (shard) => {
      const index = text(JSON.stringify({ weight_map: { a: shard } }));
      hub.files.set("/my/model/model.safetensors.index.json", { bytes: index });
      await expect(pullNamed(`${hub.origin}/my/model/`, config())).rejects.toThrow(/has unexpected names of shards/);
    },
  );
});

function putFiles(files: Readonly<Record<string, Buffer>>): void {
  for (const [path, bytes] of Object.entries(files)) hub.files.set(`/my/${path}`, { bytes, etag: `"${path}"` });
}

describe("a URL of one part of a GGUF", () => {
  const parts = { "big-00001-of-00002.gguf": text("one"), "big-00002-of-00002.gguf": text("two") };

  test.each(Object.keys(parts))("leads to all parts: %s", async (part) => {
    putFiles(parts);
    const { path } = await pullNamed(`${hub.origin}/my/${part}`, config());
    expect(path).toMatch(/big-00001-of-00002\.gguf$/);
    expect(filesBelow(dirname(path))).toEqual(digests(parts));
  });

  test("is refused if another part is missing, or with a digest", async () => {
    putFiles({ "big-00001-of-00002.gguf": text("one") });
    const url = `${hub.origin}/my/big-00001-of-00002.gguf`;
    await expect(pullNamed(url, config())).rejects.toThrow(/one of 2 files, but big-00002-of-00002\.gguf is missing/);
    await expect(pullNamed(`${url}#sha256=${"0".repeat(64)}`, config())).rejects.toThrow(
      /a single digest can't check them all/,
    );
  });
});

describe("object storage", () => {
  const keys = {
    AWS_ACCESS_KEY_ID: "AKIDEXAMPLE",
    AWS_SECRET_ACCESS_KEY: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    AWS_SESSION_TOKEN: "a-temporary-token",
    AWS_REGION: "cn-north-1",
  };
  const env = (more: Readonly<Record<string, string>> = {}) => config({ ...keys, ...more });
  const bytes = Buffer.alloc(120_000, 3);

  test("gets signed requests, and its checksum is checked", async () => {
    hub.files.set("/s3/bucket/models/a.gguf", { bytes, etag: '"x"' });
    const answer = hub.handler;
    hub.handler = (request, response) => {
      response.setHeader("x-amz-checksum-sha256", createHash("sha256").update(bytes).digest("base64"));
      answer(request, response);
    };
    const { path, download } = await pullNamed("s3://bucket/models/a.gguf", env());
    expect(readFileSync(path).equals(bytes)).toBe(true);
    expect(download).toMatchObject({ kind: "s3", location: "s3://bucket/models/a.gguf" });
    for (const { path: requested, headers } of hub.seen) {
      expect(headers.authorization).toBe(signature(requested, headers));
    }
    expect(JSON.stringify([download, hub.seen])).not.toContain(keys.AWS_SECRET_ACCESS_KEY);
  });

  test("that redirects to another host does not pass on the signature", async () => {
    hub.handler = (request, response) =>
      void response.writeHead(307, { location: `${cdn.origin}${request.url}` }).end();
    cdn.files.set("/s3/bucket/a.gguf", { bytes, etag: '"x"' });
    await pullNamed("s3://bucket/a.gguf", env());
    expect(JSON.stringify(cdn.seen)).not.toMatch(/AKIDEXAMPLE|a-temporary-token/);
  });

  test("that is public needs no keys", async () => {
    hub.files.set("/s3/bucket/a.gguf", { bytes, etag: '"x"' });
    await pullNamed("s3://bucket/a.gguf", config());
    expect(hub.seen.every(({ headers }) => headers.authorization === undefined)).toBe(true);
  });

  test("with host addressing is requested from the bucket's host", async () => {
    const hosts: string[] = [];
    const recording: typeof fetch = (input) => {
      hosts.push(input instanceof URL ? input.href : "no URL");
      return Promise.resolve(new Response(null, { status: 404 }));
    };
    const settings = env({ COLDPATH_S3_ENDPOINT: "https://oss-cn-beijing.example", COLDPATH_S3_ADDRESSING: "host" });
    await expect(pullNamed("s3://bucket/a/b.gguf", settings, { fetch: recording })).rejects.toThrow(
      /no file at s3:\/\/bucket\/a\/b\.gguf/,
    );
    expect(hosts).toEqual(["https://bucket.oss-cn-beijing.example/a/b.gguf"]);
  });

  /**
   * AWS Signature Version 4 of a GET without body and query, written from its definition. The list of signed headers comes
   * from the request.
   */
  function signature(path: string, headers: Record<string, unknown>): string {
    const signed = /SignedHeaders=([^,]+)/.exec(String(headers["authorization"]))?.[1] ?? "";
    const canonicalHeaders = signed.split(";").map((name) => `${name}:${String(headers[name])}\n`);
    const canonical = ["GET", path, "", canonicalHeaders.join(""), signed, "UNSIGNED-PAYLOAD"].join("\n");
    const time = String(headers["x-amz-date"]);
    const scope = `${time.slice(0, 8)}/cn-north-1/s3/aws4_request`;
    const key = scope
      .split("/")
      .reduce<string | Buffer>((last, part) => hmac(last, part), `AWS4${keys.AWS_SECRET_ACCESS_KEY}`);
    const toSign = ["AWS4-HMAC-SHA256", time, scope, sha256(text(canonical))].join("\n");
    return (
      `AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/${scope}, SignedHeaders=${signed}, ` +
      `Signature=${hmac(key, toSign).toString("hex")}`
    );
  }
});
