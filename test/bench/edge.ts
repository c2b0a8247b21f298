/**
 * The numbers that issue 4 asks for, with everything switched on (token check, limits, lookup, decryption, log): hits of
 * both tiers on `workerd serve` and on Node, beside the floors they can't get under (edge-sides.ts); misses beside the
 * origin itself; hits at fixed open-loop rates; redis-rest beside redis-benchmark.
 *
 * Rounds are interleaved; figures are medians, and a ratio is the median of the rounds' ratios. The load generator, the
 * servers, redis-rest and Redis share the machine's cores: ratios hold elsewhere, absolute figures do not. The CPU time
 * that each process spends on a request shows where the time goes, also on a machine that is not quiet.
 */
import type { Stack } from "../../infra/launch/stack.ts";
import { cpuMicroseconds, waitedForCoreMs } from "./cpu-time.ts";
import { judgeEdge } from "./edge-verdicts.ts";
import { question, type Side, SIDES, startSides, type Target } from "./edge-sides.ts";
import type { Verdict } from "./goals.ts";
import { isolateMemoryRow } from "./isolate-memory.ts";
import { type Load, type LoadFigures, type LoadTarget, openLoad } from "./load.ts";
import { MOCK_MODEL, PIECE_BY_PIECE } from "./mock-origin.ts";
import { openLoop, type OpenLoopFigures } from "./open-loop.ts";
import { type RedisRestRound, redisRestRound } from "./redis-rest.ts";
import { median, medianRow, type Row } from "./report.ts";

const ROUNDS = 4;
const QUICK_ROUNDS = 2;
const SECONDS = 3;
/** Before them: a fresh edge on Node needs 40,000 requests until V8 has compiled it, and takes twice the time until then. */
const WARM_UP_SECONDS = 6;
const CONNECTIONS = 32;
/** Misses a round, one after the other: each stores and settles, so there must be enough of them for a median. */
const MISSES = 200;
/** Before them, likewise: the first few hundred take twice the time of those after some 1,500. */
const WARM_UP_MISSES = 1_500;
/** Streamed misses a round. */
const FIRST_CHUNKS = 50;
/** Shares of the isolate hits' closed-loop maximum at which the open loop asks. */
const RATES = [0.25, 0.5] as const;
/** Interleaved, and many: a window of 5 s had anything from 5 to 190 ms as its p99, on either side, for the machine's sake. */
const OPEN_ROUNDS = 5;
const OPEN_SECONDS = 2;
const OPEN_LOOPS = [
  ["workerdIsolate", "workerdBare"],
  ["nodeIsolate", "nodeBare"],
] as const;
const SIDE_NAMES = Object.keys(SIDES) as Side[];
/** The edges that are asked what nobody knows. */
export const MISSING = ["workerdIsolate", "nodeIsolate"] as const;
type Missing = (typeof MISSING)[number];

/** A round on one side; the times are CPU time a request. */
export type SideFigures = LoadFigures & {
  readonly "server µs": number;
  readonly "redis-rest µs": number;
  readonly "Redis µs": number;
};

/** With the shares of the time in which the server computed, and in which it could have and had no core. */
type OpenLoopRow = OpenLoopFigures & { readonly "server busy %": number; readonly "without a core %": number };

/** Round by round. */
interface OpenLoopSide {
  readonly label: string;
  readonly rounds: readonly OpenLoopRow[];
}

/** Round by round. */
export interface EdgeRounds {
  readonly sides: Readonly<Record<Side, readonly SideFigures[]>>;
  readonly missAddsMs: Readonly<Record<Missing, readonly number[]>>;
  readonly firstChunkMs: readonly number[];
  readonly redisRest: readonly RedisRestRound[];
  /** The hits of one platform at one share of its most, and its bare program at the same rate. */
  readonly openLoop: readonly {
    readonly share: number;
    readonly hits: OpenLoopSide;
    readonly bare: OpenLoopSide;
  }[];
}

export interface EdgeReport {
  readonly verdicts: readonly Verdict[];
  readonly rows: readonly Row[];
}

