/**
 * The same hit on the platforms one can host oneself, one process each: `workerd serve` with redis-rest, and Node with a
 * direct Redis connection, beside a bare Hono app on Node that does the same work. A regional hit is had by granting no
 * permits: then nothing is answered without asking the region. What it measures: on Node a request
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
const SECONDS = 3;
const CONNECTIONS = 32;
const LABELS = {
  workerdIsolate: "workerd, isolate hit",
  nodeIsolate: "Node, isolate hit",
  bareIsolate: "bare Hono on Node, from memory",
  workerdRegional: "workerd, regional hit",
  nodeRegional: "Node, regional hit",
  bareRegional: "bare Hono on Node, one GET in Redis",
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
  const asking = { ...settings, COLDPATH_PERMIT_MS: "0" };
  const edges = await Promise.all([
    startEdge("workerd", settings, 1),
    startEdge("node", settings, 1),
    startEdge("workerd", asking, 1),
    startEdge("node", asking, 1),
  ]);
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
    const [workerdIsolate, nodeIsolate, workerdRegional, nodeRegional] = edges.map((edge): LoadTarget => {
      return { url: `${edge.url}/v1/chat/completions`, headers, body };
    }) as [LoadTarget, LoadTarget, LoadTarget, LoadTarget];
    for (const target of [workerdIsolate, nodeIsolate]) await warmUp(target, "isolate");
    for (const target of [workerdRegional, nodeRegional]) await warmUp(target, "regional");
    const bareIsolate = { url: `${bare.url}/memory`, headers, body };
    const bareRegional = { url: `${bare.url}/regional`, headers, body };
    return report(
      await measure(load, { workerdIsolate, nodeIsolate, bareIsolate, workerdRegional, nodeRegional, bareRegional }),
    );
  } finally {
    await Promise.all(edges.map((edge) => edge.stop()));
  }
}

type Rounds = Readonly<Record<Side, readonly LoadFigures[]>>;

async function measure(
  load: Awaited<ReturnType<typeof openLoad>>,
  targets: Readonly<Record<Side, LoadTarget>>,
): Promise<Rounds> {
  const sides = Object.keys(LABELS) as Side[];
  const rounds = Object.fromEntries(sides.map((side) => [side, [] as LoadFigures[]])) as Record<Side, LoadFigures[]>;
  // Round 0 lets V8 compile all sides and is dropped.
  for (let round = 0; round <= ROUNDS; round++) {
    for (const side of sides) {
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
      "isolate hit, Node against workerd": medianRatio(rate("nodeIsolate"), rate("workerdIsolate")),
      "isolate hit on Node against bare Hono": medianRatio(rate("nodeIsolate"), rate("bareIsolate")),
      "regional hit, Node against workerd": medianRatio(rate("nodeRegional"), rate("workerdRegional")),
      "regional hit on Node against bare Hono": medianRatio(rate("nodeRegional"), rate("bareRegional")),
    },
  };
}

/** Until a hit comes from the tier that is to be measured. */
async function warmUp({ url, headers, body }: LoadTarget, tier: "isolate" | "regional"): Promise<void> {
  let found: string | null = null;
  for (let n = 0; n < 30 && found !== tier; n++) {
    const response = await fetch(url, { method: "POST", headers, body });
    if (!response.ok) throw new Error(`the edge answered ${response.status}: ${await response.text()}`);
    await response.arrayBuffer();
    found = response.headers.get("x-cache-tier");
  }
  if (found !== tier) throw new Error(`no hit came from the tier ${tier}, but ${found}`);
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
