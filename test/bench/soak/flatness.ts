/**
 * Whether a process's memory is flat. Resident memory saws up and down with garbage collection and never comes back to
 * the byte, so neither two samples nor a least-squares line can tell. The line here is Theil's and Sen's, the median of
 * the slopes between all pairs of samples, which a third of the samples may spoil. The first half is left out: there
 * caches fill, code is compiled and heaps find their size.
 */
import { median } from "../report.ts";

export interface Sample {
  /** Requests answered. */
  readonly requests: number;
  readonly bytes: number;
}

export interface Flatness {
  readonly isFlat: boolean;
  /** Of the second half, bytes a request. */
  readonly slope: number;
  /** What the line gains over the second half, as a share of its middle. */
  readonly growth: number;
}

/** A line that gains less than this over the second half is flat. */
export const GROWTH_MAX = 0.02;

export function judgeFlatness(samples: readonly Sample[]): Flatness {
  const half = samples.slice(Math.floor(samples.length / 2));
  const slopes = half.flatMap((one, index) =>
    half
      .slice(index + 1)
      .filter((other) => other.requests > one.requests)
      .map((other) => (other.bytes - one.bytes) / (other.requests - one.requests)),
  );
  const slope = median(slopes);
  const gained = slope * ((half.at(-1)?.requests ?? 0) - (half[0]?.requests ?? 0));
  const growth = gained / median(half.map(({ bytes }) => bytes));
  return { isFlat: growth < GROWTH_MAX, slope, growth };
}
