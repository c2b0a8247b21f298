/**
 * Requests a file and follows redirects. `fetch` does not follow them, for two reasons: a hub redirects to other companies'
 * servers, which must not get the token; and the hub's own response has the file's digest. Does not look at the body.
 */
import { describeFailure, TransferError } from "./transfer-error.ts";

/** Redirects after which a chain counts as endless. */
const REDIRECTS_MAX = 8;

/** Statuses that a repeated request may not get again. */
const TEMPORARY = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Some hubs refuse requests without a user agent. */
const USER_AGENT = "coldpath";

/** The address of a file, and the credentials for it. */
export interface Target {
  readonly url: string;
  /** Makes the headers for one URL of the target's own host. Called for each request, because a signature has a time. */
  readonly credentials?: ((url: string) => Promise<Readonly<Record<string, string>>>) | undefined;
}

export interface RequestOptions {
  readonly target: Target;
  readonly headers?: Readonly<Record<string, string>>;
  readonly fetch: typeof fetch;
  readonly connectTimeoutMs: number;
  readonly now: () => number;
}

export interface FileResponse {
  /** A response with status 200 or 206. Its body must be read or cancelled. */
  readonly response: Response;
  /** Headers of the first response, which may be a redirect: the hub's own headers. */
  readonly first: Headers;
  /** Ends the request and its body. The body's reader gets the error. */
  readonly abort: (reason: Error) => void;
}

/**
 * Sends a request and follows its redirects.
 *
 * @throws {TransferError} for any status but 200 and 206, and if a hop gets no response within `connectTimeoutMs`
 */
export async function request(options: RequestOptions): Promise<FileResponse> {
  const home = new URL(options.target.url);
  let url = home;
  let first: Headers | undefined;
  for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
    const isHome = url.origin === home.origin;
    const secret = isHome ? await options.target.credentials?.(url.href) : undefined;
    const hopResponse = await requestHop(url, { ...options, headers: { ...options.headers, ...secret } });
    const { response } = hopResponse;
    const { status, headers } = response;
    first ??= headers;
    if (status === 200 || status === 206) return { ...hopResponse, first };
    await response.body?.cancel();
    const location = headers.get("location");
    if (status < 300 || status >= 400 || location === null) throw refusal(response, options.now());
    const next = URL.parse(location, url.href);
    if (next === null || !/^https?:$/.test(next.protocol)) throw final("the server redirects to a non-http URL");
    if (url.protocol === "https:" && next.protocol === "http:") throw final("the server redirects from https to http");
    url = next;
  }
  throw final(`the server redirects more than ${REDIRECTS_MAX} times`);
}

async function requestHop(
  url: URL,
  { headers, fetch, connectTimeoutMs }: RequestOptions,
): Promise<{ readonly response: Response; readonly abort: (reason: Error) => void }> {
  const controller = new AbortController();
  const connecting = setTimeout(
    () => controller.abort(new Error(`no response within ${connectTimeoutMs} ms`)),
    connectTimeoutMs,
  );
  try {
    const response = await fetch(url, {
      // `fetch` adds `accept-encoding: identity` itself to a request with a range.
      headers: {
        "user-agent": USER_AGENT,
        ...(headers?.["range"] ? {} : { "accept-encoding": "identity" }),
        ...headers,
      },
      redirect: "manual",
      signal: controller.signal,
    });
    return { response, abort: (reason) => controller.abort(reason) };
  } catch (cause) {
    throw new TransferError(describeFailure(cause), { cause, isFinal: false, isUnreachable: true });
  } finally {
    clearTimeout(connecting);
  }
}

function refusal({ status, headers }: Response, nowMs: number): TransferError {
  const retryAfterMs = parseRetryAfter(headers.get("retry-after"), nowMs);
  const hint =
    status === 401 || status === 403 ? ": it requires a token or key with read access (see COLDPATH_HUB_TOKEN)" : "";
  return new TransferError(`the server answered ${status}${hint}`, {
    isFinal: !TEMPORARY.has(status),
    retryAfterMs,
    status,
  });
}

/**
 * Parses a Retry-After header: seconds or a date (RFC 9110, section 10.2.3).
 *
 * @returns milliseconds; undefined if the header is missing or malformed
 */
function parseRetryAfter(text: string | null, nowMs: number): number | undefined {
  if (text === null) return undefined;
  const ms = /^\d+$/.test(text.trim()) ? Number(text) * 1000 : Date.parse(text) - nowMs;
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

function final(message: string): TransferError {
  return new TransferError(message, { isFinal: true });
}
