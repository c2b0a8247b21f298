/** Waits that end after one and the same time. Knows nothing of what is waited for. */

export interface Waiting {
  readonly dueMs: number;
  readonly giveUp: () => void;
}

/**
 * What is given up after one and the same time, with one timer for all: the one that waits longest is due next. A timer
 * for each command, made and cleared, took as long as encoding the command.
 */
export class Deadlines {
  readonly #timeoutMs: number;
  /** In the order in which they are due. */
  readonly #waiting = new Set<Waiting>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(timeoutMs: number) {
    this.#timeoutMs = timeoutMs;
  }

  add(giveUp: () => void): Waiting {
    const waiting = { dueMs: performance.now() + this.#timeoutMs, giveUp };
    this.#waiting.add(waiting);
    if (this.#timer === undefined) this.#wakeAfter(this.#timeoutMs);
    return waiting;
  }

  delete(waiting: Waiting): void {
    this.#waiting.delete(waiting);
  }

  /** Nobody is given up any more. */
  close(): void {
    clearTimeout(this.#timer);
    this.#waiting.clear();
  }

  #wakeAfter(ms: number): void {
    this.#timer = setTimeout(() => this.#expire(), ms);
  }

  #expire(): void {
    this.#timer = undefined;
    const nowMs = performance.now();
    for (const waiting of this.#waiting) {
      if (waiting.dueMs > nowMs) return this.#wakeAfter(waiting.dueMs - nowMs);
      this.#waiting.delete(waiting);
      waiting.giveUp();
    }
  }
}
