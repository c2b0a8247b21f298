/**
 * Lists the files at a plain URL or in object storage: one file, or a folder with the file names of a checkpoint. The server
 * need not list folders: each possible name is requested.
 */
import type { FetchConfig } from "./knobs.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { COMPANIONS, SHARD, SINGLE_WEIGHTS, WEIGHTS_INDEX } from "./choose-files.ts";
import { ggufParts } from "../sources/gguf-parts.ts";
import type { Listing, RemoteFile } from "./listing.ts";
import { readJson, type ReadJsonOptions } from "./read-json.ts";
import type { UrlReference } from "./reference.ts";
import { type FileResponse, request, type Target } from "./request.ts";
import { describeFailure, TransferError } from "./transfer-error.ts";

/** Upper bound of shards. The largest checkpoints have a few hundred. */
const SHARDS_MAX = 1_000;

export interface LocationOptions extends Omit<ReadJsonOptions, "target"> {
  readonly config: FetchConfig;
}

/** @throws {ImportError} `download-failed`; `unknown-model` for a digest of a model in several files */
export async function listLocation(reference: UrlReference, options: LocationOptions): Promise<Listing> {
  const location = reference.url.replace(/\?.*$/s, "");
  const base = reference.kind === "s3" ? objectTarget(reference.url, options.config) : { url: reference.url };
  if (!new URL(reference.url).pathname.endsWith("/")) {
    const path = decodeURIComponent(location.split("/").at(-1) ?? "");
    const parts = ggufParts(path);
    if (parts.length > 1) return listParts(reference, location, { base, parts, options });
    const found = await probe(base, path, options);
    if (found === undefined) throw new ImportError("download-failed", `there is no file at ${location}`);
    const { file, modified } = found;
    const sha256 = reference.sha256 ?? file.sha256;
    return { location, revision: file.etag, modified, files: [{ ...file, sha256 }] };
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

/** Lists all parts of a split GGUF. The reference may name any of them. */
async function listParts(
  { sha256 }: UrlReference,
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
      `${location} is one of ${parts.length} files, so a single digest can't check them all`,
    );
  }
  const found: ProbedFile[] = [];
  for (const part of parts) {
    const one = await probe(inside(base, encodeURIComponent(part)), part, options);
    if (one === undefined) {
      throw new ImportError("download-failed", `${location} is one of ${parts.length} files, but ${part} is missing`);
    }
    found.push(one);
  }
  return { location, revision: undefined, modified: newest(found), files: found.map(({ file }) => file) };
}

function newest(found: readonly ProbedFile[]): string | undefined {
  return (
    found
      .map((each) => each.modified ?? "")
      .toSorted()
      .at(-1) || undefined
  );
}

/** The names of the shards in a checkpoint's index. */
async function shardsOf(target: Target, options: LocationOptions): Promise<readonly string[]> {
  const { body } = await readJson({ ...options, target });
  const map = (body as { readonly weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== "object" || map === null) {
    throw new ImportError("download-failed", `${target.url} is not the index of a checkpoint`);
  }
  const names = [...new Set(Object.values(map).map(String))];
  if (names.length <= SHARDS_MAX && names.every((name) => SHARD.test(name))) return names;
  throw new ImportError("download-failed", `${target.url} has unexpected names of shards`);
}

interface ProbedFile {
  readonly file: RemoteFile;
  readonly modified: string | undefined;
}

/**
 * Requests a file's first byte: the response has the file's size, digest and entity tag. Not HEAD, because signed addresses
 * are often valid for GET only.
 *
 * @returns undefined if the file does not exist
 */
async function probe(target: Target, path: string, options: LocationOptions): Promise<ProbedFile | undefined> {
  const { fetch, now, limits } = options;
  let probed: FileResponse;
  try {
    const { connectTimeoutMs } = limits;
    probed = await request({ target, headers: { range: "bytes=0-0" }, fetch, now, connectTimeoutMs });
  } catch (cause) {
    if (cause instanceof TransferError && (cause.status === 404 || cause.status === 410)) return undefined;
    throw new ImportError("download-failed", `${new URL(target.url).host}: ${describeFailure(cause)}`, { cause });
  }
  const { response, first } = probed;
  probed.abort(new Error("only the headers were needed"));
  const total = /^bytes 0-0\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
  const isPlain = (response.headers.get("content-encoding") ?? "identity") === "identity";
  const length = response.status === 206 ? total : isPlain ? response.headers.get("content-length") : null;
  if (length === undefined || length === null) {
    throw new ImportError("download-failed", `${new URL(target.url).host} does not send the size of ${path}`);
  }
  const changed = Date.parse(response.headers.get("last-modified") ?? "");
  const etag = response.headers.get("etag");
  const file = {
    path,
    bytes: Number(length),
    from: target,
    sha256: announcedSha256(first) ?? announcedSha256(response.headers),
    // A weak tag does not promise the same bytes.
    etag: etag !== null && etag.startsWith('"') ? etag : undefined,
  };
  return { file, modified: Number.isNaN(changed) ? undefined : new Date(changed).toISOString() };
}

/** The digest in a header of Hugging Face or of S3. S3's covers the whole object only if it has no `-`. */
function announcedSha256(headers: Headers): string | undefined {
  const linked = /^"?([0-9a-f]{64})"?$/.exec(headers.get("x-linked-etag") ?? "")?.[1];
  if (linked !== undefined) return linked;
  const checksum = headers.get("x-amz-checksum-sha256") ?? "";
  return /^[A-Za-z0-9+/]{43}=$/.test(checksum) ? Buffer.from(checksum, "base64").toString("hex") : undefined;
}

/** A file inside a folder. The folder's query, which may be a signature, is dropped. */
function inside(folder: Target, path: string): Target {
  return { ...folder, url: new URL(path, folder.url).href };
}

/**
 * `s3://bucket/key` at the configured endpoint. Each request is signed if there are keys.
 *
 * Source: AWS Signature Version 4, by aws4fetch.
 */
function objectTarget(name: string, config: FetchConfig): Target {
  const { hostname: bucket, pathname } = new URL(name);
  const endpoint = new URL(config.s3Endpoint ?? `https://s3.${config.s3Region}.amazonaws.com`);
  if (config.s3Addressing === "host") endpoint.hostname = `${bucket}.${endpoint.hostname}`;
  const folder = endpoint.pathname.replace(/\/+$/, "");
  endpoint.pathname = config.s3Addressing === "host" ? `${folder}${pathname}` : `${folder}/${bucket}${pathname}`;
  return { url: endpoint.href, credentials: (url) => sign(url, config) };
}

async function sign(url: string, config: FetchConfig): Promise<Readonly<Record<string, string>>> {
  const { s3AccessKeyId: accessKeyId, s3SecretAccessKey: secretAccessKey, s3SessionToken, s3Region: region } = config;
  const headers = { "x-amz-checksum-mode": "ENABLED" };
  if (accessKeyId === undefined || secretAccessKey === undefined) return headers;
  // Loaded only if there are keys.
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
