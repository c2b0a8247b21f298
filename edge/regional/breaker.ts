/**
 * A breaker before the regional store: one that hangs would cost every request its whole timeout. After a few silences in
 * a row nobody asks any more; after a pause one command goes as a probe, and its answer opens the way for all. Knows no
 * command and no store; the decision is pure, its clock is passed in.
 *
 * Only silence counts. A refused connection or an error reply comes at once and costs nobody anything.
 */
import type { SendCommand } from "./redis.ts";
import { StoreUnavailable } from "./regional-store.ts";

/** One lost answer happens; so many in a row are a store that hangs. */
const SILENCES_MAX = 3;

export class Breaker {
  readonly #pauseMs: number;
  /** In a row: back to 0 with any answer. */
  #silences = 0;
  /** When the last silence ended or the last probe began; while the way is shut, nobody asks for a pause from then on. */
  #sinceMs = Number.NEGATIVE_INFINITY;

  /** @param pauseMs - 0 never shuts the way */
  constructor(pauseMs: number) {
    this.#pauseMs = pauseMs;
  }

  get isShut(): boolean {
    return this.#pauseMs > 0 && this.#silences >= SILENCES_MAX;
  }

  /** Whether a command may go; while the way is shut, the one that may is the probe. A lost probe is followed by another. */
  mayAsk(nowMs: number): boolean {
    if (!this.isShut) return true;
    // A clock that is set back must not keep the way shut.
    if (Math.abs(nowMs - this.#sinceMs) < this.#pauseMs) return false;
    this.#sinceMs = nowMs;
    return true;
  }

  answered(): void {
    this.#silences = 0;
  }

  silent(nowMs: number): void {
    this.#silences += 1;
    this.#sinceMs = nowMs;
  }
}

/** Commands through the breaker. @throws {StoreUnavailable} at once, while the way is shut */
export function withBreaker(send: SendCommand, breaker: Breaker, now: () => number): SendCommand {
  return async (command, timeoutMs) => {
    if (!breaker.mayAsk(now())) throw new StoreUnavailable("not asked: it was silent lately", { heard: "not-asked" });
    try {
      const reply = await send(command, timeoutMs);
      breaker.answered();
      return reply;
    } catch (error) {
      const heard = error instanceof StoreUnavailable ? error.heard : "not-asked";
      // One that had but the rest of a request's time says little.
      if (heard === "silent" && timeoutMs === undefined) breaker.silent(now());
      if (heard === "answered") breaker.answered();
      throw error;
    }
  };
}
