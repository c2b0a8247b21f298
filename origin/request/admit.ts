/**
 * How many requests may be at the origin at once: answers that are being made, which have a row or wait for one, and
 * requests that read them. Refuses at the door, because a queue that is too long only makes everybody late. Knows nothing
 * of what a request asks.
 */
import { ColdpathError } from "../../shared/errors.ts";

/** However long the queue is: by then it looks different. */
const RETRY_AFTER_SECONDS_MAX = 60;

export interface AdmissionOptions {
  /** Texts under way: rows and places in the queue. */
  readonly openMax: number;
  /** Requests beyond those, which share another's answer. */
  readonly followersMax: number;
  /** How long one more would wait for its row, in milliseconds; undefined while nothing has been measured. */
  readonly waitMs: () => number | undefined;
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
    if (this.#present >= openMax + followersMax) throw this.#queueFull();
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
    if (this.#open + choices > this.#options.openMax) throw this.#queueFull();
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

  /** Come back when those who wait now have got their rows. */
  #queueFull(): ColdpathError {
    const seconds = Math.ceil((this.#options.waitMs() ?? 0) / 1000);
    return new ColdpathError("queue_full", "the model has too many requests waiting; try again shortly", {
      retryAfterSeconds: Math.min(Math.max(seconds, 1), RETRY_AFTER_SECONDS_MAX),
    });
  }

  #isIdle(): boolean {
    return this.#open === 0 && this.#present === 0;
  }

  #look(): void {
    if (this.#isIdle()) this.#whenIdle?.();
  }
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
