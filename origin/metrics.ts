/**
 * What Prometheus reads at `/metrics`. Where vLLM has a name for the same thing, its word is kept behind the prefix.
 * Knows nothing of requests' content, and its labels have few values by construction.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { EngineCounters } from "./engine/engine.ts";
import type { Occupancy } from "./engine/messages.ts";

const SECONDS = {
  firstToken: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  queue: [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  step: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
  betweenTokens: [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5],
  perToken: [0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1],
  whole: [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120],
};

export type Metrics = ReturnType<typeof createMetrics>;

/** The engine's own counts, by their names here. They begin anew with each of its threads, as counters may. */
const ENGINE_COUNTERS: Readonly<Record<string, readonly [count: keyof EngineCounters, help: string]>> = {
  prefix_cache_queries: ["prefixQueries", "Prompts that were looked up in the prefix cache."],
  prefix_cache_hits: ["prefixHits", "Prompts of which the prefix cache held a part."],
  prefix_cache_hit_tokens: ["prefixHitTokens", "Prompt tokens that were not computed again."],
  prefix_cache_evictions: ["prefixEvictions", "Blocks that the prefix cache gave up for others."],
  num_preemptions: ["preemptions", "Rows that were put back into the queue."],
  spec_decode_num_draft_tokens: ["draftedTokens", "Tokens that were guessed ahead."],
  spec_decode_num_accepted_tokens: ["acceptedTokens", "Guessed tokens that were right."],
  kv_cache_resizes: ["resizes", "Times that the KV cache grew or shrank."],
  kv_cache_copied_tokens: ["copiedTokens", "Tokens whose keys and values were copied from row to row."],
};
const ENGINE_GAUGES: typeof ENGINE_COUNTERS = {
  kv_cache_bytes: ["slabBytes", "Bytes of the KV cache now."],
  prefix_cache_bytes: ["prefixBytes", "Bytes that the prefix cache holds beside it."],
};

export interface MetricsOptions {
  /** Both are asked at every scrape. */
  readonly occupancy: () => Occupancy;
  readonly counters: () => EngineCounters;
}

export function createMetrics({ occupancy, counters }: MetricsOptions) {
  const registry = new Registry();
  const registers = [registry];
  const gauge = (name: keyof Occupancy, help: string) =>
    new Gauge({
      name: `coldpath_origin_num_requests_${name}`,
      help,
      registers,
      collect() {
        this.set(occupancy()[name]);
      },
    });
  gauge("running", "Requests that have a row of the KV cache.");
  gauge("waiting", "Requests that wait for a row.");

  const engineCounters = Object.entries(ENGINE_COUNTERS).map(
    ([name, [count, help]]) =>
      new Counter({
        name: `coldpath_origin_${name}_total`,
        help,
        registers: [],
        collect() {
          this.reset();
          this.inc(counters()[count]);
        },
      }),
  );
  const engineGauges = Object.entries(ENGINE_GAUGES).map(
    ([name, [count, help]]) =>
      new Gauge({
        name: `coldpath_origin_${name}`,
        help,
        registers: [],
        collect() {
          this.set(counters()[count]);
        },
      }),
  );
  for (const metric of [...engineCounters, ...engineGauges]) registry.registerMetric(metric);

  return {
    registry,
    requests: new Counter({
      name: "coldpath_origin_requests_total",
      help: "Requests answered, by route and status; 499 is a client that went away.",
      labelNames: ["route", "status"],
      registers,
    }),
    engineCrashes: new Counter({
      name: "coldpath_origin_engine_crashes_total",
      help: "Deaths of the engine's thread, and starts anew that failed.",
      registers,
    }),
    coalesced: new Counter({
      name: "coldpath_origin_coalesced_requests_total",
      help: "Requests that were given an answer under way for another.",
      registers,
    }),
    coalesceConflicts: new Counter({
      name: "coldpath_origin_coalesce_conflicts_total",
      help: "Requests whose digest was under way for another question: a fault of an edge. Each was answered by itself.",
      registers,
    }),
    promptTokens: new Counter({
      name: "coldpath_origin_prompt_tokens_total",
      help: "Prompt tokens of answers that got to a first token.",
      registers,
    }),
    generationTokens: new Counter({
      name: "coldpath_origin_generation_tokens_total",
      help: "Tokens generated, however many requests share an answer.",
      registers,
    }),
    timeToFirstToken: new Histogram({
      name: "coldpath_origin_time_to_first_token_seconds",
      help: "From a request's arrival to its first token.",
      buckets: SECONDS.firstToken,
      registers,
    }),
    queueTime: new Histogram({
      name: "coldpath_origin_request_queue_time_seconds",
      help: "From an answer's submission to the engine to its first row.",
      buckets: SECONDS.queue,
      registers,
    }),
    stepTime: new Histogram({
      name: "coldpath_origin_step_time_seconds",
      help: "One run of the model, for all rows and a piece of a prompt.",
      buckets: SECONDS.step,
      registers,
    }),
    interTokenLatency: new Histogram({
      name: "coldpath_origin_inter_token_latency_seconds",
      help: "Between two pieces of an answer as they reach a request: mostly a token each, a guessed one with the one before.",
      buckets: SECONDS.betweenTokens,
      registers,
    }),
    timePerOutputToken: new Histogram({
      name: "coldpath_origin_time_per_output_token_seconds",
      help: "Mean time between an answer's tokens, the first left out.",
      buckets: SECONDS.perToken,
      registers,
    }),
    requestLatency: new Histogram({
      name: "coldpath_origin_e2e_request_latency_seconds",
      help: "From a completion request's arrival to its last token.",
      buckets: SECONDS.whole,
      registers,
    }),
  };
}
