/**
 * Finds out what lies at a plain URL or in object storage: one file, or a folder whose files have the names that
 * checkpoints use. Nothing has to list a folder for that: each name is asked for.
 */
import type { ImportConfig } from "../config.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { COMPANIONS, SHARD, SINGLE_WEIGHTS, WEIGHTS_INDEX } from "./choose-files.ts";
import { ggufParts } from "../sources/gguf-parts.ts";
import type { Listing, RemoteFile } from "./listing.ts";
import { type QuestionOptions, readJson } from "./read-json.ts";
import { type Answer, request, type Target } from "./request.ts";
import { describeFailure, TransferError } from "./transfer-error.ts";
import type { Location } from "./wanted.ts";

/** The largest checkpoints have a few hundred. */
const SHARDS_MAX = 1_000;

export interface LocationOptions extends Omit<QuestionOptions, "target"> {
  readonly config: ImportConfig;
}

/** @throws {ImportError} `download-failed`, and `unknown-model` for a folder without weights */
export async function listLocation(wanted: Location, options: LocationOptions): Promise<Listing> {
  const location = wanted.url.replace(/\?.*$/s, "");
  const base = wanted.kind === "s3" ? objectTarget(wanted.url, options.config) : { url: wanted.url };
  if (!new URL(wanted.url).pathname.endsWith("/")) {
    const path = decodeURIComponent(location.split("/").at(-1) ?? "");
    const parts = ggufParts(path);
    if (parts.length > 1) return listParts(wanted, location, { base, parts, options });
    const found = await probe(base, path, options);
    if (found === undefined) throw new ImportError("download-failed", `there is no file at ${location}`);
    const { file, modified } = found;
    return { location, revision: file.etag, modified, files: [{ ...file, sha256: wanted.sha256 ?? file.sha256 }] };
  }
  const find = (path: string) => probe(inside(base, path), path, options);
  const index = await find(WEIGHTS_INDEX);
  const weights = index === undefined ? [SINGLE_WEIGHTS] : await shardsOf(inside(base, WEIGHTS_INDEX), options);
  const found = index === undefined ? [] : [index];
  for (const path of [...COMPANIONS, ...weights]) {
    const one = await find(path);
    if (one !== undefined) found.push(one);
  }
  return { location, revision: undefined, modified: newest(found), files: found.map(({ file }) => file) };
}

/** A GGUF in several files, any of which is named. */
async function listParts(
  { sha256 }: Location,
  location: string,
  {
    base,
    parts,
    options,
  }: { readonly base: Target; readonly parts: readonly string[]; readonly options: LocationOptions },
): Promise<Listing> {
  if (sha256 !== undefined) {
    throw new ImportError(
      "unknown-model",
      `${location} is one of ${parts.length} files: one digest can't be all of theirs`,
    );
  }
  const found: Found[] = [];
  for (const part of parts) {
    const one = await probe(inside(base, encodeURIComponent(part)), part, options);
    if (one === undefined) {
      throw new ImportError("download-failed", `${location} is one of ${parts.length} files, and there is no ${part}`);
    }
    found.push(one);
  }
  return { location, revision: undefined, modified: newest(found), files: found.map(({ file }) => file) };
}

function newest(found: readonly Found[]): string | undefined {
  return (
    found
      .map((each) => each.modified ?? "")
      .toSorted()
      .at(-1) || undefined
  );
}

