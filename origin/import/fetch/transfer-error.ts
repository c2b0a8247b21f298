/** The failure of one request, and whether a repeated request could succeed. */

interface TransferErrorOptions extends ErrorOptions {
  readonly isFinal: boolean;
  readonly retryAfterMs?: number | undefined;
  readonly status?: number;
  readonly isUnreachable?: boolean;
}

export class TransferError extends Error {
  override readonly name = "TransferError";
  /** Whether a repeated request to the same source would fail in the same way. */
  readonly isFinal: boolean;
  /** Milliseconds from the server's Retry-After header. */
  readonly retryAfterMs: number | undefined;
  /** HTTP status, if the failure is one. */
  readonly status: number | undefined;
  /** Whether the source could not be reached: no connection, or no response in time. */
  readonly isUnreachable: boolean;

  constructor(message: string, options: TransferErrorOptions) {
    super(message, options);
    this.isFinal = options.isFinal;
    this.retryAfterMs = options.retryAfterMs;
    this.status = options.status;
    this.isUnreachable = options.isUnreachable ?? false;
  }
}

/** The reason of a failure as one clause. `fetch` hides the reason of a refused connection in `cause`. */
export function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const inner: unknown = error.cause;
  return inner instanceof Error && error.message === "fetch failed" ? inner.message || String(inner) : error.message;
}
