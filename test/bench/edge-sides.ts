/**
 * Everything that the edge's benchmark compares, started once, each side one process: hits of both tiers on workerd and on
 * Node, the bare programs that are their floors, a gateway in wide use, and one origin that costs nothing. All ask the same
 * question and get an answer of the same length. A regional hit is had from an edge whose isolate keeps no answers.
 */
import { createHash } from "node:crypto";
import { join, resolve } from "node:path";
import { createClient } from "redis";
import { findFreePort } from "../../infra/launch/ports.ts";
import type { Stack } from "../../infra/launch/stack.ts";
import { startBareWorker, startEdgeWorker } from "./edge-workers.ts";
import type { LoadTarget } from "./load.ts";
import { MOCK_MODEL, startMockOrigin } from "./mock-origin.ts";
import { startPortkey } from "./portkey.ts";
import { type ServerProcess, startServer } from "./server-process.ts";

export const SIDES = {
  workerdIsolate: "workerd, isolate hit",
  workerdBare: "bare worker",
  workerdRegional: "workerd, regional hit",
  workerdFetch: "bare worker, one fetch to redis-rest",
  nodeIsolate: "Node, isolate hit",
  nodeBare: "bare Hono on Node",
  nodeRegional: "Node, regional hit",
  nodeRedis: "bare Hono on Node, one script in Redis",
  portkey: "@portkey-ai/gateway, passing through",
} as const;
export type Side = keyof typeof SIDES;

export interface Target extends LoadTarget {
  /** Of the process that answers. */
  readonly pid: number;
}

export interface EdgeSides {
  readonly targets: Readonly<Record<Side, Target>>;
  readonly originUrl: string;
}

const ROOT = resolve(import.meta.dirname, "../..");
const WITHOUT_ANSWERS = { COLDPATH_ISOLATE_ANSWER_BYTES_MAX: "0" };
const VALUE_KEY = "cp:bench:value";
/** What a look-up in one script can't do without. */
const SCRIPT = "return redis.call('GET', KEYS[1])";

/** Starts them one after the other and warms each up; what is started goes with `cleanup`. */
export async function startSides(stack: Stack, cleanup: AsyncDisposableStack): Promise<EdgeSides> {
  const { redisUrl } = stack;
  if (redisUrl === undefined) throw new Error("the benchmark needs a Redis");
  const origin = cleanup.use(await startMockOrigin());
  const headers = {
    "content-type": "application/json",
    authorization: `Bearer ${await stack.token({ sub: "bench", plan: "bench", expiresInSeconds: 3_600 })}`,
  };
  const body = question(0);
  const at = (path: string, { url, pid }: ServerProcess): Target => ({ url: url + path, headers, body, pid });
  const edge = (running: ServerProcess): Target => at("/v1/chat/completions", running);

  const settings = { COLDPATH_ORIGIN_URL: origin.url };
  const hits = {
    workerdIsolate: edge(cleanup.use(await startEdgeWorker(stack, "isolate", settings))),
    workerdRegional: edge(cleanup.use(await startEdgeWorker(stack, "region", { ...settings, ...WITHOUT_ANSWERS }))),
    nodeIsolate: edge(cleanup.use(await startNodeEdge(stack, settings))),
    nodeRegional: edge(cleanup.use(await startNodeEdge(stack, { ...settings, ...WITHOUT_ANSWERS }))),
  };
  const answer = await warmUp(hits.workerdIsolate, "isolate");
  await warmUp(hits.nodeIsolate, "isolate");
  await warmUp(hits.workerdRegional, "regional");
  await warmUp(hits.nodeRegional, "regional");

  const values = { BENCH_ANSWER: answer, ...(await prepareRedis(redisUrl)), BENCH_TOKEN: headers.authorization };
  const worker = cleanup.use(await startBareWorker(stack, values));
  const hono = cleanup.use(await startBareHono(stack, redisUrl, values));
  const portkey = cleanup.use(await startPortkey({ originUrl: origin.url, body, folder: stack.folder }));
  const targets = {
    ...hits,
    workerdBare: at("/memory", worker),
    workerdFetch: at("/regional", worker),
    nodeBare: at("/memory", hono),
    nodeRedis: at("/regional", hono),
    portkey: { ...portkey.target, pid: portkey.pid },
  };
  return { targets, originUrl: origin.url };
}

/** About a kilobyte; another number is another question. */
export function question(number: number): string {
  return JSON.stringify({
    model: MOCK_MODEL,
    messages: [{ role: "user", content: `Say something about the sea, ${number}. ${"Be brief. ".repeat(90)}` }],
    max_tokens: 64,
  });
}

/** Loads the bare programs' script, and keeps for it a value as long as the entry that the edges read. */
async function prepareRedis(url: string): Promise<{ readonly BENCH_SCRIPT: string; readonly BENCH_KEY: string }> {
  const redis = createClient({ url, RESP: 2 });
  await redis.connect();
  try {
    const [entry] = await redis.keys("cp:{*}:entry:*");
    if (entry === undefined) throw new Error("the region keeps no entry");
    await redis.set(VALUE_KEY, "x".repeat(await redis.strLen(entry)));
    await redis.scriptLoad(SCRIPT);
  } finally {
    redis.destroy();
  }
  return { BENCH_SCRIPT: createHash("sha1").update(SCRIPT).digest("hex"), BENCH_KEY: VALUE_KEY };
}

/**
 * The first asking is the miss; in the end it must be a hit of the tier, or the benchmark would measure another.
 *
 * @returns the answer
 */
async function warmUp({ url, headers, body }: LoadTarget, tier: string): Promise<string> {
  let found: string | null = null;
  let answer = "";
  for (let asked = 0; asked < 30; asked++) {
    const response = await fetch(url, { method: "POST", headers, body });
    answer = await response.text();
    if (!response.ok) throw new Error(`the edge answered ${response.status}: ${answer}`);
    found = response.headers.get("x-cache-tier");
  }
  if (found !== tier) throw new Error(`after thirty askings the answer came from ${found}, not from ${tier}`);
  return answer;
}

function startNodeEdge(stack: Stack, settings: Readonly<Record<string, string>>): Promise<ServerProcess> {
  const env = { ...stack.secrets, COLDPATH_REDIS_URL: stack.redisUrl, ...settings };
  const portEnv = "COLDPATH_EDGE_PORT";
  return startNode(stack, { name: "edge-node", file: "edge/entries/node/main.ts", env, portEnv });
}

function startBareHono(stack: Stack, redisUrl: string, env: Readonly<Record<string, string>>): Promise<ServerProcess> {
  const file = "test/bench/bare-hono.ts";
  return startNode(stack, {
    name: "bare-hono",
    file,
    env: { ...env, COLDPATH_REDIS_URL: redisUrl },
    portEnv: "PORT",
  });
}

interface NodeProgram {
  readonly name: string;
  /** From the repository's root. */
  readonly file: string;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The variable that takes the port. */
  readonly portEnv: string;
}

async function startNode(stack: Stack, { name, file, env, portEnv }: NodeProgram): Promise<ServerProcess> {
  const port = await findFreePort();
  return startServer({
    name,
    folder: stack.folder,
    command: process.execPath,
    args: [join(ROOT, file)],
    env: { ...process.env, ...env, [portEnv]: String(port) },
    port,
    readyPath: "/healthz",
    timeoutMs: 30_000,
  });
}
