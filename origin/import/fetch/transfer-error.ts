/** Why one request for a file failed, and whether asking again could help. */

interface TransferErrorOptions extends ErrorOptions {
  readonly isFinal: boolean;
  readonly retryAfterMs?: number | undefined;
  readonly status?: number;
  readonly isUnanswered?: boolean;
}

export class TransferError extends Error {
  override readonly name = "TransferError";
  /** Another request to the same source would fail in the same way. */
  readonly isFinal: boolean;
  /** How long the source asked to be left alone. */
  readonly retryAfterMs: number | undefined;
  /** What the server answered, where it did and that was the failure. */
  readonly status: number | undefined;
  /** Nobody answered. */
  readonly isUnanswered: boolean;

  constructor(message: string, options: TransferErrorOptions) {
    super(message, options);
    this.isFinal = options.isFinal;
    this.retryAfterMs = options.retryAfterMs;
    this.status = options.status;
    this.isUnanswered = options.isUnanswered ?? false;
  }
}

/** One clause; fetch hides the reason of a refused connection in `cause`. */
export function describeFailure(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const inner: unknown = error.cause;
  return inner instanceof Error && error.message === "fetch failed" ? inner.message || String(inner) : error.message;
}