/** The names of the shards that a checkpoint's index speaks of. */
async function shardsOf(target: Target, options: LocationOptions): Promise<readonly string[]> {
  const { body } = await readJson({ ...options, target });
  const map = (body as { readonly weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null) {
    throw new ImportError("download-failed", `${target.url} is not the index of a checkpoint`);
  }
  const names = [...new Set(Object.values(map).map(String))];
  if (names.length <= SHARDS_MAX && names.every((name) => SHARD.test(name))) return names;
  throw new ImportError("download-failed", `${target.url} names shards as no checkpoint does`);
}

interface Found {
  readonly file: RemoteFile;
  readonly modified: string | undefined;
}

/**
 * Asks for a file's first byte: the answer has its size and whatever tells its versions apart. A HEAD would do, but
 * signed addresses are often good for GET alone.
 *
 * @returns `undefined` where there is no such file
 */
async function probe(target: Target, path: string, options: LocationOptions): Promise<Found | undefined> {
  const { fetch, now, limits } = options;
  let answer: Answer;
  try {
    const { connectTimeoutMs } = limits;
    answer = await request({ target, headers: { range: "bytes=0-0" }, fetch, now, connectTimeoutMs });
  } catch (cause) {
    if (cause instanceof TransferError && (cause.status === 404 || cause.status === 410)) return undefined;
    throw new ImportError("download-failed", `${new URL(target.url).host}: ${describeFailure(cause)}`, { cause });
  }
  const { response, first } = answer;
  answer.abort(new Error("only the headers were wanted"));
  const total = /^bytes 0-0\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
  const isPlain = (response.headers.get("content-encoding") ?? "identity") === "identity";
  const length = response.status === 206 ? total : isPlain ? response.headers.get("content-length") : null;
  if (length === undefined || length === null) {
    throw new ImportError("download-failed", `${new URL(target.url).host} does not say how long ${path} is`);
  }
  const changed = Date.parse(response.headers.get("last-modified") ?? "");
  const etag = response.headers.get("etag");
  const file = {
    path,
    bytes: Number(length),
    from: target,
    sha256: announcedSha256(first) ?? announcedSha256(response.headers),
    // A weak tag promises no more than that the file means the same.
    etag: etag !== null && etag.startsWith('"') ? etag : undefined,
  };
  return { file, modified: Number.isNaN(changed) ? undefined : new Date(changed).toISOString() };
}

/** The digest in a header of Hugging Face's, or in S3's; the latter is of the whole object only without a `-`. */
function announcedSha256(headers: Headers): string | undefined {
  const linked = /^"?([0-9a-f]{64})"?$/.exec(headers.get("x-linked-etag") ?? "")?.[1];
  if (linked !== undefined) return linked;
  const checksum = headers.get("x-amz-checksum-sha256") ?? "";
  return /^[A-Za-z0-9+/]{43}=$/.test(checksum) ? Buffer.from(checksum, "base64").toString("hex") : undefined;
}

/** A name inside a folder; the folder's own query, perhaps a signature of it, is not passed on. */
function inside(folder: Target, path: string): Target {
  return { ...folder, url: new URL(path, folder.url).href };
}

/**
 * `s3://bucket/key` at the endpoint that is configured, each request signed where there are keys.
 *
 * Source: AWS Signature Version 4, by aws4fetch.
 */
function objectTarget(name: string, config: ImportConfig): Target {
  const { hostname: bucket, pathname } = new URL(name);
  const endpoint = new URL(config.s3Endpoint ?? `https://s3.${config.s3Region}.amazonaws.com`);
  if (config.s3Addressing === "host") endpoint.hostname = `${bucket}.${endpoint.hostname}`;
  const folder = endpoint.pathname.replace(/\/+$/, "");
  endpoint.pathname = config.s3Addressing === "host" ? `${folder}${pathname}` : `${folder}/${bucket}${pathname}`;
  return { url: endpoint.href, credentials: (url) => sign(url, config) };
}

async function sign(url: string, config: ImportConfig): Promise<Readonly<Record<string, string>>> {
  const { s3AccessKeyId: accessKeyId, s3SecretAccessKey: secretAccessKey, s3SessionToken, s3Region: region } = config;
  const headers = { "x-amz-checksum-mode": "ENABLED" };
  if (accessKeyId === undefined || secretAccessKey === undefined) return headers;
  // Loaded by whoever has keys only.
  const { AwsV4Signer } = await import("aws4fetch");
  const signer = new AwsV4Signer({
    url,
    headers,
    accessKeyId,
    secretAccessKey,
    ...(s3SessionToken === undefined ? {} : { sessionToken: s3SessionToken }),
    service: "s3",
    region,
  });
  const signed = await signer.sign();
  return Object.fromEntries(signed.headers);
}
