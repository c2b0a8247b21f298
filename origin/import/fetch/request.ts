/**
 * Asks a server for a file and follows where it sends us. Redirects are followed here, not by `fetch`: a hub sends its
 * files' readers to another company's servers, which must not see the token, and says on the way what the file's digest
 * is. Knows nothing of what the answer's body is.
 */
import { describeFailure, TransferError } from "./transfer-error.ts";

/** Hops before a chain of redirects is taken for a circle. */
const REDIRECTS_MAX = 8;

/** Statuses that pass: a timeout, too early, too many, and a server's own trouble. */
const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

/** Some hubs turn away clients without a name. */
const USER_AGENT = "coldpath";

/** Where a file is, and what proves that we may have it. */
export interface Target {
  readonly url: string;
  /** Headers for one URL of the target's own host, made anew for each request: a signature has a time in it. */
  readonly credentials?: ((url: string) => Promise<Readonly<Record<string, string>>>) | undefined;
}

export interface RequestOptions {
  readonly target: Target;
  readonly headers?: Readonly<Record<string, string>>;
  readonly fetch: typeof fetch;
  readonly connectTimeoutMs: number;
  readonly now: () => number;
}

export interface Answer {
  /** 200 or 206; its body must be read or cancelled. */
  readonly response: Response;
  /** The headers of the first answer, a redirect or not: a hub's own. */
  readonly first: Headers;
  /** Ends the request, and with it the body; the error is what the body's reader gets. */
  readonly abort: (reason: Error) => void;
}

/**
 * @throws {TransferError} for any answer but 200 and 206, and where there is none within the time for each hop
 */
export async function request(options: RequestOptions): Promise<Answer> {
  const home = new URL(options.target.url);
  let url = home;
  let first: Headers | undefined;
  for (let hop = 0; hop <= REDIRECTS_MAX; hop++) {
    const isHome = url.origin === home.origin;
    const secret = isHome ? await options.target.credentials?.(url.href) : undefined;
    const answer = await ask(url, { ...options, headers: { ...options.headers, ...secret } });
    first ??= answer.response.headers;
    const { status, headers } = answer.response;
    if (status === 200 || status === 206) return { ...answer, first };
    await answer.response.body?.cancel();
    const location = headers.get("location");
    if (status < 300 || status >= 400 || location === null) throw refusal(answer.response, options.now());
    const next = URL.parse(location, url.href);
    if (next === null || !/^https?:$/.test(next.protocol)) throw final("the server redirects to no http URL");
    if (url.protocol === "https:" && next.protocol === "http:") throw final("the server redirects from https to http");
    url = next;
  }
  throw final(`the server redirects more than ${REDIRECTS_MAX} times`);
}

async function ask(
  url: URL,
  { headers, fetch, connectTimeoutMs }: RequestOptions,
): Promise<{ readonly response: Response; readonly abort: (reason: Error) => void }> {
  const controller = new AbortController();
  const connecting = setTimeout(
    () => controller.abort(new Error(`no answer within ${connectTimeoutMs} ms`)),
    connectTimeoutMs,
  );
  try {
    const response = await fetch(url, {
      // To a request with a range, fetch adds this itself.
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
    throw new TransferError(describeFailure(cause), { cause, isFinal: false, isUnanswered: true });
  } finally {
    clearTimeout(connecting);
  }
}

function refusal({ status, headers }: Response, nowMs: number): TransferError {
  const retryAfterMs = parseRetryAfter(headers.get("retry-after"), nowMs);
  const hint =
    status === 401 || status === 403 ? ": it wants a token or key that may read this (see COLDPATH_HUB_TOKEN)" : "";
  return new TransferError(`the server answered ${status}${hint}`, {
    isFinal: !PASSING.has(status),
    retryAfterMs,
    status,
  });
}

/**
 * Seconds, or a date (RFC 9110, section 10.2.3).
 *
 * @returns milliseconds; `undefined` where there is none or it means nothing
 */
function parseRetryAfter(text: string | null, nowMs: number): number | undefined {
  if (text === null) return undefined;
  const ms = /^\d+$/.test(text.trim()) ? Number(text) * 1000 : Date.parse(text) - nowMs;
  return Number.isFinite(ms) ? Math.max(0, ms) : undefined;
}

function final(message: string): TransferError {
  return new TransferError(message, { isFinal: true });
}
