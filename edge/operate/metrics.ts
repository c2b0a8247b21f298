/**
 * What Prometheus reads at `GET /metrics`: one process' or isolate's own counts since its start, told apart by the label
 * `process`. Knows nothing of requests' content; its labels have few values by construction.
 *
 * Considered: prom-client, which the origin has. Its module loads `cluster`, `fs`, `os` and `worker_threads`, which a
 * Worker has no use for, and it hashes its labels on every hit; here a hit finds its counters by comparing values that
 * exist already, and labels are only written once.
 *
 * Source: Prometheus text exposition format 0.0.4.
 */
import { isCompletionPath } from "../../shared/completion-request.ts";
import type { Observe } from "../call/call.ts";
import type { PermitCounts } from "../admission/permits.ts";

/** Upper bounds in seconds: a hit takes fractions of a millisecond, a cold prompt up to minutes. */
const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10, 60, 300];

/** Beside the questions'. */
const ROUTES: ReadonlySet<string> = new Set(
  "/v1/models /token /metrics /healthz /readyz /admin/purge /admin/stats /admin/top /admin/revoke /openapi.json /docs".split(
    " ",
  ),
);

export const METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8";

/** Requests that ended alike; their number is bounded by the labels' few values. */
interface Ended {
  readonly route: string;
  readonly status: number;
  readonly cache: string;
  readonly tier: string;
  readonly duration: Duration;
  count: number;
}

/** A route that is not ours is counted with all the others a client may think of. */
function routeLabel(path: string): string {
  if (isCompletionPath(path) || ROUTES.has(path)) return path;
  return path.startsWith("/v1/models/") ? "/v1/models" : "other";
}

interface Duration {
  readonly counts: number[];
  sum: number;
  count: number;
}

export class EdgeMetrics {
  readonly #ended: Ended[] = [];
  /** By the labels' own text, as those below. */
  readonly #durations = new Map<string, Duration>();
  readonly #errors = new Map<string, number>();
  readonly #degraded = new Map<string, number>();
  /** Made when it is first asked for: a Worker has no randomness before its first request. */
  #process: string | undefined;
  #unreadable = 0;
  #usedTokens = 0;

  readonly observe: Observe = ({ route, status, ms, record }) => {
    const known = routeLabel(route);
    const { cache = "none", tier = "none" } = record;
    const isAlike = (ended: Ended): boolean =>
      ended.status === status && ended.cache === cache && ended.tier === tier && ended.route === known;
    const ended = this.#ended.find(isAlike) ?? this.#begin({ route: known, status, cache, tier });
    ended.count += 1;
    time(ended.duration, ms / 1000);
    if (record.error !== undefined) add(this.#errors, `code="${record.error}"`);
    if (record.degraded !== undefined) add(this.#degraded, `outcome="${record.degraded}"`);
    if (record.unreadable === true) this.#unreadable += 1;
    this.#usedTokens += record.usedTokens ?? 0;
  };

  /** @param newName - names the process or isolate, once */
  render(
    newName: () => string,
    { storeShut, permits }: { readonly storeShut: boolean; readonly permits: PermitCounts },
  ): string {
    this.#process ??= newName().slice(0, 8);
    const own = `process="${this.#process}"`;
    const counter = (name: string, help: string, values: Iterable<readonly [string, number]>): string =>
      [
        `# HELP coldpath_edge_${name} ${help}`,
        `# TYPE coldpath_edge_${name} counter`,
        ...Array.from(values, ([labels, value]) => `coldpath_edge_${name}{${labels}${own}} ${value}`),
      ].join("\n");
    return [
      counter("requests_total", "Finished requests.", this.#requests()),
      counter("errors_total", "Requests that ended with an error, by its code.", labelled(this.#errors)),
      counter("degraded_total", "Requests that went on with less than usual, by outcome.", labelled(this.#degraded)),
      counter("unreadable_entries_total", "Stored answers that were changed, moved or cut: each a miss.", [
        ["", this.#unreadable],
      ]),
      counter("used_tokens_total", "Tokens that forwarded requests were billed.", [["", this.#usedTokens]]),
      counter("permits_granted_total", "Requests that were paid for in advance.", [["", permits.granted]]),
      counter("permits_spent_total", "Requests that were answered with one of these.", [["", permits.spent]]),
      counter(
        "permits_overshoot_total",
        "Of these, spent when their price had been regained: limits were exceeded by no more.",
        [["", permits.late]],
      ),
      "# HELP coldpath_edge_store_shut 1 while a silent regional store is not asked, else 0.",
      "# TYPE coldpath_edge_store_shut gauge",
      `coldpath_edge_store_shut{${own}} ${storeShut ? 1 : 0}`,
      "# HELP coldpath_edge_request_duration_seconds From a request's arrival to the end of its answer.",
      "# TYPE coldpath_edge_request_duration_seconds histogram",
      ...[...this.#durations].flatMap(([labels, duration]) => renderDuration(`${labels},${own}`, duration)),
      "",
    ].join("\n");
  }

  #begin(labels: Omit<Ended, "duration" | "count">): Ended {
    const { cache, tier } = labels;
    const text = `cache="${cache}",tier="${tier}"`;
    const duration = this.#durations.get(text) ?? { counts: BUCKETS.map(() => 0), sum: 0, count: 0 };
    this.#durations.set(text, duration);
    const ended = { ...labels, duration, count: 0 };
    this.#ended.push(ended);
    return ended;
  }

  #requests(): readonly (readonly [string, number])[] {
    return this.#ended.map(({ route, status, cache, tier, count }) => [
      `route="${route}",status="${status}",cache="${cache}",tier="${tier}",`,
      count,
    ]);
  }
}

function time(duration: Duration, seconds: number): void {
  const bucket = BUCKETS.findIndex((bound) => seconds <= bound);
  const before = duration.counts[bucket];
  if (before !== undefined) duration.counts[bucket] = before + 1;
  duration.sum += seconds;
  duration.count += 1;
}

function labelled(values: ReadonlyMap<string, number>): readonly (readonly [string, number])[] {
  return [...values].map(([labels, value]) => [`${labels},`, value]);
}

function renderDuration(labels: string, { counts, sum, count }: Duration): readonly string[] {
  const name = "coldpath_edge_request_duration_seconds";
  let below = 0;
  const buckets = BUCKETS.map((bound, index) => {
    below += counts[index] ?? 0;
    return `${name}_bucket{${labels},le="${bound}"} ${below}`;
  });
  return [
    ...buckets,
    `${name}_bucket{${labels},le="+Inf"} ${count}`,
    `${name}_sum{${labels}} ${sum}`,
    `${name}_count{${labels}} ${count}`,
  ];
}

function add(counts: Map<string, number>, labels: string): void {
  counts.set(labels, (counts.get(labels) ?? 0) + 1);
}
