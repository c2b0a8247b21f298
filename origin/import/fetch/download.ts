/**
 * Downloads one file of known size into a partial file: several segments in parallel, each resumed when its connection breaks;
 * in one piece from a server without range requests. Does not depend on hubs and does not check the content: the caller checks
 * its digest.
 *
 * Libraries that were considered, and why not: ipull 4 (no digests, its own terminal interface, 21 dependencies), easydl and
 * node-downloader-helper (no release since 2024; they send all headers to redirect targets), `@huggingface/hub`'s
 * downloadFileToCacheDir (one connection, no resumption, no digest).
 *
 * Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (range requests).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ImportError } from "../../manifest/import-error.ts";
import type { PartialFile, Segment } from "./partial-file.ts";
import { type FileResponse, request, type RequestOptions, type Target } from "./request.ts";
import { describeFailure, TransferError } from "./transfer-error.ts";

/** Milliseconds before the first repeated request. The wait doubles with each repetition. */
const BACKOFF_MS = 250;

/** Timeouts and limits of a download; the knobs of the same names explain them. */
export interface DownloadLimits {
  readonly connectTimeoutMs: number;
  readonly stallTimeoutMs: number;
  readonly downloadAttempts: number;
  readonly downloadConnections: number;
  readonly retryWaitMs: number;
}

export interface DownloadOptions extends Pick<RequestOptions, "fetch" | "now"> {
  readonly target: Target;
  readonly partial: PartialFile;
  /** The file's entity tag, if no digest tells its versions apart. */
  readonly etag?: string | undefined;
  readonly limits: DownloadLimits;
  /** Called with the bytes received so far. */
  readonly onProgress: (done: number) => void;
}

/** The server does not send ranges of this file, or not the requested ones. */
class RangesUnsupported extends Error {}

/**
 * Downloads until the partial file has all of its bytes.
 *
 * @throws {ImportError} `download-failed`
 */
export async function download(options: DownloadOptions): Promise<void> {
  try {
    await downloadSegments(options);
  } catch (error) {
    if (!(error instanceof RangesUnsupported)) throw failure(error);
    await downloadWhole(options).catch((cause: unknown) => {
      throw failure(cause);
    });
  }
}

async function downloadSegments(options: DownloadOptions): Promise<void> {
  const { partial, limits } = options;
  const queue = partial.segments.filter(({ done, length }) => done < length);
  const stop = new AbortController();
  // The first connection finds out whether the server supports ranges. Otherwise each connection would get the whole file.
  const begun = Promise.withResolvers<void>();
  const work = async () => {
    for (let segment = queue.shift(); segment !== undefined; segment = queue.shift()) {
      await fetchSegment(segment, options, { signal: stop.signal, onResponse: begun.resolve });
    }
  };
  const workers = Array.from({ length: Math.min(limits.downloadConnections, queue.length) }, async (_, i) => {
    if (i > 0) await begun.promise;
    try {
      stop.signal.throwIfAborted();
      await work();
    } catch (error) {
      // The first failure aborts the other connections, whose errors are then consequences of it.
      stop.abort(error);
      begun.resolve();
    }
  });
  await Promise.all(workers);
  stop.signal.throwIfAborted();
}

interface SegmentContext {
  readonly signal: AbortSignal;
  /** Called once the server has sent a range. */
  readonly onResponse: () => void;
}

async function fetchSegment(segment: Segment, options: DownloadOptions, context: SegmentContext): Promise<void> {
  const { partial, limits } = options;
  const before = partial.done;
  for (let attempt = 1; ; attempt++) {
    try {
      await requestSegment(segment, options, context);
      return;
    } catch (error) {
      context.signal.throwIfAborted();
      // A source that can't be reached and has sent nothing yet is not retried: there may be another source.
      const isDead = attempt === 1 && partial.done === before && error instanceof TransferError && error.isUnreachable;
      if (!isTemporary(error) || isDead || attempt >= limits.downloadAttempts) throw error;
      await pause(error, attempt, { ...limits, signal: context.signal });
    }
  }
}

async function requestSegment(segment: Segment, options: DownloadOptions, context: SegmentContext): Promise<void> {
  const { partial, etag } = options;
  const from = segment.from + segment.done;
  const to = segment.from + segment.length;
  const isWhole = from === 0 && to === partial.bytes;
  const range = isWhole
    ? {}
    : { range: `bytes=${from}-${to - 1}`, ...(etag === undefined ? {} : { "if-range": etag }) };
  const received = await requestFile(options, range);
  using _ = abortWith(received, context.signal);
  if (isWhole) checkWhole(received.response, options);
  else checkRange(received.response, { from, to, ...options });
  context.onResponse();
  await readBody(received, options, async (chunk) => {
    if (chunk.length > segment.length - segment.done) throw tooMuch(partial);
    await partial.append(segment, chunk);
  });
  if (segment.done < segment.length) throw cutOff(segment.from + segment.done, partial);
}

/** Downloads the whole file over one connection. If the connection breaks, it starts again from the beginning. */
async function downloadWhole(options: DownloadOptions): Promise<void> {
  const { partial, limits } = options;
  for (let attempt = 1; ; attempt++) {
    await partial.clear();
    try {
      const received = await requestFile(options, {});
      checkWhole(received.response, options);
      await readBody(received, options, (chunk) => appendAnywhere(partial, chunk));
      if (partial.done < partial.bytes) throw cutOff(partial.done, partial);
      return;
    } catch (error) {
      if (!isTemporary(error) || attempt >= limits.downloadAttempts) throw error;
      await pause(error, attempt, limits);
    }
  }
}

