/**
 * Hits and misses on `workerd serve`, with everything switched on (token check, limits, lookup, decryption, log), beside
 * the floors they can't get under, on the same workerd: a bare worker that reads the body, hashes it and answers from a
 * Map, for a hit in the isolate; one that also makes one fetch to the same redis-rest, for a hit of the region, where a
 * second edge whose isolate keeps no answers asks; and the origin itself, a mock that costs nothing, for a miss. And
 * beside @portkey-ai/gateway passing through to that mock.
 *
 * Rounds are interleaved; figures are medians. The load generator, workerd, redis-rest and Redis share the machine's
 * cores: ratios hold elsewhere, absolute figures do not.
 */
import type { Stack } from "../../infra/launch/stack.ts";
import { type RunningWorker, startBareWorker, startEdgeWorker } from "./edge-workers.ts";
import { isolateMemoryRow } from "./isolate-memory.ts";
import { type LoadFigures, type LoadTarget, openLoad } from "./load.ts";
import { MOCK_MODEL, PIECE_BY_PIECE, startMockOrigin } from "./mock-origin.ts";
import { openLoop } from "./open-loop.ts";
import { startPortkey } from "./portkey.ts";
import { median, medianRatio, medianRow, type Row } from "./report.ts";

const ROUNDS = 3;
const SECONDS = 4;
const CONNECTIONS = [1, 32] as const;
/** Misses a round, one after the other: each stores and settles, so there must be enough of them for a median. */
const MISSES = 400;
/** Streamed misses a round. */
const FIRST_CHUNKS = 100;
/** Shares of the isolate hits' closed-loop maximum at which the open loop asks. */
const RATES = [0.25, 0.5] as const;

const LABELS = {
  isolate: "coldpath, isolate hit",
  bare: "bare worker",
  region: "coldpath, regional hit",
  fetch: "bare worker, one fetch to redis-rest",
  portkey: "@portkey-ai/gateway, passing through",
} as const;
type Side = keyof typeof LABELS;
const SIDES = Object.keys(LABELS) as Side[];

export interface EdgeReport {
  readonly rows: readonly Row[];
  /** Medians of the rounds' ratios of requests a second, and what a miss adds. */
  readonly ratios: Readonly<Record<string, number>>;
}

/** Warms one prompt up and then asks for nothing else, except where misses are measured. */
export async function benchEdge(stack: Stack): Promise<EdgeReport> {
  const load = await openLoad();
  await using origin = await startMockOrigin();
  await using bare = await startBareWorker(stack);
  const settings = { COLDPATH_ORIGIN_URL: origin.url };
  await using isolate = await startEdgeWorker(stack, "isolate", settings);
  await using region = await startEdgeWorker(stack, "region", { ...settings, COLDPATH_ISOLATE_ANSWER_BYTES_MAX: "0" });
  const headers = {
    "content-type": "application/json",
    authorization: `Bearer ${await stack.token({ sub: "bench", plan: "bench", expiresInSeconds: 3_600 })}`,
  };
  const body = question(0);
  await using portkey = await startPortkey({ originUrl: origin.url, body, folder: stack.folder });
  const edge = ({ url }: RunningWorker): LoadTarget => ({ url: `${url}/v1/chat/completions`, headers, body });
  const targets: Readonly<Record<Side, LoadTarget>> = {
    isolate: edge(isolate),
    bare: { url: `${bare.url}/memory`, headers, body },
    region: edge(region),
    fetch: { url: `${bare.url}/regional`, headers, body },
    portkey: portkey.target,
  };
  await warmUp(targets.isolate, "isolate");
  await warmUp(targets.region, "regional");

  const rounds: Record<Side, Record<number, LoadFigures>[]> = {
    isolate: [],
    bare: [],
    region: [],
    fetch: [],
    portkey: [],
  };
  const added: number[] = [];
  const firsts: number[] = [];
  // Round 0 lets V8 compile all sides and is dropped.
  for (let round = 0; round <= ROUNDS; round++) {
    for (const side of SIDES) {
      const figures: Record<number, LoadFigures> = {};
      for (const connections of CONNECTIONS)
        figures[connections] = await load(targets[side], { connections, seconds: round === 0 ? 1 : SECONDS });
      if (round > 0) rounds[side].push(figures);
    }
    const ms = await missCost(targets.isolate, { ...targets.isolate, url: `${origin.url}/v1/chat/completions` }, round);
    const firstMs = await firstChunkMs(targets.isolate, round);
    if (round > 0) {
      added.push(ms);
      firsts.push(firstMs);
    }
  }
  const most = median(rounds.isolate.map((figures) => figures[32]?.["requests/s"] ?? Number.NaN));
  const open: Row[] = [];
  for (const share of RATES) {
    const options = { perSecond: Math.round(most * share), seconds: SECONDS, connections: 128 };
    open.push({
      label: `${LABELS.isolate}, open loop at ${share} of the most`,
      figures: await openLoop(targets.isolate, options),
    });
  }
  const { rows, ratios } = report(rounds);
  return {
    rows: [...rows, ...open, await isolateMemoryRow()],
    ratios: {
      ...ratios,
      "ms that a miss adds, p50, 1 connection": median(added),
      "ms from the origin's first chunk to the client's, p50": median(firsts),
    },
  };
}

