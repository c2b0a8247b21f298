/**
 * Lets only an edge's requests in, and each of them once: the signature over the body and the headers as they came, and
 * a memory of the signatures seen while they could still be sent again. Knows no route.
 */
import { type ReadEdgeContext, readEdgeContext } from "../../shared/edge-context.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { SIGNATURE_AGE_MAX_SECONDS, type SignatureKey, verifyMessage } from "../../shared/signature.ts";

export interface EdgeVerifierOptions {
  readonly key: SignatureKey;
  /** Accepted, too, while edges change to the new one. */
  readonly previousKey?: SignatureKey | undefined;
  /** Signatures remembered at once. */
  readonly replayIdsMax: number;
  /** Unix seconds. */
  readonly nowSeconds: () => number;
}

export class EdgeVerifier {
  readonly #options: EdgeVerifierOptions;
  /** Signature to the second from which its age alone refuses it; in the order of arrival, so of that second too. */
  readonly #seen = new Map<string, number>();

  constructor(options: EdgeVerifierOptions) {
    this.#options = options;
  }

  /**
   * Checks one request.
   *
   * @returns what the edge says about it
   * @throws {ColdpathError} `invalid_signature`, or `queue_full` when no more signatures can be remembered
   */
  async verify(message: {
    readonly method: string;
    readonly path: string;
    readonly headers: Headers;
    readonly body: Uint8Array<ArrayBuffer>;
  }): Promise<ReadEdgeContext> {
    const now = this.#options.nowSeconds();
    const { key, previousKey } = this.#options;
    let refusal = await verifyMessage(key, message, message.headers, now);
    if (refusal !== undefined && previousKey !== undefined) {
      refusal = await verifyMessage(previousKey, message, message.headers, now);
    }
    if (refusal !== undefined) throw new ColdpathError("invalid_signature", refusal);
    // The signature, not the request id: an edge that tries a second time signs again and keeps the id.
    this.#remember(message.headers.get("signature") ?? "", now);
    return readEdgeContext(message.headers);
  }

  #remember(signature: string, now: number): void {
    for (const [old, expiresAt] of this.#seen) {
      if (expiresAt > now) break;
      this.#seen.delete(old);
    }
    if (this.#seen.has(signature)) throw new ColdpathError("invalid_signature", "this request was already received");
    if (this.#seen.size >= this.#options.replayIdsMax) {
      throw new ColdpathError("queue_full", "too many requests in a short time", {
        retryAfterSeconds: SIGNATURE_AGE_MAX_SECONDS,
      });
    }
    // It may have been made up to one maximum age in the future, and lives one more from then.
    this.#seen.set(signature, now + 2 * SIGNATURE_AGE_MAX_SECONDS + 1);
  }
}
