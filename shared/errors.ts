/**
 * Every failure a client can meet, in one table, and the OpenAI envelope it is sent in. Whoever throws a
 * `ColdpathError` decides what the client reads; anything else thrown is a bug and becomes `internal_error`.
 */

/** `type` is OpenAI's coarse class, the key is the stable `code`. */
const TABLE = {
  invalid_json: { status: 400, type: "invalid_request_error" },
  invalid_request: { status: 400, type: "invalid_request_error" },
  unsupported_parameter: { status: 400, type: "invalid_request_error" },
  context_length_exceeded: { status: 400, type: "invalid_request_error" },
  invalid_token: { status: 401, type: "authentication_error" },
  token_revoked: { status: 401, type: "authentication_error" },
  token_expired: { status: 401, type: "authentication_error" },
  invalid_signature: { status: 401, type: "authentication_error" },
  insufficient_scope: { status: 403, type: "permission_error" },
  unknown_plan: { status: 403, type: "permission_error" },
  not_found: { status: 404, type: "invalid_request_error" },
  model_not_found: { status: 404, type: "invalid_request_error" },
  method_not_allowed: { status: 405, type: "invalid_request_error" },
  body_too_large: { status: 413, type: "invalid_request_error" },
  unsupported_media_type: { status: 415, type: "invalid_request_error" },
  request_limit_exceeded: { status: 429, type: "rate_limit_error" },
  token_limit_exceeded: { status: 429, type: "rate_limit_error" },
  token_budget_exceeded: { status: 429, type: "rate_limit_error" },
  stream_limit_exceeded: { status: 429, type: "rate_limit_error" },
  queue_full: { status: 429, type: "rate_limit_error" },
  internal_error: { status: 500, type: "server_error" },
  origin_failed: { status: 502, type: "server_error" },
  origin_unavailable: { status: 503, type: "server_error" },
  limiter_unavailable: { status: 503, type: "server_error" },
  issuer_unavailable: { status: 503, type: "server_error" },
  store_unavailable: { status: 503, type: "server_error" },
  not_ready: { status: 503, type: "server_error" },
  not_cached: { status: 504, type: "invalid_request_error" },
  origin_timeout: { status: 504, type: "server_error" },
} as const satisfies Record<string, { readonly status: number; readonly type: string }>;

export type ErrorCode = keyof typeof TABLE;

/** The table for readers. */
export const ERRORS = (Object.keys(TABLE) as ErrorCode[]).map((code) => {
  const { status, type } = TABLE[code];
  return { code, status, type };
});

/** Whether another server's code is one of ours, so that its error can be passed on as it is. */
export function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(TABLE, code);
}

/** OpenAI's error body. */
export interface ErrorEnvelope {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly code: string;
    readonly param: string | null;
  };
}

interface ErrorDetail {
  /** The offending field as a path (`messages.0.content`), where there is one. */
  readonly param?: string;
  /** Whole seconds after which a retry can succeed; sent as `retry-after`. */
  readonly retryAfterSeconds?: number;
  /** Further response headers. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly cause?: unknown;
}

/** A failure the client is told about. */
export class ColdpathError extends Error {
  override readonly name = "ColdpathError";
  readonly code: ErrorCode;
  readonly param: string | null;
  readonly retryAfterSeconds: number | undefined;
  readonly headers: Readonly<Record<string, string>>;

  constructor(code: ErrorCode, message: string, detail: ErrorDetail = {}) {
    super(message, { cause: detail.cause });
    this.code = code;
    this.param = detail.param ?? null;
    this.retryAfterSeconds = detail.retryAfterSeconds;
    this.headers = detail.headers ?? {};
  }

  get status(): (typeof TABLE)[ErrorCode]["status"] {
    return TABLE[this.code].status;
  }

  get envelope(): ErrorEnvelope {
    return { error: { message: this.message, type: TABLE[this.code].type, code: this.code, param: this.param } };
  }
}

/** What the client may know of anything that was thrown: a `ColdpathError` as it is, the rest without detail. */
export function toColdpathError(thrown: unknown): ColdpathError {
  if (thrown instanceof ColdpathError) return thrown;
  return new ColdpathError("internal_error", "the server failed on this request; its log has the details", {
    cause: thrown,
  });
}

/** The error as a complete HTTP response. */
export function errorResponse(error: ColdpathError, headers: Readonly<Record<string, string>> = {}): Response {
  const retryAfter = error.retryAfterSeconds === undefined ? {} : { "retry-after": String(error.retryAfterSeconds) };
  return Response.json(error.envelope, {
    status: error.status,
    headers: { ...headers, ...error.headers, ...retryAfter },
  });
}
