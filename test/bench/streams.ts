/**
 * From the arrival times of tokens to the figures of a group of streams. The rate is taken while every stream is
 * decoding, from the last stream's first token to the first stream's last one: prefill is reported as time to first
 * token and must not dilute it.
 */
import { median } from "./report.ts";

/** What one group of concurrent streams did. */
export interface StreamTimes {
  /** For each stream, when each token arrived, in milliseconds since all of them started. */
  readonly arrivals: readonly (readonly number[])[];
}

export type StreamFigures = {
  readonly "TTFT ms": number;
  readonly "tokens/s": number;
};

/** Median time to first token, and tokens a second of the whole group while all its streams decode. */
export function streamFigures({ arrivals }: StreamTimes): StreamFigures {
  const firsts = arrivals.map((times) => times[0] ?? Number.NaN);
  const from = Math.max(...firsts);
  const to = Math.min(...arrivals.map((times) => times.at(-1) ?? Number.NaN));
  const tokens = arrivals.flat().filter((time) => time > from && time <= to).length;
  // The first had ended before the last began: there is no such time, and no such rate.
  const rate = from < to ? (tokens / (to - from)) * 1000 : Number.NaN;
  return { "TTFT ms": median(firsts), "tokens/s": rate };
}
