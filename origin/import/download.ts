/**
 * Fetches one file of known size over HTTP into a `.part` file, resuming what an earlier attempt or process left. Knows
 * nothing of hubs, and does not judge the content: the caller checks its digest.
 *
 * Source: RFC 9110, section 14 (range requests).
 */
import { rmSync, statSync } from "node:fs";
import { open } from "node:fs/promises";
import { ImportError } from "./import-error.ts";

export interface DownloadOptions {
  readonly url: string;
  /** Where the bytes go; what is already there is taken as the file's beginning. */
  readonly part: string;
  /** The size the file must have. */
  readonly bytes: number;
  readonly fetch: typeof fetch;
  readonly connectTimeoutMs: number;
  readonly stallTimeoutMs: number;
  /** Requests made before giving up; each resumes the last. */
  readonly attempts: number;
  /** Told how many bytes are there. */
  readonly onProgress: (done: number) => void;
}

/** A failure that another request to the same source would not cure. */
class FinalDownloadError extends Error {}

/**
 * Downloads until `part` has `bytes` bytes.
 *
 * @throws {ImportError} `download-failed` with the last attempt's reason
 */
export async function download(options: DownloadOptions): Promise<void> {
  let reason: unknown;
  for (let attempt = 0; attempt < options.attempts; attempt++) {
    if (partSize(options.part) > options.bytes) rmSync(options.part);
    if (partSize(options.part) === options.bytes) return;
    try {
      await request(options);
      return;
    } catch (error) {
      reason = error;
      // A source that never answers or answers with something else will do so again.
      if (error instanceof FinalDownloadError) break;
    }
  }
  throw new ImportError("download-failed", describe(reason), { cause: reason });
}

async function request(options: DownloadOptions): Promise<void> {
  const { url, part, bytes, connectTimeoutMs, stallTimeoutMs } = options;
  const done = partSize(part);
  const abort = new AbortController();
  const giveUp = (reason: string) => () => abort.abort(new Error(reason));
  const connecting = setTimeout(giveUp(`no answer within ${connectTimeoutMs} ms`), connectTimeoutMs);
  const response = await options
    .fetch(url, { headers: done > 0 ? { range: `bytes=${done}-` } : {}, signal: abort.signal })
    .catch((cause: unknown) => {
      throw new FinalDownloadError(describe(cause), { cause });
    })
    .finally(() => clearTimeout(connecting));

  const start = startOfBody(response, done, bytes);
  if (start === undefined) {
    // The server knows no such range of its file: what we have is not a beginning of it.
    await response.body?.cancel();
    rmSync(part, { force: true });
    throw new Error("the server refused to resume");
  }
  if (response.body === null) throw new FinalDownloadError("an answer without a body");
  const stalled = setTimeout(giveUp(`no data for ${stallTimeoutMs} ms`), stallTimeoutMs);
  try {
    await writeBody(response.body, { ...options, start, onChunk: () => stalled.refresh() });
  } finally {
    clearTimeout(stalled);
    abort.abort();
  }
}

/** Where in the file an answer's body begins; `undefined` when the range was refused. */
function startOfBody(response: Response, done: number, bytes: number): number | undefined {
  if (response.status === 416 && done > 0) return undefined;
  if (response.status !== 200 && response.status !== 206) {
    throw new FinalDownloadError(`the server answered ${response.status}`);
  }
  const range = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
  const start = response.status === 206 ? Number(range?.[1]) : 0;
  if (response.status === 206 && start !== done) return undefined;
  const length = response.headers.get("content-length");
  // A hub's error page or another revision of the file is refused before it overwrites what is there.
  const isEncoded = response.headers.get("content-encoding") !== null;
  if (length !== null && !isEncoded && start + Number(length) !== bytes) {
    throw new FinalDownloadError(`the server offers ${start + Number(length)} bytes where the file has ${bytes}`);
  }
  return start;
}

async function writeBody(
  body: ReadableStream<Uint8Array>,
  options: DownloadOptions & { readonly start: number; readonly onChunk: () => void },
): Promise<void> {
  const { part, start, bytes, onChunk, onProgress } = options;
  let done = start;
  await using file = await open(part, start === 0 ? "w" : "r+");
  for await (const chunk of body) {
    onChunk();
    if (done + chunk.length > bytes) {
      rmSync(part);
      throw new FinalDownloadError(`the server sent more than the file's ${bytes} bytes`);
    }
    await file.write(chunk, 0, chunk.length, done);
    done += chunk.length;
    onProgress(done);
  }
  if (done < bytes) throw new Error(`the connection ended at byte ${done} of ${bytes}`);
}

function partSize(part: string): number {
  return statSync(part, { throwIfNoEntry: false })?.size ?? 0;
}

/** One clause; fetch hides the reason of a refused connection in `cause`. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const inner: unknown = error.cause;
  return inner instanceof Error && error.message === "fetch failed" ? inner.message || String(inner) : error.message;
}
