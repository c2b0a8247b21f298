/** What redis-rest tells Prometheus. Each server has its own registry, so two in one process do not mix. */
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { RedisConnection } from "./connection.ts";

/** The kinds of request that are told apart; commands and keys are not labels, for their number has no limit. */
export type RestRoute = "command" | "pipeline" | "multi-exec" | "health" | "metrics";

export interface RestMetrics {
  /** Counts one finished request. */
  observe(route: RestRoute, status: number, seconds: number): void;
  readonly contentType: string;
  render(): Promise<string>;
}

/** Registers the metrics; the gauges read `redis` when they are scraped. */
export function createRestMetrics(redis: Pick<RedisConnection, "commandTable" | "pendingCommands">): RestMetrics {
  const registry = new Registry();
  const registers = [registry];
  const requests = new Counter({
    name: "coldpath_redis_rest_requests_total",
    help: "Finished requests by route and HTTP status.",
    labelNames: ["route", "status"],
    registers,
  });
  const duration = new Histogram({
    name: "coldpath_redis_rest_request_duration_seconds",
    help: "Time from a request's headers to the end of its answer, Redis included.",
    labelNames: ["route"],
    buckets: [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10],
    registers,
  });
  const redisUp = new Gauge({
    name: "coldpath_redis_rest_redis_up",
    help: "1 while Redis is connected, else 0.",
    registers,
  });
  const pendingCommands = new Gauge({
    name: "coldpath_redis_rest_pending_commands",
    help: "Commands sent to Redis and not yet answered.",
    registers,
  });
  return {
    observe: (route, status, seconds) => {
      requests.inc({ route, status });
      duration.observe({ route }, seconds);
    },
    contentType: registry.contentType,
    render: () => {
      redisUp.set(redis.commandTable === undefined ? 0 : 1);
      pendingCommands.set(redis.pendingCommands);
      return registry.metrics();
    },
  };
}
