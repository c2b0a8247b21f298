/** One request's account on a clock of the test's own: what its metrics and its log line say of time. */
import { expect, test } from "vitest";
import { Exchange } from "../../../origin/request/exchange.ts";
import { createMetrics } from "../../../origin/operate/metrics.ts";

function createExchange() {
  let nowMs = 1_000;
  const lines: Readonly<Record<string, unknown>>[] = [];
  const metrics = createMetrics({ models: () => [] });
  const route = "/v1/completions";
  const about = { requestId: "r", method: "POST", path: route, route };
  const exchange = new Exchange({ ...about, metrics, log: (line) => lines.push(line), now: () => nowMs });
  exchange.noteModel("m", metrics.of("m"));
  const at = (ms: number) => {
    nowMs = 1_000 + ms;
    return exchange;
  };
  const read = async (name: string) => {
    const text = await metrics.registry.metrics();
    const sample = text.split("\n").find((line) => line.startsWith(`coldpath_origin_${name}`));
    return Number(sample?.split(" ").at(-1));
  };
  return { at, read, lines };
}

test("time to the first token, between tokens, per token and in all are what the clock says", async () => {
  const { at, read, lines } = createExchange();
  at(300).noteGenerated(1);
  at(310).noteGenerated(2);
  // Two in one piece, then a piece of text without a new token.
  at(360).noteGenerated(4);
  at(365).noteGenerated(4);
  at(400).noteGenerated(5);
  at(430).noteGenerated(5);
  at(450).end({ status: 200 });
  expect(await read("time_to_first_token_seconds_sum")).toBeCloseTo(0.3);
  expect(await read("inter_token_latency_seconds_count")).toBe(3);
  expect(await read("inter_token_latency_seconds_sum")).toBeCloseTo(0.1);
  expect(await read('inter_token_latency_seconds_bucket{le="0.01",')).toBe(1);
  expect(await read('inter_token_latency_seconds_bucket{le="0.05",')).toBe(3);
  expect(await read("time_per_output_token_seconds_sum")).toBeCloseTo(0.1 / 4);
  expect(await read("e2e_request_latency_seconds_sum")).toBeCloseTo(0.4);
  expect(lines).toMatchObject([{ durationMs: 450, firstTokenMs: 300, completionTokens: undefined }]);
});

test("an answer of one token has nothing between tokens, and one without has no first", async () => {
  const one = createExchange();
  one.at(20).noteGenerated(1);
  one.at(30).end({ status: 200 });
  expect(await one.read("time_to_first_token_seconds_count")).toBe(1);
  expect(await one.read("inter_token_latency_seconds_count")).toBe(0);
  expect(await one.read("time_per_output_token_seconds_count")).toBe(0);

  const none = createExchange();
  none.at(20).end({ status: 503 });
  none.at(30).end({ status: 200 });
  expect(await none.read("time_to_first_token_seconds_count")).toBe(0);
  expect(await none.read("e2e_request_latency_seconds_count")).toBe(0);
  expect(none.lines).toHaveLength(1);
});
