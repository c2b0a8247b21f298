/**
 * The regional store fails in earnest: a Redis that is slow, hangs, is full, talks nonsense, restarts with nothing in it,
 * and a redis-rest that is gone; on both self-hosted platforms, through a wire that the test holds. Each request is
 * answered within the time that is given, and the outcome is named in a header, a log line and a metric.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createClient } from "redis";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { issueToken } from "../../infra/issue-token.ts";
import type { EdgePlatform } from "../../infra/launch/edge-fleet.ts";
import { type Guard, startGuard } from "../../infra/launch/guard.ts";
import { type RedisRest, startRedisRest } from "../../infra/redis-rest/serve.ts";
import { provideRedis, type RedisServer } from "../../infra/redis.ts";
import { ORIGIN_SECRET } from "../edge/fake-origin.ts";
import { type SelfHostedEdge, startSelfHosted } from "../setup/edges.ts";
import { type ListeningOrigin, startFakeOrigin } from "../setup/listening-origin.ts";
import { type Address, Wire } from "../setup/wire.ts";

const JWT_SECRET = "a token secret of more than 32 bytes";
const PASSWORD = "0123456789abcdef";
/** Two slow answers take longer than that, one does not. */
const TIMEOUT_MS = 1_200;
const SLOW_MS = 700;
/** Longer than two requests take that need not wait for the store. */
const PAUSE_MS = 5_000;
/** Beyond the time that a request waits for the store: all else that a busy machine does for it. */
const MARGIN_MS = 5_000;
const REST_TOKEN = "0123456789abcdef".repeat(3);

/** An edge with a Redis of its own, and the wires between. */
interface World {
  readonly platform: EdgePlatform;
  redis: RedisServer;
  /** To Redis, from the edge on Node, and from redis-rest for the one on workerd. */
  readonly wire: Wire;
  readonly rest: RedisRest;
  readonly restWire: Wire;
  readonly edge: SelfHostedEdge;
  readonly token: string;
  asked: number;
}

let fake: ListeningOrigin;
let guard: Guard;
let folder: string;
const worlds: World[] = [];

beforeAll(async () => {
  fake = await startFakeOrigin();
  guard = startGuard();
  folder = await mkdtemp(join(tmpdir(), "coldpath-store-"));
  worlds.push(...(await Promise.all([startWorld("workerd"), startWorld("node")])));
});
afterAll(async () => {
  for (const { edge, restWire, rest, wire, redis } of worlds) {
    await edge.stop();
    restWire.close();
    await rest.close();
    wire.close();
    await redis.part?.stop(2_000);
  }
  await fake.stop();
  guard.close();
  await rm(folder, { recursive: true });
});

async function startRedis(name: string): Promise<RedisServer> {
  const redis = await provideRedis({
    redisUrl: undefined,
    password: PASSWORD,
    memoryBytes: 64 * 1024 * 1024,
    folder: join(folder, name),
    env: process.env,
    guard,
    say: (line) => console.error(line),
  });
  if (redis === null) throw new Error("the tests need a real Redis: install redis-server or valkey-server");
  return redis;
}

function addressOf(url: string): Address {
  const { hostname: host, port } = new URL(url);
  return { host, port: Number(port) };
}

