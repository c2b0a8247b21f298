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

  /** Answers inside. */
  get open(): number {
    return this.#open;
  }

  /**
   * Lets one request in, until the lease is disposed of.
   *
   * @param choices - answers it wants: each takes the place of a request
   * @throws {ColdpathError} `queue_full`
   */
  enter(choices = 1): Disposable {
    if (this.#open + choices > this.#openMax) {
      throw new ColdpathError("queue_full", "the model has too many requests waiting; try again shortly", {
        retryAfterSeconds: RETRY_AFTER_SECONDS,
      });
    }
    this.#open += choices;
    let inside = true;
    return {
      [Symbol.dispose]: () => {
        if (inside) this.#leave(choices);
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

  #leave(choices: number): void {
    this.#open -= choices;
    if (this.#open === 0) this.#whenIdle?.();
  }
}
