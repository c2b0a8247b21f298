/**
 * Open-loop load: requests leave at a fixed rate whether or not the last ones were answered, and a request's time counts
 * from when it was due. So a server that stalls is charged for every request that would have come meanwhile, which a
 * closed loop leaves out ("coordinated omission", G. Tene). autocannon's own fixed rate corrects its histogram
 * afterwards, in whole milliseconds; a hit takes less.
 */
import { Agent, request } from "node:http";
import type { LoadTarget } from "./load.ts";
import { quantile } from "./report.ts";

export interface OpenLoopOptions {
  readonly perSecond: number;
  readonly seconds: number;
  /** Enough that no request waits for one, unless the server stalls. */
  readonly connections: number;
}

/** Fails when any answer is not 200. */
export async function openLoop(
  { url, headers, body }: LoadTarget,
  { perSecond, seconds, connections }: OpenLoopOptions,
): Promise<{ readonly "requests/s": number; readonly "p50 ms": number; readonly "p99 ms": number }> {
  const agent = new Agent({ keepAlive: true, maxSockets: connections });
  const times: number[] = [];
  const send = (dueMs: number): Promise<void> =>
    new Promise((resolve, reject) => {
      const sent = request(url, { method: "POST", agent, headers }, (response) => {
        if (response.statusCode !== 200) reject(new Error(`${url} answered ${response.statusCode}`));
        response.resume();
        response.once("end", () => {
          times.push(performance.now() - dueMs);
          resolve();
        });
      });
      sent.once("error", reject);
      sent.end(body);
    });

  const total = perSecond * seconds;
  const startMs = performance.now();
  const pending: Promise<void>[] = [];
  while (pending.length < total) {
    const due = Math.min(Math.floor(((performance.now() - startMs) * perSecond) / 1000) + 1, total);
    while (pending.length < due) pending.push(send(startMs + (pending.length * 1000) / perSecond));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
  await Promise.all(pending);
  const took = (performance.now() - startMs) / 1000;
  agent.destroy();
  return { "requests/s": total / took, "p50 ms": quantile(times, 0.5), "p99 ms": quantile(times, 0.99) };
}
