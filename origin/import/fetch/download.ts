/**
 * Fetches one file of known size into a partial file: several segments at a time, each going on where it was when its
 * connection breaks; in one piece from a server that knows no ranges. Knows nothing of hubs, and does not judge the
 * content: the caller checks its digest.
 *
 * Libraries that were looked at, with what each lacks: ipull 4 (no digests, its own terminal interface, 21
 * dependencies), easydl and node-downloader-helper (no release since 2024; follow redirects with every header),
 * `@huggingface/hub`'s downloadFileToCacheDir (one connection, no resumption, no digest).
 *
 * Source: RFC 9110, sections 13.1.5 (If-Range) and 14 (range requests).
 */
import { setTimeout as sleep } from "node:timers/promises";
import { ImportError } from "../../manifest/import-error.ts";
import type { PartialFile, Segment } from "./partial-file.ts";
import { type Answer, request, type RequestOptions, type Target } from "./request.ts";
import { describeFailure, TransferError } from "./transfer-error.ts";

/** The first wait before a request is repeated; it doubles with each. */
const BACKOFF_MS = 250;

/** How patiently and how greedily files are fetched. */
export interface DownloadLimits {
  readonly connectTimeoutMs: number;
  /** A connection that brings nothing for so long is given up. */
  readonly stallTimeoutMs: number;
  /** Requests for one segment before the file is given up. */
  readonly downloadAttempts: number;
  readonly downloadConnections: number;
  /** The longest wait before a request is repeated. */
  readonly retryWaitMs: number;
}

export interface DownloadOptions extends Pick<RequestOptions, "fetch" | "now"> {
  readonly target: Target;
  readonly partial: PartialFile;
  /** The file's entity tag where nothing else tells one version of it from the next. */
  readonly etag?: string | undefined;
  readonly limits: DownloadLimits;
  /** Told how many bytes are there. */
  readonly onProgress: (done: number) => void;
}

/** The server does not give parts of this file, or not those that were asked for. */
class RangesUnsupported extends Error {}

/**
 * Downloads until the partial file has all its bytes.
 *
 * @throws {ImportError} `download-failed` with the reason
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
  // One connection finds out whether the server does ranges, before the others ask it for all of the file each.
  const begun = Promise.withResolvers<void>();
  const work = async () => {
    for (let segment = queue.shift(); segment !== undefined; segment = queue.shift()) {
      await fetchSegment(segment, options, { signal: stop.signal, onAnswer: begun.resolve });
    }
  };
  const workers = Array.from({ length: Math.min(limits.downloadConnections, queue.length) }, async (_, i) => {
    if (i > 0) await begun.promise;
    try {
      stop.signal.throwIfAborted();
      await work();
    } catch (error) {
      // The first failure ends the others; theirs are its consequence.
      stop.abort(error);
      begun.resolve();
    }
  });
  await Promise.all(workers);
  stop.signal.throwIfAborted();
}

interface SegmentContext {
  readonly signal: AbortSignal;
  /** Told that the server does ranges. */
  readonly onAnswer: () => void;
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
      // A source that has given nothing yet and can't be reached is not worth waiting for: there may be another one.
      const isDead = attempt === 1 && partial.done === before && error instanceof TransferError && error.isUnanswered;
      if (!isPassing(error) || isDead || attempt >= limits.downloadAttempts) throw error;
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
  const answer = await ask(options, range);
  using _ = endWith(answer, context.signal);
  if (isWhole) checkWhole(answer.response, options);
  else checkRange(answer.response, { from, to, ...options });
  context.onAnswer();
  await readBody(answer, options, async (chunk) => {
    if (chunk.length > segment.length - segment.done) throw tooMuch(partial);
    await partial.append(segment, chunk);
  });
  if (segment.done < segment.length) throw cutOff(segment.from + segment.done, partial);
}

