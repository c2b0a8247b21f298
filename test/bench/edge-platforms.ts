/**
 * The same hit on the platforms one can host oneself, one process each: `workerd serve` with redis-rest, and Node with a
 * direct Redis connection, beside a bare Hono app on Node that does the same work. What it measures: on Node a request
 * costs a third of the CPU time, and a direct connection saves an HTTP round trip through a second process. Rounds are
 * interleaved; figures are medians. All of it shares the machine's cores: ratios hold elsewhere, absolute figures do not.
 */
import { join } from "node:path";
import { startGuard } from "../../infra/launch/guard.ts";
import { startPart } from "../../infra/launch/part.ts";
import { findFreePort } from "../../infra/launch/ports.ts";
import type { Stack } from "../../infra/launch/stack.ts";
import { waitUntilReady } from "../../infra/launch/wait-until-ready.ts";
import { startEdge } from "../setup/edges.ts";
import { type LoadFigures, type LoadTarget, openLoad } from "./load.ts";
import { medianRatio, medianRow, type Row } from "./report.ts";

const ROUNDS = 3;
const SECONDS = 4;
const CONNECTIONS = 32;
const LABELS = {
  workerd: "coldpath on workerd, regional hit",
  node: "coldpath on Node, regional hit",
  bare: "bare Hono on Node, one GET in Redis",
  memory: "bare Hono on Node, from memory",
} as const;
type Side = keyof typeof LABELS;

export interface PlatformsReport {
  readonly rows: readonly Row[];
  /** Medians of the rounds' ratios of requests a second. */
  readonly ratios: Readonly<Record<string, number>>;
}

/** Warms one prompt up and then asks for nothing else. */
export async function benchEdgePlatforms(stack: Stack, model: string): Promise<PlatformsReport> {
  const load = await openLoad();
  const redisUrl = stack.redisUrl;
  if (redisUrl === undefined) throw new Error("the benchmark needs a Redis");
  await using bare = await startBareHono(redisUrl, stack.folder);
  const settings = {
    ...stack.secrets,
    COLDPATH_ORIGIN_URL: stack.originUrl,
    COLDPATH_REDIS_URL: redisUrl,
    COLDPATH_REDIS_REST_URL: stack.redisRestUrl ?? "",
  };
  const node = await startEdge("node", settings, 1);
  try {
    const headers = {
      "content-type": "application/json",
      authorization: `Bearer ${await stack.token({ sub: "bench", plan: "bench", expiresInSeconds: 3_600 })}`,
    };
    const body = JSON.stringify({
      model,
      messages: [{ role: "user", content: `Say something about the sea. ${"Be brief. ".repeat(90)}` }],
      max_tokens: 64,
    });
    const targets: Readonly<Record<Side, LoadTarget>> = {
      workerd: { url: `${stack.edgeUrl}/v1/chat/completions`, headers, body },
      node: { url: `${node.url}/v1/chat/completions`, headers, body },
      bare: { url: `${bare.url}/regional`, headers, body },
      memory: { url: `${bare.url}/memory`, headers, body },
    };
    await warmUp(targets.workerd);
    await warmUp(targets.node);
    return report(await measure(load, targets));
  } finally {
    await node.stop();
  }
}

type Rounds = Readonly<Record<Side, readonly LoadFigures[]>>;

async function measure(
  load: Awaited<ReturnType<typeof openLoad>>,
  targets: Readonly<Record<Side, LoadTarget>>,
): Promise<Rounds> {
  const rounds: Record<Side, LoadFigures[]> = { workerd: [], node: [], bare: [], memory: [] };
  // Round 0 lets V8 compile all sides and is dropped.
  for (let round = 0; round <= ROUNDS; round++) {
    for (const side of Object.keys(LABELS) as Side[]) {
      const figures = await load(targets[side], { connections: CONNECTIONS, seconds: SECONDS });
      if (round > 0) rounds[side].push(figures);
    }
  }
  return rounds;
}

function report(rounds: Rounds): PlatformsReport {
  const rate = (side: Side): number[] => rounds[side].map((figures) => figures["requests/s"]);
  return {
    rows: (Object.keys(LABELS) as Side[]).map((side) => medianRow(LABELS[side], rounds[side])),
    ratios: {
      "regional hit, Node against workerd": medianRatio(rate("node"), rate("workerd")),
      "regional hit on Node against bare Hono": medianRatio(rate("node"), rate("bare")),
    },
  };
}

/** The second asking must be a hit, or the benchmark would measure something else. */
async function warmUp({ url, headers, body }: LoadTarget): Promise<void> {
  let outcome: string | null = null;
  for (let n = 0; n < 2; n++) {
    const response = await fetch(url, { method: "POST", headers, body });
    if (!response.ok) throw new Error(`the edge answered ${response.status}: ${await response.text()}`);
    await response.arrayBuffer();
    outcome = response.headers.get("x-cache");
  }
  if (outcome !== "HIT") throw new Error(`the second asking was ${outcome}, not a HIT`);
}

async function startBareHono(redisUrl: string, folder: string): Promise<AsyncDisposable & { readonly url: string }> {
  const port = await findFreePort();
  const guard = startGuard();
  const part = await startPart({
    name: "bare Hono",
    command: process.execPath,
    args: [join(import.meta.dirname, "bare-hono.ts")],
    env: { ...process.env, PORT: String(port), COLDPATH_REDIS_URL: redisUrl },
    output: { file: join(folder, "bare-hono.log") },
    guard,
  });
  const url = `http://127.0.0.1:${port}`;
  await waitUntilReady({ part, url: `${url}/healthz`, timeoutMs: 10_000, signal: new AbortController().signal });
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      await part.stop(2_000);
      guard.close();
    },
  };
}