/** @param options - `quick`: two rounds instead of four */
export async function benchEdge(stack: Stack, options: { readonly quick: boolean }): Promise<EdgeReport> {
  const roundsMax = options.quick ? QUICK_ROUNDS : ROUNDS;
  const load = await openLoad();
  await using cleanup = new AsyncDisposableStack();
  const { targets, originUrl } = await startSides(stack, cleanup);
  const sides = Object.fromEntries(SIDE_NAMES.map((side) => [side, [] as SideFigures[]])) as Record<
    Side,
    SideFigures[]
  >;
  const missAddsMs: Record<Missing, number[]> = { workerdIsolate: [], nodeIsolate: [] };
  const firsts: number[] = [];
  const redisRest: RedisRestRound[] = [];
  let missed = 0;
  const origin = { ...targets.workerdIsolate, url: `${originUrl}/v1/chat/completions` };
  // Round 0 warms all sides up and is dropped.
  for (let round = 0; round <= roundsMax; round++) {
    const seconds = round === 0 ? WARM_UP_SECONDS : SECONDS;
    for (const side of SIDE_NAMES) {
      const figures = await measureSide(load, stack, targets[side], seconds);
      if (round > 0) sides[side].push(figures);
    }
    const misses = round === 0 ? WARM_UP_MISSES : MISSES;
    const missMs = await missCosts(targets, origin, { after: missed, misses });
    missed += misses;
    const firstMs = await firstChunkMs(targets.workerdIsolate, round);
    const rest = await redisRestRound(stack, load, { connections: CONNECTIONS, seconds: 1 });
    if (round === 0) continue;
    for (const side of MISSING) missAddsMs[side].push(missMs[side]);
    firsts.push(firstMs);
    redisRest.push(rest);
  }
  const open = await openLoops(targets, sides);
  const rounds: EdgeRounds = { sides, missAddsMs, firstChunkMs: firsts, redisRest, openLoop: open };
  const closedRows = SIDE_NAMES.map((side) => medianRow(`${SIDES[side]}, ${CONNECTIONS} connections`, sides[side]));
  const openRows = open.flatMap(({ hits, bare }) => [hits, bare]).map((side) => medianRow(side.label, side.rounds));
  return { verdicts: judgeEdge(rounds), rows: [...closedRows, ...openRows, await isolateMemoryRow()] };
}

async function measureSide(load: Load, stack: Stack, target: Target, seconds: number): Promise<SideFigures> {
  const { redisRest, redis } = stack.parts;
  const pids = [target.pid, redisRest?.pid, redis?.pid];
  const before = pids.map(cpuMicroseconds);
  const figures = await load(target, { connections: CONNECTIONS, seconds });
  const [server = Number.NaN, rest = Number.NaN, store = Number.NaN] = pids.map(
    (pid, index) => (cpuMicroseconds(pid) - (before[index] ?? Number.NaN)) / (figures["requests/s"] * seconds),
  );
  return { ...figures, "server µs": server, "redis-rest µs": rest, "Redis µs": store };
}

/** Each edge's hits, and its bare program at the very same rates: what of a tail is the platform's and the machine's. */
async function openLoops(
  targets: Readonly<Record<Side, Target>>,
  sides: EdgeRounds["sides"],
): Promise<EdgeRounds["openLoop"]> {
  const measured: EdgeRounds["openLoop"][number][] = [];
  for (const [side, bare] of OPEN_LOOPS) {
    const most = median(sides[side].map((figures) => figures["requests/s"]));
    for (const share of RATES) {
      const perSecond = Math.round(most * share);
      const rounds: { readonly hits: OpenLoopRow[]; readonly bare: OpenLoopRow[] } = { hits: [], bare: [] };
      for (let round = 0; round < OPEN_ROUNDS; round++) {
        rounds.hits.push(await openLoopOf(targets[side], perSecond));
        rounds.bare.push(await openLoopOf(targets[bare], perSecond));
      }
      measured.push({
        share,
        hits: { label: `${SIDES[side]}, open loop at ${share} of the most`, rounds: rounds.hits },
        bare: { label: `${SIDES[bare]}, at that rate`, rounds: rounds.bare },
      });
    }
  }
  return measured;
}

async function openLoopOf(target: Target, perSecond: number): Promise<OpenLoopRow> {
  const [startMs, waitedMs, busyUs] = [performance.now(), waitedForCoreMs(target.pid), cpuMicroseconds(target.pid)];
  const figures = await openLoop(target, { perSecond, seconds: OPEN_SECONDS, connections: 128 });
  const percent = (ms: number): number => (100 * ms) / (performance.now() - startMs);
  return {
    ...figures,
    "server busy %": percent((cpuMicroseconds(target.pid) - busyUs) / 1000),
    "without a core %": percent(waitedForCoreMs(target.pid) - waitedMs),
  };
}

/** The median time of a cold question to each edge, less that of asking the origin itself, one after the other. */
async function missCosts(
  edges: Readonly<Record<Missing, LoadTarget>>,
  origin: LoadTarget,
  { after, misses }: { readonly after: number; readonly misses: number },
): Promise<Record<Missing, number>> {
  const times: Record<Missing | "origin", number[]> = { workerdIsolate: [], nodeIsolate: [], origin: [] };
  for (let miss = 0; miss < misses; miss++) {
    // Each edge is asked what the other has not stored; 0 is what the hits ask.
    const number = (after + miss) * MISSING.length + 1;
    times.origin.push(await timed({ ...origin, body: question(number).replace(/}$/, ',"stream":true}') }));
    for (const [index, side] of MISSING.entries()) {
      times[side].push(await timed({ ...edges[side], body: question(number + index) }, "MISS"));
    }
  }
  const added = (side: Missing): number => median(times[side]) - median(times.origin);
  return { workerdIsolate: added("workerdIsolate"), nodeIsolate: added("nodeIsolate") };
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