/** From the first byte to the last over one connection; what comes after a break comes again from the beginning. */
async function downloadWhole(options: DownloadOptions): Promise<void> {
  const { partial, limits } = options;
  for (let attempt = 1; ; attempt++) {
    await partial.clear();
    try {
      const answer = await ask(options, {});
      checkWhole(answer.response, options);
      await readBody(answer, options, (chunk) => appendAnywhere(partial, chunk));
      if (partial.done < partial.bytes) throw cutOff(partial.done, partial);
      return;
    } catch (error) {
      if (!isPassing(error) || attempt >= limits.downloadAttempts) throw error;
      await pause(error, attempt, limits);
    }
  }
}

async function ask(options: DownloadOptions, headers: Readonly<Record<string, string>>): Promise<Answer> {
  const { target, fetch, now, limits } = options;
  const { connectTimeoutMs } = limits;
  try {
    return await request({ target, headers, fetch, now, connectTimeoutMs });
  } catch (error) {
    // 416: the server knows no such range of its file.
    if ("range" in headers && error instanceof TransferError && error.status === 416) throw new RangesUnsupported();
    throw error;
  }
}

function endWith({ abort }: Answer, signal: AbortSignal): Disposable {
  const end = () => abort(new Error("another segment failed"));
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  return {
    [Symbol.dispose]: () => {
      signal.removeEventListener("abort", end);
      // Does nothing to a body that was read to its end.
      abort(new Error("not needed any more"));
    },
  };
}

function checkWhole({ status, headers }: Response, { partial, etag }: Pick<DownloadOptions, "partial" | "etag">): void {
  if (status !== 200) throw new TransferError(`the server answered ${status} to no range`, { isFinal: true });
  checkTag(headers, etag);
  const length = headers.get("content-length");
  // A hub's error page or another revision of the file is refused before it overwrites what is there. Of a compressed
  // body the length says nothing; it is counted as it comes.
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
  // A range of a compressed body is no range of the file.
  if (isEncoded(headers)) throw new RangesUnsupported();
  const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(headers.get("content-range") ?? "") ?? [];
  if (total !== undefined && total !== "*" && Number(total) !== partial.bytes) throw otherSize(total, partial);
  if (Number(first) !== from || Number(last) >= to) throw new RangesUnsupported();
}

/** A tag that changed between two requests would mix two files. */
function checkTag(headers: Headers, etag: string | undefined): void {
  if (etag === undefined || headers.get("etag") === etag) return;
  throw new TransferError("the file changed on the server while it was fetched", { isFinal: true });
}

function isEncoded(headers: Headers): boolean {
  return (headers.get("content-encoding") ?? "identity") !== "identity";
}

/** Gives a body's chunks to `take` one after the other, and gives up a connection that brings nothing. */
async function readBody(
  { response, abort }: Answer,
  { partial, limits, onProgress }: DownloadOptions,
  take: (chunk: Uint8Array) => Promise<void>,
): Promise<void> {
  if (response.body === null) throw new TransferError("an answer without a body", { isFinal: true });
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
    abort(new Error("not needed any more"));
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

function isPassing(error: unknown): boolean {
  return error instanceof TransferError && !error.isFinal;
}

function otherSize(offered: string, { bytes }: PartialFile): TransferError {
  return new TransferError(`the server offers ${offered} bytes where the file has ${bytes}`, { isFinal: true });
}

function tooMuch({ bytes }: PartialFile): TransferError {
  return new TransferError(`the server sent more than the file's ${bytes} bytes`, { isFinal: true });
}

function cutOff(at: number, { bytes }: PartialFile): TransferError {
  return new TransferError(`the connection ended at byte ${at} of ${bytes}`, { isFinal: false });
}

/** What stands in the way here, a full disk, is no source's fault, and another source no help. */
function failure(cause: unknown): ImportError {
  if (cause instanceof ImportError) return cause;
  return new ImportError("download-failed", describeFailure(cause), { cause });
}