async function startWorld(platform: EdgePlatform): Promise<World> {
  const redis = await startRedis(platform);
  const wire = new Wire(addressOf(redis.url));
  const redisUrl = `redis://:${PASSWORD}@127.0.0.1:${(await wire.open()).port}`;
  const rest = await startRedisRest({
    host: "127.0.0.1",
    port: 0,
    token: REST_TOKEN,
    redisUrl,
    timeoutMs: 20_000,
    bodyBytesMax: 4 * 1024 * 1024,
    pipelineCommandsMax: 1_000,
    pendingCommandsMax: 10_000,
    log: () => {},
  });
  const restWire = new Wire(addressOf(rest.url));
  const edge = await startSelfHosted(
    platform,
    {
      COLDPATH_ORIGIN_URL: fake.url,
      COLDPATH_ORIGIN_SECRET: ORIGIN_SECRET,
      COLDPATH_CACHE_SECRET: "a cache secret of more than 32 bytes",
      COLDPATH_JWT_SECRET: JWT_SECRET,
      COLDPATH_REDIS_REST_URL: `http://127.0.0.1:${(await restWire.open()).port}`,
      COLDPATH_REDIS_REST_TOKEN: REST_TOKEN,
      COLDPATH_REDIS_URL: redisUrl,
      COLDPATH_STORE_TIMEOUT_MS: String(TIMEOUT_MS),
      COLDPATH_STORE_PAUSE_MS: String(PAUSE_MS),
      // Nothing behind a request may be what is counted.
      COLDPATH_ASKED_MAX: "0",
      COLDPATH_PLANS: '{"default":{"requestsPerMinute":100000,"tokensPerMinute":100000000,"streamsMax":100}}',
    },
    1,
  );
  const nowSeconds = Math.floor(Date.now() / 1000);
  const token = await issueToken({ sub: "alice", scope: ["chat", "admin"] }, { secret: JWT_SECRET, nowSeconds });
  return { platform, redis, wire, rest, restWire, edge, token, asked: 0 };
}

/** Tells the Redis itself, around the wire. */
async function tell({ redis }: World, ...commands: readonly (readonly string[])[]): Promise<void> {
  const client = await createClient({ url: redis.url }).connect();
  for (const command of commands) await client.sendCommand(command);
  client.destroy();
}

async function figure({ edge, token }: World, series: string): Promise<number> {
  const text = await (await fetch(`${edge.url}/metrics`, { headers: { authorization: `Bearer ${token}` } })).text();
  const line = text.split("\n").find((candidate) => candidate.startsWith(`coldpath_edge_${series}`));
  return Number(line?.split(" ").at(-1) ?? 0);
}

interface Outcome {
  readonly cache: string | null;
  readonly degraded: string | null;
  readonly logged: unknown;
  readonly cause: unknown;
}

/** Asks, and sees to it that header, log line and metric agree and that nobody waited too long. */
async function ask(world: World, content = `question ${(world.asked += 1)}`): Promise<Outcome> {
  const { edge, token } = world;
  const requestId = crypto.randomUUID();
  const counter = 'degraded_total{outcome="limiter-unreachable"';
  const before = await figure(world, counter);
  const startedMs = performance.now();
  const response = await fetch(`${edge.url}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}`, "x-request-id": requestId },
    body: JSON.stringify({ model: "tiny", messages: [{ role: "user", content }] }),
  });
  expect([response.status, await response.text()]).toEqual([200, expect.stringContaining("Cold")]);
  expect(performance.now() - startedMs).toBeLessThan(TIMEOUT_MS + MARGIN_MS);
  const degraded = response.headers.get("x-degraded");
  const line = await vi.waitFor(
    async () => {
      const found = (await edge.logs()).find((logged) => logged["requestId"] === requestId);
      if (found === undefined) throw new Error("it was not logged");
      return found;
    },
    { timeout: 2 * TIMEOUT_MS + MARGIN_MS, interval: 50 },
  );
  const { degraded: logged = null, cause } = line;
  const times = (await figure(world, counter)) - before;
  // What only comes out behind the answer is in no header.
  const said = logged === "limiter-unreachable" ? logged : null;
  expect([said, times]).toEqual([degraded, degraded === null ? 0 : 1]);
  return { cache: response.headers.get("x-cache"), degraded, logged, cause };
}

/** Both platforms at once, each until it is well again. */
async function onEach(run: (world: World) => Promise<void>): Promise<void> {
  const ended = await Promise.allSettled(
    worlds.map(async (world) => {
      await run(world);
      const { wire } = world;
      Object.assign(wire, { delayMs: 0, held: false, nonsense: undefined });
      wire.cut();
      await vi.waitFor(async () => expect((await ask(world)).degraded).toBeNull(), { timeout: 30_000, interval: 100 });
    }),
  );
  const failure = ended.find((end) => end.status === "rejected");
  if (failure !== undefined) throw failure.reason;
}

const AWAY = { cache: "BYPASS", degraded: "limiter-unreachable" };

