/** Asks a hub a question whose answer is JSON: bounded in size and time, asked again when the hub is busy. */
import { setTimeout as sleep } from "node:timers/promises";
import { readBody } from "../../../shared/read-body.ts";
import { ImportError } from "../../manifest/import-error.ts";
import type { DownloadLimits } from "./download.ts";
import { request, type RequestOptions } from "./request.ts";
import { describeFailure, TransferError } from "./transfer-error.ts";

/** A repository of a thousand files is described in less than one MiB. */
const ANSWER_BYTES_MAX = 32 * 1024 * 1024;
const BACKOFF_MS = 250;

export interface QuestionOptions extends Pick<RequestOptions, "target" | "fetch" | "now"> {
  readonly limits: DownloadLimits;
}

/**
 * @returns the parsed body, and the answer's headers
 * @throws {ImportError} `download-failed`
 */
export async function readJson(
  options: QuestionOptions,
): Promise<{ readonly body: unknown; readonly headers: Headers }> {
  const { limits } = options;
  for (let attempt = 1; ; attempt++) {
    try {
      return await ask(options);
    } catch (cause) {
      const isPassing = cause instanceof TransferError && !cause.isFinal && !cause.isUnanswered;
      if (!isPassing || attempt >= limits.downloadAttempts) {
        const { host } = new URL(options.target.url);
        throw new ImportError("download-failed", `${host}: ${describeFailure(cause)}`, { cause });
      }
      await sleep(Math.min(cause.retryAfterMs ?? BACKOFF_MS * 2 ** (attempt - 1), limits.retryWaitMs));
    }
  }
}

async function ask(options: QuestionOptions): Promise<{ readonly body: unknown; readonly headers: Headers }> {
  const { connectTimeoutMs, stallTimeoutMs } = options.limits;
  const { response, abort } = await request({ ...options, connectTimeoutMs, headers: { accept: "application/json" } });
  const slow = setTimeout(() => abort(new Error(`no whole answer within ${stallTimeoutMs} ms`)), stallTimeoutMs);
  try {
    const bytes = await readBody(response.body, ANSWER_BYTES_MAX);
    if (bytes === undefined)
      throw new TransferError(`an answer of more than ${ANSWER_BYTES_MAX} bytes`, { isFinal: true });
    return { body: JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)), headers: response.headers };
  } catch (cause) {
    if (cause instanceof TransferError) throw cause;
    // Broken off, or no JSON: a mirror that answers every path with a page of its own.
    const isText = cause instanceof SyntaxError || (cause instanceof TypeError && "code" in cause);
    throw new TransferError(isText ? "the answer is no JSON" : describeFailure(cause), { cause, isFinal: isText });
  } finally {
    clearTimeout(slow);
  }
}
