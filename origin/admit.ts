/**
 * How many requests may be open at the origin at once: those with a row and those that wait for one. Refuses at the
 * door, because a queue that is too long only makes everybody late. Knows nothing of what a request asks.
 */
import { ColdpathError } from "../shared/errors.ts";

/** A refused client may try again this soon: about as long as a short answer takes. */
const RETRY_AFTER_SECONDS = 1;

export class Admission {
  readonly #openMax: number;
  #open = 0;
  #whenIdle: (() => void) | undefined;

  constructor({ openMax }: { readonly openMax: number }) {
    this.#openMax = openMax;
  }

  /** Requests inside. */
  get open(): number {
    return this.#open;
  }

  /**
   * Lets one request in, until the lease is disposed of.
   *
   * @throws {ColdpathError} `queue_full`
   */
  enter(): Disposable {
    if (this.#open >= this.#openMax) {
      throw new ColdpathError("queue_full", "the model has too many requests waiting; try again shortly", {
        retryAfterSeconds: RETRY_AFTER_SECONDS,
      });
    }
    this.#open += 1;
    let inside = true;
    return {
      [Symbol.dispose]: () => {
        if (inside) this.#leave();
        inside = false;
      },
    };
  }

  /** Resolves when nobody is inside, or after `timeoutMs`. One caller at a time. */
  async idle(timeoutMs: number): Promise<void> {
    if (this.#open === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#whenIdle = resolve;
    const late = setTimeout(resolve, timeoutMs);
    await promise;
    clearTimeout(late);
  }

  #leave(): void {
    this.#open -= 1;
    if (this.#open === 0) this.#whenIdle?.();
  }
}