function report(rounds: Readonly<Record<Side, readonly Record<number, LoadFigures>[]>>): EdgeReport {
  const of = (side: Side, connections: number): LoadFigures[] =>
    rounds[side].flatMap((figures) => figures[connections] ?? []);
  const ratio = (side: Side, baseline: Side, connections: number): number =>
    medianRatio(
      of(side, connections).map((hit) => hit["requests/s"]),
      of(baseline, connections).map((floor) => floor["requests/s"]),
    );
  return {
    rows: CONNECTIONS.flatMap((connections) =>
      SIDES.map((side) => medianRow(`${LABELS[side]}, ${connections} connections`, of(side, connections))),
    ),
    ratios: {
      ...Object.fromEntries(
        CONNECTIONS.flatMap((connections) => [
          [`isolate hit against a bare worker, ${connections} connections`, ratio("isolate", "bare", connections)],
          [`regional hit against one fetch, ${connections} connections`, ratio("region", "fetch", connections)],
        ]),
      ),
      "isolate hit against portkey, 32 connections": ratio("isolate", "portkey", 32),
      "regional hit against portkey, 32 connections": ratio("region", "portkey", 32),
    },
  };
}

/** About a kilobyte; another number is another question. */
function question(number: number): string {
  return JSON.stringify({
    model: MOCK_MODEL,
    messages: [{ role: "user", content: `Say something about the sea, ${number}. ${"Be brief. ".repeat(90)}` }],
    max_tokens: 64,
  });
}

/** The median time of a cold question, less that of asking the origin itself, one after the other. */
async function missCost(edge: LoadTarget, origin: LoadTarget, round: number): Promise<number> {
  const times: Record<"edge" | "origin", number[]> = { edge: [], origin: [] };
  for (let miss = 1; miss <= MISSES; miss++) {
    const body = question(round * MISSES + miss);
    times.origin.push(await timed({ ...origin, body: body.replace(/}$/, ',"stream":true}') }));
    times.edge.push(await timed({ ...edge, body }, "MISS"));
  }
  return median(times.edge) - median(times.origin);
}

/**
 * The median time from the origin's writing of a stream's first chunk to its client's reading of it. The second comes so
 * much later that an edge which collected the answer would be seen at once.
 */
async function firstChunkMs({ url, headers }: LoadTarget, round: number): Promise<number> {
  const times: number[] = [];
  for (let asked = 0; asked < FIRST_CHUNKS; asked++) {
    const content = `${PIECE_BY_PIECE}, ${round}.${asked}`;
    const body = JSON.stringify({ model: MOCK_MODEL, stream: true, messages: [{ role: "user", content }] });
    const response = await fetch(url, { method: "POST", headers, body });
    let text = "";
    for await (const chunk of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
      text += chunk;
      const sentMs = /"content":"([\d.]+)"/.exec(text)?.[1];
      if (sentMs === undefined) continue;
      times.push(performance.now() - Number(sentMs));
      text = "";
    }
  }
  if (times.length !== FIRST_CHUNKS) throw new Error("a stream without its first chunk");
  return median(times);
}

async function timed({ url, headers, body }: LoadTarget, cache?: string): Promise<number> {
  const startMs = performance.now();
  const response = await fetch(url, { method: "POST", headers, body });
  await response.arrayBuffer();
  const ms = performance.now() - startMs;
  if (!response.ok || (cache !== undefined && response.headers.get("x-cache") !== cache)) {
    throw new Error(`${url} answered ${response.status}, ${response.headers.get("x-cache")} instead of ${cache}`);
  }
  return ms;
}

/** The first asking is the miss; in the end it must be a hit of the tier, or the benchmark would measure another. */
async function warmUp({ url, headers, body }: LoadTarget, tier: string): Promise<void> {
  let outcome: string | null = null;
  for (let asked = 0; asked < 20; asked++) {
    const response = await fetch(url, { method: "POST", headers, body });
    if (!response.ok) throw new Error(`the edge answered ${response.status}: ${await response.text()}`);
    await response.arrayBuffer();
    outcome = response.headers.get("x-cache-tier");
  }
  if (outcome !== tier) throw new Error(`after twenty askings the answer came from ${outcome}, not from ${tier}`);
}
