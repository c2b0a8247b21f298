/**
 * A request that redis-rest itself can't serve, with the status it is answered with. Errors that Redis replies are not
 * failures here: they pass through as they are, with status 400.
 *
 * Source: Upstash's REST API, "HTTP Codes" (200, 400, 401, 405); the other codes are what HTTP says for the case.
 */

/** Thrown by every step of a request; becomes `{ "error": message }`. */
export class RestFailure extends Error {
  override readonly name = "RestFailure";
  readonly status: 400 | 401 | 405 | 413 | 503 | 504;

  constructor(status: RestFailure["status"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
  }
}
