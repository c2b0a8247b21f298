/**
 * What Prometheus reads at `/metrics`. Where vLLM has a name for the same thing, its word is kept behind the prefix, and
 * its label `model_name` tells models apart. Knows nothing of requests' content, and its labels have few values by
 * construction: no client's word is one.
 */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { EngineCounters } from "../engine/engine.ts";
import type { Occupancy } from "../engine/messages.ts";

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

/** What is asked of every model at every scrape. */
export interface ObservedModel {
  readonly id: string;
  readonly occupancy: Occupancy;
  /** Absent where there are neither keys and values nor drafts. */
  readonly counters?: EngineCounters | undefined;
  /** Whether it can answer now. */
  readonly ready: boolean;
}

export interface MetricsOptions {
  /** The models that are loaded. */
  readonly models: () => readonly ObservedModel[];
}

export type ModelMetrics = ReturnType<Metrics["of"]>;

/** The label of everything that belongs to one model. */
const MODEL = "model_name";

export function createMetrics({ models }: MetricsOptions) {
  const registry = new Registry();
  const registers = [registry];
  const labelNames = [MODEL] as const;
  const observe = (name: string, help: string, read: (model: ObservedModel) => number | undefined) =>
    new Gauge({
      name: `coldpath_origin_${name}`,
      help,
      labelNames,
      registers,
      collect() {
        for (const model of models()) {
          const value = read(model);
          if (value !== undefined) this.set({ [MODEL]: model.id }, value);
        }
      },
    });
  observe("model_ready", "1 while the model can answer, 0 while it can't.", ({ ready }) => (ready ? 1 : 0));
  observe("num_requests_running", "Requests that have a row of the KV cache.", ({ occupancy }) => occupancy.running);
  observe("num_requests_waiting", "Requests that wait for a row.", ({ occupancy }) => occupancy.waiting);
  for (const [name, [count, help]] of Object.entries(ENGINE_GAUGES))
    observe(name, help, ({ counters }) => counters?.[count]);
  for (const [name, [count, help]] of Object.entries(ENGINE_COUNTERS)) {
    registry.registerMetric(
      new Counter({
        name: `coldpath_origin_${name}_total`,
        help,
        labelNames,
        registers: [],
        collect() {
          this.reset();
          for (const { id, counters } of models())
            if (counters !== undefined) this.inc({ [MODEL]: id }, counters[count]);
        },
      }),
    );
  }

  const count = (name: string, help: string) =>
    new Counter({ name: `coldpath_origin_${name}_total`, help, labelNames, registers });
  const time = (name: string, help: string, buckets: readonly number[]) =>
    new Histogram({ name: `coldpath_origin_${name}_seconds`, help, labelNames, buckets: [...buckets], registers });
  const counters = {
    engineCrashes: count("engine_crashes", "Deaths of the engine's thread, and starts anew that failed."),
    coalesced: count("coalesced_requests", "Requests that were given an answer under way for another."),
    coalesceConflicts: count(
      "coalesce_conflicts",
      "Requests whose digest was under way for another question: a fault of an edge. Each was answered by itself.",
    ),
    promptTokens: count("prompt_tokens", "Prompt tokens of answers that got to a first token."),
    generationTokens: count("generation_tokens", "Tokens generated, however many requests share an answer."),
  };
  const times = {
    timeToFirstToken: time("time_to_first_token", "From a request's arrival to its first token.", SECONDS.firstToken),
    queueTime: time("request_queue_time", "From an answer's submission to the engine to its first row.", SECONDS.queue),
    stepTime: time("step_time", "One run of the model, for all rows and a piece of a prompt.", SECONDS.step),
    interTokenLatency: time(
      "inter_token_latency",
      "Between two pieces of an answer as they reach a request: mostly a token each, a guessed one with the one before.",
      SECONDS.betweenTokens,
    ),
    timePerOutputToken: time(
      "time_per_output_token",
      "Mean time between an answer's tokens, the first left out.",
      SECONDS.perToken,
    ),
    requestLatency: time(
      "e2e_request_latency",
      "From a completion request's arrival to its last token.",
      SECONDS.whole,
    ),
  };

  return {
    registry,
    requests: new Counter({
      name: "coldpath_origin_requests_total",
      help: "Requests answered, by route and status; 499 is a client that went away.",
      labelNames: ["route", "status"],
      registers,
    }),
    /** One model's own; they are shown from now on, as nothing yet. */
    of: (id: string) => {
      for (const counter of Object.values(counters)) counter.inc({ [MODEL]: id }, 0);
      for (const histogram of Object.values(times)) histogram.zero({ [MODEL]: id });
      return {
        engineCrashes: counters.engineCrashes.labels(id),
        coalesced: counters.coalesced.labels(id),
        coalesceConflicts: counters.coalesceConflicts.labels(id),
        promptTokens: counters.promptTokens.labels(id),
        generationTokens: counters.generationTokens.labels(id),
        timeToFirstToken: times.timeToFirstToken.labels(id),
        queueTime: times.queueTime.labels(id),
        stepTime: times.stepTime.labels(id),
        interTokenLatency: times.interTokenLatency.labels(id),
        timePerOutputToken: times.timePerOutputToken.labels(id),
        requestLatency: times.requestLatency.labels(id),
      };
    },
  };
}