async function requestFile(options: DownloadOptions, headers: Readonly<Record<string, string>>): Promise<FileResponse> {
  const { target, fetch, now, limits } = options;
  const { connectTimeoutMs } = limits;
  try {
    return await request({ target, headers, fetch, now, connectTimeoutMs });
  } catch (error) {
    // 416: the server can't send this range of the file.
    if ("range" in headers && error instanceof TransferError && error.status === 416) throw new RangesUnsupported();
    throw error;
  }
}

/** Aborts the request when `signal` is aborted, and when it is disposed. */
function abortWith({ abort }: FileResponse, signal: AbortSignal): Disposable {
  const end = () => abort(new Error("another segment failed"));
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  return {
    [Symbol.dispose]: () => {
      signal.removeEventListener("abort", end);
      // No effect on a body that was read to its end.
      abort(new Error("no longer needed"));
    },
  };
}

function checkWhole({ status, headers }: Response, { partial, etag }: Pick<DownloadOptions, "partial" | "etag">): void {
  if (status !== 200) {
    throw new TransferError(`the server answered ${status} to a request without a range`, { isFinal: true });
  }
  checkTag(headers, etag);
  const length = headers.get("content-length");
  // An error page or another revision of the file is refused before it overwrites received bytes. The length of a compressed
  // body is not the file's; such a body is counted while it is read.
  if (length !== null && !isEncoded(headers) && Number(length) !== partial.bytes) throw otherSize(length, partial);
}

function checkRange(
  { status, headers }: Response,
  {
    from,
    to,
    partial,
    etag,
  }: Pick<DownloadOptions, "partial" | "etag"> & { readonly from: number; readonly to: number },
): void {
  checkTag(headers, etag);
  if (status === 200) throw new RangesUnsupported();
  // A range of a compressed body is not a range of the file.
  if (isEncoded(headers)) throw new RangesUnsupported();
  const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(headers.get("content-range") ?? "") ?? [];
  if (total !== undefined && total !== "*" && Number(total) !== partial.bytes) throw otherSize(total, partial);
  if (Number(first) !== from || Number(last) >= to) throw new RangesUnsupported();
}

/** Refuses a file whose tag changed between two requests: its bytes would mix two versions. */
function checkTag(headers: Headers, etag: string | undefined): void {
  if (etag === undefined || headers.get("etag") === etag) return;
  throw new TransferError("the file changed on the server during the download", { isFinal: true });
}

function isEncoded(headers: Headers): boolean {
  return (headers.get("content-encoding") ?? "identity") !== "identity";
}

/** Passes a body's chunks to `take` one after the other. Aborts a connection that stalls. */
async function readBody(
  { response, abort }: FileResponse,
  { partial, limits, onProgress }: DownloadOptions,
  take: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  if (response.body === null) throw new TransferError("the response has no body", { isFinal: true });
  const { stallTimeoutMs } = limits;
  const stalled = setTimeout(() => abort(new Error(`no data for ${stallTimeoutMs} ms`)), stallTimeoutMs);
  try {
    for await (const chunk of response.body as ReadableStream<Uint8Array>) {
      stalled.refresh();
      await take(chunk);
      onProgress(partial.done);
    }
  } catch (cause) {
    if (cause instanceof ImportError || cause instanceof TransferError) throw cause;
    throw new TransferError(describeFailure(cause), { cause, isFinal: false });
  } finally {
    clearTimeout(stalled);
    abort(new Error("no longer needed"));
  }
}

async function appendAnywhere(partial: PartialFile, chunk: Uint8Array): Promise<void> {
  let rest = chunk;
  for (const segment of partial.segments) {
    const room = segment.length - segment.done;
    if (room === 0) continue;
    await partial.append(segment, rest.subarray(0, room));
    rest = rest.subarray(room);
    if (rest.length === 0) return;
  }
  throw tooMuch(partial);
}

async function pause(
  error: unknown,
  attempt: number,
  { retryWaitMs, signal }: Pick<DownloadLimits, "retryWaitMs"> & { readonly signal?: AbortSignal },
): Promise<void> {
  const asked = error instanceof TransferError ? error.retryAfterMs : undefined;
  await sleep(Math.min(asked ?? BACKOFF_MS * 2 ** (attempt - 1), retryWaitMs), undefined, signal && { signal });
}

function isTemporary(error: unknown): boolean {
  return error instanceof TransferError && !error.isFinal;
}

function otherSize(offered: string, { bytes }: PartialFile): TransferError {
  return new TransferError(`the server offers ${offered} bytes, but the file has ${bytes}`, { isFinal: true });
}

function tooMuch({ bytes }: PartialFile): TransferError {
  return new TransferError(`the server sent more than the file's ${bytes} bytes`, { isFinal: true });
}

function cutOff(at: number, { bytes }: PartialFile): TransferError {
  return new TransferError(`the connection ended at byte ${at} of ${bytes}`, { isFinal: false });
}

/** A local error such as a full disk stays as it is: another source would not help. */
function failure(cause: unknown): ImportError {
  if (cause instanceof ImportError) return cause;
  return new ImportError("download-failed", describeFailure(cause), { cause });
}
