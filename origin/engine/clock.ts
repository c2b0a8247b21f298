/**
 * A clock that never goes back. Deadlines, ageing and step times are differences of two readings: one reading that
 * jumps back would make a wait negative and freeze whatever it bounds, so a jump back counts as no time at all.
 */

/** @param now - milliseconds from any origin; may jump */
export function createSteadyClock(now: () => number): () => number {
  let lastMs = now();
  let elapsedMs = 0;
  return () => {
    const atMs = now();
    if (atMs > lastMs) elapsedMs += atMs - lastMs;
    lastMs = atMs;
    return elapsedMs;
  };
}
