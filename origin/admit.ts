/**
 * How many requests may be at the origin at once: answers that are being made, which have a row or wait for one, and
 * requests that read them. Refuses at the door, because a queue that is too long only makes everybody late. Knows nothing
 * of what a request asks.
 */
import { ColdpathError } from "../shared/errors.ts";

/** A refused client may try again this soon: about as long as a short answer takes. */
const RETRY_AFTER_SECONDS = 1;

export interface AdmissionOptions {
  /** Texts under way: rows and places in the queue. */
  readonly openMax: number;
  /** Requests beyond those, which share another's answer. */
  readonly followersMax: number;
}

export class Admission {
  readonly #options: AdmissionOptions;
  #open = 0;
  #present = 0;
  #whenIdle: (() => void) | undefined;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** Texts being made: an answer has one for each of its choices. */
  get open(): number {
    return this.#open;
  }

  /** Requests being answered. */
  get present(): number {
    return this.#present;
  }

  /**
   * Lets one request in, until the lease is disposed of.
   *
   * @throws {ColdpathError} `queue_full`
   */
  enter(): Disposable {
    const { openMax, followersMax } = this.#options;
    if (this.#present >= openMax + followersMax) throw queueFull();
    this.#present += 1;
    return lease(() => {
      this.#present -= 1;
      this.#look();
    });
  }

  /**
   * Lets one answer begin, until the lease is disposed of.
   *
   * @param choices - texts it has: each takes a place
   * @throws {ColdpathError} `queue_full`
   */
  begin(choices = 1): Disposable {
    if (this.#open + choices > this.#options.openMax) throw queueFull();
    this.#open += choices;
    return lease(() => {
      this.#open -= choices;
      this.#look();
    });
  }

  /** Resolves when nothing is open and nobody present, or after `timeoutMs`. One caller at a time. */
  async idle(timeoutMs: number): Promise<void> {
    if (this.#isIdle()) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#whenIdle = resolve;
    const late = setTimeout(resolve, timeoutMs);
    await promise;
    clearTimeout(late);
  }

  #isIdle(): boolean {
    return this.#open === 0 && this.#present === 0;
  }

  #look(): void {
    if (this.#isIdle()) this.#whenIdle?.();
  }
}

function queueFull(): ColdpathError {
  return new ColdpathError("queue_full", "the model has too many requests waiting; try again shortly", {
    retryAfterSeconds: RETRY_AFTER_SECONDS,
  });
}

/** Gives back once, however often it is disposed of. */
function lease(giveBack: () => void): Disposable {
  let held = true;
  return {
    [Symbol.dispose]: () => {
      if (held) giveBack();
      held = false;
    },
  };
}
