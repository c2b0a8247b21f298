/**
 * A regional hit on `workerd serve`, with everything switched on (token check, limits, lookup, decryption), beside two
 * bare workers on the same workerd: one that only reads, hashes and answers, which is the floor of any worker; and one
 * that also makes one fetch to the same redis-rest, which is the floor of any hit that is shared by a region. A hit can
 * never be faster than that one fetch. Rounds are interleaved; figures are medians. The load generator, workerd,
 * redis-rest and Redis share the machine's cores: ratios hold elsewhere, absolute figures do not.
 */
import { copyFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { readWranglerSettings } from "../../infra/launch/bundle-edge.ts";
import { startGuard } from "../../infra/launch/guard.ts";
import { startPart } from "../../infra/launch/part.ts";
import { findFreePort } from "../../infra/launch/ports.ts";
import type { Stack } from "../../infra/launch/stack.ts";
import { waitUntilReady } from "../../infra/launch/wait-until-ready.ts";
import { workerdConfig, workerdProgram } from "../../infra/workerd-config.ts";
import { type LoadFigures, type LoadTarget, openLoad } from "./load.ts";
import { medianRatio, medianRow, type Row } from "./report.ts";

const ROUNDS = 3;
const SECONDS = 5;
const CONNECTIONS = [1, 32] as const;
const LABELS = {
  edge: "coldpath, regional hit",
  regional: "bare worker, one fetch to redis-rest",
  bare: "bare worker",
} as const;
type Side = keyof typeof LABELS;

export interface EdgeReport {
  readonly rows: readonly Row[];
  /** Medians of the rounds' ratios of requests a second. */
  readonly ratios: Readonly<Record<string, number>>;
}

/** Warms one prompt up and then asks for nothing else. */
export async function benchEdge(stack: Stack, model: string): Promise<EdgeReport> {
  const load = await openLoad();
  await using bare = await startBareWorker(stack);
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
    edge: { url: `${stack.edgeUrl}/v1/chat/completions`, headers, body },
    regional: { url: `${bare.url}/regional`, headers, body },
    bare: { url: `${bare.url}/memory`, headers, body },
  };
  await warmUp(targets.edge);

  const rounds: Record<Side, Record<number, LoadFigures>[]> = { edge: [], regional: [], bare: [] };
  const sides = Object.keys(LABELS) as Side[];
  // Round 0 lets V8 compile both sides and is dropped.
  for (let round = 0; round <= ROUNDS; round++) {
    for (const side of sides) {
      const figures: Record<number, LoadFigures> = {};
      for (const connections of CONNECTIONS)
        figures[connections] = await load(targets[side], { connections, seconds: SECONDS });
      if (round > 0) rounds[side].push(figures);
    }
  }
  return report(rounds);
}

function report(rounds: Readonly<Record<Side, readonly Record<number, LoadFigures>[]>>): EdgeReport {
  const of = (side: Side, connections: number): LoadFigures[] =>
    rounds[side].flatMap((figures) => figures[connections] ?? []);
  const ratio = (baseline: Side, connections: number): number =>
    medianRatio(
      of("edge", connections).map((hit) => hit["requests/s"]),
      of(baseline, connections).map((floor) => floor["requests/s"]),
    );
  const sides = Object.keys(LABELS) as Side[];
  return {
    rows: CONNECTIONS.flatMap((connections) =>
      sides.map((side) => medianRow(`${LABELS[side]}, ${connections} connections`, of(side, connections))),
    ),
    ratios: Object.fromEntries(
      CONNECTIONS.flatMap((connections) => [
        [`hit against one fetch, ${connections} connections`, ratio("regional", connections)],
        [`hit against a bare worker, ${connections} connections`, ratio("bare", connections)],
      ]),
    ),
  };
}

/** The first asking is the miss; the second must be a hit, or the benchmark would measure something else. */
async function warmUp({ url, headers, body }: LoadTarget): Promise<void> {
  const ask = async (): Promise<string | null> => {
    const response = await fetch(url, { method: "POST", headers, body });
    if (!response.ok) throw new Error(`the edge answered ${response.status}: ${await response.text()}`);
    await response.arrayBuffer();
    return response.headers.get("x-cache");
  };
  await ask();
  const outcome = await ask();
  if (outcome !== "HIT") throw new Error(`the second asking was ${outcome}, not a HIT`);
}

async function startBareWorker(stack: Stack): Promise<AsyncDisposable & { readonly url: string }> {
  const port = await findFreePort();
  const env = {
    ...process.env,
    COLDPATH_REDIS_REST_URL: stack.redisRestUrl,
    COLDPATH_REDIS_REST_TOKEN: stack.secrets.COLDPATH_REDIS_REST_TOKEN,
  };
  const { compatibilityDate } = readWranglerSettings(join(import.meta.dirname, "../../wrangler.toml"));
  const config = workerdConfig({
    modules: [{ file: "bare-worker.js", kind: "esModule" }],
    host: "127.0.0.1",
    port,
    compatibilityDate,
    compatibilityFlags: [],
    bindings: ["COLDPATH_REDIS_REST_URL", "COLDPATH_REDIS_REST_TOKEN"],
  });
  await copyFile(join(import.meta.dirname, "bare-worker.js"), join(stack.folder, "bare-worker.js"));
  await writeFile(join(stack.folder, "bare-worker.capnp"), config);
  const guard = startGuard();
  const part = await startPart({
    name: "bare worker",
    command: workerdProgram(),
    args: ["serve", join(stack.folder, "bare-worker.capnp")],
    env,
    output: { file: join(stack.folder, "bare-worker.log") },
    guard,
  });
  const url = `http://127.0.0.1:${port}`;
  await waitUntilReady({ part, url: `${url}/memory`, timeoutMs: 10_000, signal: new AbortController().signal });
  return {
    url,
    [Symbol.asyncDispose]: async () => {
      await part.stop(2_000);
      guard.close();
    },
  };
}
