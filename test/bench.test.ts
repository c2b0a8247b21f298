/** The arithmetic behind the benchmarks' verdicts: a wrong one would let a leak or a missed number pass. */
import { createServer, type RequestListener } from "node:http";
import { expect, onTestFinished, test } from "vitest";
import { createRandom } from "../origin/engine/random.ts";
import { goalTable, judge } from "./bench/goals.ts";
import { openLoop } from "./bench/open-loop.ts";
import { quantile } from "./bench/report.ts";
import { judgeFlatness } from "./bench/soak/flatness.ts";
import { drawQuestion } from "./bench/soak/questions.ts";
import { streamFigures } from "./bench/streams.ts";
import { planTraffic, trafficFigures } from "./bench/traffic.ts";

const MEGABYTE = 1e6;

/** 200 samples of 100,000 requests: a heap that grows by 30 MB and is collected, over a base that grows by `leak`. */
function sawtooth(leak: number, { warmUp = 0 } = {}) {
  const random = createRandom(7);
  return Array.from({ length: 201 }, (_, index) => ({
    requests: index * 500,
    bytes: (200 + (index % 13) * 2.5 + random() + Math.min(1, index / 80) * warmUp) * MEGABYTE + leak * index * 500,
  }));
}

test("memory that saws up and down around one level is flat", () => {
  expect(judgeFlatness(sawtooth(0)).isFlat).toBe(true);
});

test("memory that grows only while caches fill is flat", () => {
  expect(judgeFlatness(sawtooth(0, { warmUp: 80 })).isFlat).toBe(true);
});

test("a leak of 200 bytes a request is found under the saw's teeth", () => {
  const { isFlat, slope } = judgeFlatness(sawtooth(200));
  expect(isFlat).toBe(false);
  expect(slope).toBeGreaterThan(150);
  expect(slope).toBeLessThan(250);
});

test("memory that could not be read is not flat", () => {
  expect(judgeFlatness([]).isFlat).toBe(false);
  expect(judgeFlatness([{ requests: 0, bytes: Number.NaN }]).isFlat).toBe(false);
});

test("a number that could not be measured counts as not met, and says why", () => {
  const verdict = judge({ what: "decode", unit: "× peer", atLeast: 1 }, Number.NaN, "the peer could not be run here");
  expect(verdict.met).toBe(false);
  expect(goalTable("number", [verdict])).toContain(
    "| decode | ≥ 1 × peer | – | **no** | the peer could not be run here |",
  );
});

test("a number is met on its own side of the bound, the bound included", () => {
  const ratio = { what: "x", unit: "×", atLeast: 2 };
  expect([1.99, 2, 3].map((measured) => judge(ratio, measured, "").met)).toEqual([false, true, true]);
  const share = { what: "x", unit: "×", atMost: 0.15 };
  expect([0.1, 0.15, 0.16].map((measured) => judge(share, measured, "").met)).toEqual([true, true, false]);
});

test("the rate of a group counts only while every stream decodes", () => {
  // Until 100 the second has no token yet; from 500 the first has ended.
  const arrivals = [
    [10, 100, 200, 300, 400, 500],
    [100, 300, 500, 700, 900],
  ];
  expect(streamFigures({ arrivals })).toEqual({ "TTFT ms": 55, "tokens/s": (6 / 400) * 1000 });
  const apart = [
    [1, 2],
    [3, 4],
  ];
  expect(streamFigures({ arrivals: apart })["tokens/s"]).toBeNaN();
});

test("a quantile lies between the two closest ranks", () => {
  expect(quantile([4, 1, 3, 2], 0.5)).toBe(2.5);
  expect(quantile([1, 2, 3, 4, 5], 0.99)).toBeCloseTo(4.96);
  expect(quantile([], 0.5)).toBeNaN();
});

test("a soak asks the same questions again, of every kind", () => {
  const questions = drawMany();
  expect(drawMany()).toEqual(questions);
  expect(new Set(questions.map(({ kind }) => kind)).size).toBe(16);
});

function drawMany() {
  const random = createRandom(1);
  return Array.from({ length: 1_000 }, () => drawQuestion(random, { model: "m", contextTokens: 256 }));
}

test("an open loop charges a slow server for the requests that had to wait, too", async () => {
  // One connection, each answer after 40 ms, a request due each 20: the last of two seconds waits for two more.
  const url = await listen((request, response) => {
    request.resume();
    setTimeout(() => response.end("an answer in two pieces".repeat(4_000)), 40);
  });
  const figures = await openLoop({ url, headers: {}, body: "?" }, { perSecond: 50, seconds: 1, connections: 1 });
  expect(figures["p99 ms"]).toBeGreaterThan(1_500);
  expect(figures["p50 ms"]).toBeGreaterThan(1_000);
  expect(figures["requests/s"]).toBeLessThan(30);
});

test("an open loop fails when an answer is an error, or the server goes away", async () => {
  const refused = askOnce((_request, response) => {
    response.writeHead(503, { "content-length": 0 }).end();
  });
  const cut = askOnce((request) => request.socket.destroy());
  expect(await refused).toContain("the server answered 503");
  expect(await cut).toContain("closed");
});

async function askOnce(listener: RequestListener): Promise<string> {
  const target = { url: await listen(listener), headers: {}, body: "?" };
  return openLoop(target, { perSecond: 10, seconds: 1, connections: 1 }).then(String, String);
}

async function listen(listener: RequestListener): Promise<string> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  return `http://127.0.0.1:${typeof address === "object" ? address?.port : 0}/`;
}

test("traffic comes as often as it is to, at times that know nothing of each other, and asks what is new as often as said", () => {
  const arrivals = planTraffic(createRandom(3), { coldShare: 0.1, perSecond: 40, seconds: 250 });
  expect(arrivals.length).toBeGreaterThan(9_700);
  expect(arrivals.length).toBeLessThan(10_300);
  const gaps = arrivals.slice(1).map(({ dueMs }, index) => dueMs - (arrivals[index]?.dueMs ?? 0));
  expect(Math.min(...gaps)).toBeGreaterThanOrEqual(0);
  // Of an exponential distribution, e⁻² lie beyond twice the mean.
  const long = gaps.filter((gap) => gap > 50).length / gaps.length;
  expect(long).toBeGreaterThan(0.12);
  expect(long).toBeLessThan(0.15);
  const asked = Map.groupBy(arrivals, ({ question }) => question);
  const once = [...asked.values()].filter(({ length }) => length === 1).length;
  expect(once / arrivals.length).toBeGreaterThan(0.09);
  expect(once / arrivals.length).toBeLessThan(0.11);
  expect(asked.size - once).toBe(40);
});

test("a request that failed counts as an error and in no time", () => {
  const hit = { cache: "HIT", firstMs: 2, totalMs: 4 };
  const miss = { cache: "MISS", firstMs: 100, totalMs: 400 };
  expect(trafficFigures([hit, hit, undefined, miss])).toEqual({
    requests: 4,
    "of the model %": 100 / 3,
    "mean ms": 136,
    "p50 ms": 4,
    "p99 ms": 4 + 396 * 0.98,
    "first text, mean ms": 104 / 3,
    "first text, p99 ms": 2 + 98 * 0.98,
    "cold, first text p50 ms": 100,
    "cold, p50 ms": 400,
    "errors %": 25,
  });
});
