/** Calls the origin: signed, bounded in time, failures named. Knows no routes of the client's side and no cache. */
import * as z from "zod";
import type { EdgeContext } from "../../shared/edge-context.ts";
import { ColdpathError, isErrorCode } from "../../shared/errors.ts";
import { readAll } from "../../shared/read-body.ts";
import { signMessage, type SigningKey } from "../../shared/signature.ts";
import type { OriginResponse, Platform } from "../platform/platform.ts";

interface OriginCall {
  readonly method: "GET" | "POST";
  readonly path: string;
  readonly requestId: string;
  /** UTF-8; empty without a body. */
  readonly body: string;
  /** What the origin is told beside the body. */
  readonly context?: EdgeContext;
  readonly signal: AbortSignal;
}

export interface OriginClient {
  /**
   * @returns the origin's response, whatever its status
   * @throws {ColdpathError} `origin_unavailable` when it can't be reached; the signal's reason when that fired
   */
  send(call: OriginCall): Promise<OriginResponse>;
}

/** A retry soon after can succeed: an origin that restarts is back within seconds. */
const RETRY_AFTER_SECONDS = 2;
/** An error envelope is small; more is no envelope. */
const ENVELOPE_BYTES_MAX = 65_536;

export function createOriginClient(
  platform: Platform,
  { originUrl, originSecret }: { readonly originUrl: string; readonly originSecret: string },
): OriginClient {
  const ask = platform.openOrigin(originUrl);
  let key: SigningKey | undefined;
  return {
    send: async ({ method, path, requestId, body, context, signal }) => {
      key ??= await platform.crypto.signingKey(originSecret);
      const bytes = new Uint8Array(new TextEncoder().encode(body));
      // The origin takes each signature once, and a client may send two questions under one id.
      const id = `${requestId}.${platform.randomId().slice(0, 8)}`;
      const message = { method, path, requestId: id, body: bytes, context };
      const signed = await signMessage(key, message, Math.floor(platform.now() / 1000));
      const headers = method === "POST" ? { ...signed, "content-type": "application/json" } : signed;
      try {
        return await ask({ method, path, headers, body: method === "POST" ? bytes : undefined, signal });
      } catch (cause) {
        signal.throwIfAborted();
        throw unavailable(cause);
      }
    },
  };
}

/** Whether its status is one of success. */
export function isOk({ status }: OriginResponse): boolean {
  return status >= 200 && status < 300;
}

export function unavailable(cause: unknown): ColdpathError {
  return new ColdpathError("origin_unavailable", "the model's server can't be reached; try again shortly", {
    cause,
    retryAfterSeconds: RETRY_AFTER_SECONDS,
  });
}

const envelopeSchema = z.object({
  error: z.object({ message: z.string(), code: z.string(), param: z.string().nullish() }),
});

/**
 * The origin's refusal as the client's: its own envelope where the client can act on it, else `origin_failed`. A
 * signature the origin refuses is our own misconfiguration and must not look like a bad token of the client's.
 */
export async function originRefusal(response: OriginResponse): Promise<ColdpathError> {
  const bytes = await readAll(response.body, ENVELOPE_BYTES_MAX).catch(() => undefined);
  const envelope = parseEnvelope(bytes);
  const { status } = response;
  const passed = status === 503 || status === 504 || (status >= 400 && status < 500);
  if (envelope === undefined || !passed || !isErrorCode(envelope.code) || envelope.code === "invalid_signature") {
    const cause = `the origin answered ${status} ${envelope?.code ?? "without an envelope"}`;
    return new ColdpathError("origin_failed", "the model's server failed on this request", { cause });
  }
  const retryAfter = Number(response.header("retry-after") ?? Number.NaN);
  return new ColdpathError(envelope.code, envelope.message, {
    ...(typeof envelope.param === "string" ? { param: envelope.param } : {}),
    ...(Number.isFinite(retryAfter) ? { retryAfterSeconds: retryAfter } : {}),
  });
}

/** What a stream may end with after it has begun, and the client can act on. */
const STREAM_FAILURES: ReadonlySet<string> = new Set(["queue_full", "not_ready", "origin_timeout"]);

/** The error event that ended the origin's stream as the client's error. */
export function brokenOff(data: string): ColdpathError {
  const envelope = parseEnvelope(new TextEncoder().encode(data));
  if (envelope === undefined || !isErrorCode(envelope.code) || !STREAM_FAILURES.has(envelope.code)) {
    const cause = `the origin's stream ended with ${envelope?.code ?? "what is no envelope"}`;
    return new ColdpathError("origin_failed", "the model's server broke the answer off", { cause });
  }
  return new ColdpathError(envelope.code, envelope.message, { retryAfterSeconds: RETRY_AFTER_SECONDS });
}

function parseEnvelope(bytes: Uint8Array | undefined): z.infer<typeof envelopeSchema>["error"] | undefined {
  try {
    return envelopeSchema.parse(JSON.parse(new TextDecoder().decode(bytes))).error;
  } catch {
    return undefined;
  }
}
