/**
 * What Prometheus reads at `/metrics`. Where vLLM has a name for the same thing, its word is kept behind the prefix.
 * Knows nothing of requests' content, and its labels have few values by construction.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Occupancy } from "./engine/messages.ts";

const SECONDS = {
  firstToken: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
  perToken: [0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1],
  whole: [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120],
};

export type Metrics = ReturnType<typeof createMetrics>;

/** @param occupancy - asked at every scrape */
export function createMetrics({ occupancy }: { readonly occupancy: () => Occupancy }) {
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
