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
import { cpuMicroseconds } from "./cpu-time.ts";
import { judgeEdge } from "./edge-verdicts.ts";
import { question, type Side, SIDES, startSides, type Target } from "./edge-sides.ts";
import type { Verdict } from "./goals.ts";
import { isolateMemoryRow } from "./isolate-memory.ts";
import { type Load, type LoadFigures, type LoadTarget, openLoad } from "./load.ts";
import { MOCK_MODEL, PIECE_BY_PIECE } from "./mock-origin.ts";
import { openLoop } from "./open-loop.ts";
import { type RedisRestRound, redisRestRound } from "./redis-rest.ts";
import { median, medianRow, type Row } from "./report.ts";

const ROUNDS = 4;
const SECONDS = 3;
const CONNECTIONS = 32;
/** Misses a round, one after the other: each stores and settles, so there must be enough of them for a median. */
const MISSES = 200;
/** Streamed misses a round. */
const FIRST_CHUNKS = 50;
/** Shares of the isolate hits' closed-loop maximum at which the open loop asks. */
const RATES = [0.25, 0.5] as const;
const OPEN_SECONDS = 5;
const SIDE_NAMES = Object.keys(SIDES) as Side[];

/** A round on one side; the times are CPU time a request. */
export type SideFigures = LoadFigures & {
  readonly "server µs": number;
  readonly "redis-rest µs": number;
  readonly "Redis µs": number;
};

type OpenLoopFigures = Awaited<ReturnType<typeof openLoop>>;

/** Round by round. */
export interface EdgeRounds {
  readonly sides: Readonly<Record<Side, readonly SideFigures[]>>;
  readonly missAddsMs: readonly number[];
  readonly firstChunkMs: readonly number[];
  readonly redisRest: readonly RedisRestRound[];
  /** The hits of one platform at one share of its most; one a round. */
  readonly openLoop: readonly { readonly label: string; readonly share: number; readonly figures: OpenLoopFigures }[];
}

export interface EdgeReport {
  readonly verdicts: readonly Verdict[];
  readonly rows: readonly Row[];
}

export async function benchEdge(stack: Stack): Promise<EdgeReport> {
  const load = await openLoad();
  await using cleanup = new AsyncDisposableStack();
  const { targets, originUrl } = await startSides(stack, cleanup);
  const sides = Object.fromEntries(SIDE_NAMES.map((side) => [side, [] as SideFigures[]])) as Record<
    Side,
    SideFigures[]
  >;
  const missAddsMs: number[] = [];
  const firsts: number[] = [];
  const redisRest: RedisRestRound[] = [];
  const origin = { ...targets.workerdIsolate, url: `${originUrl}/v1/chat/completions` };
  // Round 0 lets V8 compile all sides and is dropped.
  for (let round = 0; round <= ROUNDS; round++) {
    const seconds = round === 0 ? 1 : SECONDS;
    for (const side of SIDE_NAMES) {
      const figures = await measureSide(load, stack, targets[side], seconds);
      if (round > 0) sides[side].push(figures);
    }
    const missMs = await missCost(targets.workerdIsolate, origin, round);
    const firstMs = await firstChunkMs(targets.workerdIsolate, round);
    const rest = await redisRestRound(stack, load, { connections: CONNECTIONS, seconds: 1 });
    if (round === 0) continue;
    missAddsMs.push(missMs);
    firsts.push(firstMs);
    redisRest.push(rest);
  }
  const open = await openLoops(targets, sides);
  const rounds: EdgeRounds = { sides, missAddsMs, firstChunkMs: firsts, redisRest, openLoop: open };
  const closedRows = SIDE_NAMES.map((side) => medianRow(`${SIDES[side]}, ${CONNECTIONS} connections`, sides[side]));
  const openRows = open.map(({ label, figures }) => ({ label, figures }));
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

async function openLoops(
  targets: Readonly<Record<Side, Target>>,
  sides: EdgeRounds["sides"],
): Promise<EdgeRounds["openLoop"]> {
  const measured: EdgeRounds["openLoop"][number][] = [];
  for (const side of ["workerdIsolate", "nodeIsolate"] as const) {
    const most = median(sides[side].map((figures) => figures["requests/s"]));
    for (const share of RATES) {
      const options = { perSecond: Math.round(most * share), seconds: OPEN_SECONDS, connections: 128 };
      const figures = await openLoop(targets[side], options);
      measured.push({ label: `${SIDES[side]}, open loop at ${share} of the most`, share, figures });
    }
  }
  return measured;
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
