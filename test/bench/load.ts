/**
 * Closed-loop load on one HTTP route, by autocannon: a fixed number of connections, each sending its next request when
 * the last is answered. Such a loop understates the latency of an overloaded server; read its p99 as "at this load".
 */
import { installPeer } from "./peers.ts";
import { quantile } from "./report.ts";

export interface LoadTarget {
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

export type LoadFigures = {
  readonly "requests/s": number;
  readonly "p50 ms": number;
  readonly "p99 ms": number;
};

/** The part of autocannon 9 that is called. */
interface Autocannon {
  (options: {
    url: string;
    method: string;
    headers: Readonly<Record<string, string>>;
    body: string;
    connections: number;
    duration: number;
  }): AutocannonRun;
}
interface AutocannonRun extends PromiseLike<{ non2xx: number; errors: number; duration: number }> {
  on(event: "response", listener: (client: unknown, status: number, bytes: number, milliseconds: number) => void): void;
}

export type Load = (
  target: LoadTarget,
  options: { readonly connections: number; readonly seconds: number },
) => Promise<LoadFigures>;

/** Loads the generator; every answer that is not 2xx fails the benchmark. */
export async function openLoad(): Promise<Load> {
  const { default: autocannon } = (await import(await installPeer("autocannon"))) as { default: Autocannon };
  return async ({ url, headers, body }, { connections, seconds }) => {
    const times: number[] = [];
    const run = autocannon({ url, method: "POST", headers, body, connections, duration: seconds });
    // autocannon's own histogram has whole milliseconds; a hit takes less.
    run.on("response", (_client, _status, _bytes, milliseconds) => times.push(milliseconds));
    const { non2xx, errors, duration } = await run;
    if (non2xx + errors > 0) throw new Error(`${non2xx} answers of ${url} were not 2xx, ${errors} calls failed`);
    return { "requests/s": times.length / duration, "p50 ms": quantile(times, 0.5), "p99 ms": quantile(times, 0.99) };
  };
}
