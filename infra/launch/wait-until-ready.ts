/** Waits until a part answers its readiness route, and notices at once when it will not. */
import { setTimeout as sleep } from "node:timers/promises";
import { LaunchFailure } from "./failure.ts";
import { type Part, describeExit } from "./part.ts";

/** Between two questions. */
const PAUSE_MS = 50;
/** For one question: a part that is busy starting may accept it and stay silent. */
const ANSWER_TIMEOUT_MS = 2_000;

export interface ReadyOptions {
  readonly part: Part;
  /** Answers with a 2xx status once the part is ready. */
  readonly url: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/**
 * Resolves when the part is ready.
 *
 * @throws {LaunchFailure} when it ends, or is not ready in time
 * @throws the signal's reason, when it aborts
 */
export async function waitUntilReady(options: ReadyOptions): Promise<void> {
  const { part, url, timeoutMs, signal } = options;
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask(url);
    signal.throwIfAborted();
    if (answer === "ready") return;
    if (performance.now() > deadline) {
      throw new LaunchFailure(`${part.name} did not become ready within ${timeoutMs / 1000} s (${answer})`);
    }
    const exit = await Promise.race([part.exited, sleep(PAUSE_MS)]);
    if (exit !== undefined) {
      throw new LaunchFailure(`${part.name} ${describeExit(exit)} before it was ready; it said:`, {
        logTail: exit.logTail,
      });
    }
  }
}

async function ask(url: string): Promise<string> {
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    const text = await response.text();
    return response.ok ? "ready" : `${response.status} ${text.slice(0, 200)}`;
  } catch {
    return "it does not answer";
  }
}