test("a slow Redis that forgot its scripts is waited for once, and asked again by the next", () =>
  onEach(async (world) => {
    await ask(world);
    await tell(world, ["SCRIPT", "FLUSH"]);
    world.wire.delayMs = SLOW_MS;
    expect(await ask(world)).toMatchObject({ ...AWAY, cause: expect.stringContaining("timeout") });
    // By now it knows the script, and one slow answer is in time, if the machine is not too busy; to keep the answer
    // takes another one that it forgot.
    const next = await vi.waitFor(
      async () => {
        const outcome = await ask(world);
        expect(outcome.degraded).toBeNull();
        return outcome;
      },
      { timeout: 30_000 },
    );
    expect(next).toMatchObject({ cache: "MISS", logged: "not-settled" });
  }));

const FULL = ["CONFIG", "SET", "maxmemory", "1", "maxmemory-policy", "noeviction"];

test("a Redis that fills up while the answer is made refuses to keep it, and settles all the same", async () => {
  for (const world of worlds) {
    fake.origin.script.meanwhile = () => tell(world, FULL);
    expect(await ask(world)).toMatchObject({ cache: "MISS", degraded: null, logged: "answer-not-stored" });
    fake.origin.script.meanwhile = undefined;
    await tell(world, ["CONFIG", "SET", "maxmemory", "0"]);
  }
});

test("a full Redis costs limits and cache, not the answer", () =>
  onEach(async (world) => {
    await tell(world, FULL);
    expect(await ask(world)).toMatchObject({ ...AWAY, cause: expect.stringContaining("OOM") });
    await tell(world, ["CONFIG", "SET", "maxmemory", "0"]);
    expect(await ask(world, "room again")).toMatchObject({ cache: "MISS", degraded: null });
    expect(await ask(world, "room again")).toMatchObject({ cache: "HIT", degraded: null });
  }));

test("a Redis that talks nonsense is one that is away", () =>
  onEach(async (world) => {
    world.wire.nonsense = "HTTP/1.1 400 Bad Request\r\n\r\n";
    for (let time = 0; time < 2; time += 1) expect(await ask(world)).toMatchObject(AWAY);
  }));

test("a Redis that was restarted with nothing in it is found again", () =>
  onEach(async (world) => {
    expect(await ask(world, "before")).toMatchObject({ cache: "MISS" });
    expect(await ask(world, "before")).toMatchObject({ cache: "HIT" });
    await world.redis.part?.stop(0);
    expect(await ask(world, "between")).toMatchObject(AWAY);
    world.redis = await startRedis(`${world.platform}-again`);
    world.wire.target = addressOf(world.redis.url);
    await vi.waitFor(async () => expect((await ask(world)).degraded).toBeNull(), { timeout: 30_000, interval: 100 });
    expect(await ask(world, "after")).toMatchObject({ cache: "MISS", degraded: null });
    expect(await ask(world, "after")).toMatchObject({ cache: "HIT", degraded: null });
  }));

test("without redis-rest the edge on workerd answers all the same", async () => {
  const world = worlds.find(({ platform }) => platform === "workerd");
  if (world === undefined) throw new Error("unreachable");
  const { port } = world.restWire;
  world.restWire.close();
  expect(await ask(world)).toMatchObject({ ...AWAY, cause: expect.stringContaining("unreachable") });
  await world.restWire.open(port);
  await vi.waitFor(async () => expect((await ask(world)).degraded).toBeNull(), { timeout: 30_000, interval: 100 });
});

test("a Redis that hangs is waited for three times in a row, then by nobody", async () => {
  await Promise.all(
    worlds.map(async (world) => {
      expect(await figure(world, "store_shut")).toBe(0);
      world.wire.held = true;
      const outcomes: Outcome[] = [];
      for (let time = 0; time < 5; time += 1) outcomes.push(await ask(world));
      for (const outcome of outcomes) expect(outcome).toMatchObject(AWAY);
      expect(outcomes.at(-1)?.cause).toContain("it was silent lately");
      expect(await figure(world, "store_shut")).toBe(1);
    }),
  );
});
