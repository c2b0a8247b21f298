/**
 * A clock that never goes back. Deadlines, ageing and step times are differences of two readings: one reading that
 * jumps back would make a wait negative and freeze whatever it bounds, so a jump back counts as no time at all. So does a
 * reading that is no number: one that is infinitely late would be the end of every wait, for ever.
 */

/** @param now - milliseconds from any origin; may jump */
export function createSteadyClock(now: () => number): () => number {
  let lastMs = now();
  let elapsedMs = 0;
  return () => {
    const atMs = now();
    if (!Number.isFinite(atMs)) return elapsedMs;
    if (atMs > lastMs) elapsedMs += atMs - lastMs;
    lastMs = atMs;
    return elapsedMs;
  };
}
