/** Requests JSON from a hub: bounded in size and time, and repeated while the hub is busy. */
import { setTimeout as sleep } from "node:timers/promises";
import { readBody } from "../../../shared/read-body.ts";
import { ImportError } from "../../manifest/import-error.ts";
import type { DownloadLimits } from "./download.ts";
import { request, type RequestOptions } from "./request.ts";
import { describeFailure, TransferError } from "./transfer-error.ts";

/** Upper bound of a body. The description of a repository with a thousand files takes less than 1 MiB. */
const BODY_BYTES_MAX = 32 * 1024 * 1024;
const BACKOFF_MS = 250;

export interface ReadJsonOptions extends Pick<RequestOptions, "target" | "fetch" | "now"> {
  readonly limits: DownloadLimits;
}

/**
 * Requests and parses a body.
 *
 * @throws {ImportError} `download-failed`
 */
export async function readJson(
  options: ReadJsonOptions,
): Promise<{ readonly body: unknown; readonly headers: Headers }> {
  const { limits } = options;
  for (let attempt = 1; ; attempt++) {
    try {
      return await requestJson(options);
    } catch (cause) {
      const isPassing = cause instanceof TransferError && !cause.isFinal && !cause.isUnreachable;
      if (!isPassing || attempt >= limits.downloadAttempts) {
        const { host } = new URL(options.target.url);
        throw new ImportError("download-failed", `${host}: ${describeFailure(cause)}`, { cause });
      }
      await sleep(Math.min(cause.retryAfterMs ?? BACKOFF_MS * 2 ** (attempt - 1), limits.retryWaitMs));
    }
  }
}

async function requestJson(options: ReadJsonOptions): Promise<{ readonly body: unknown; readonly headers: Headers }> {
  const { connectTimeoutMs, stallTimeoutMs } = options.limits;
  const { response, abort } = await request({ ...options, connectTimeoutMs, headers: { accept: "application/json" } });
  const slow = setTimeout(() => abort(new Error(`incomplete response after ${stallTimeoutMs} ms`)), stallTimeoutMs);
  try {
    const bytes = await readBody(response.body, BODY_BYTES_MAX);
    if (bytes === undefined)
      throw new TransferError(`the response has more than ${BODY_BYTES_MAX} bytes`, { isFinal: true });
    return { body: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)), headers: response.headers };
  } catch (cause) {
    if (cause instanceof TransferError) throw cause;
    // The connection broke, or the body is not JSON: some mirrors answer every path with an HTML page.
    const isNotJson = cause instanceof SyntaxError || (cause instanceof TypeError && "code" in cause);
    const reason = isNotJson ? "the response is not JSON" : describeFailure(cause);
    throw new TransferError(reason, { cause, isFinal: isNotJson });
  } finally {
    clearTimeout(slow);
  }
}
