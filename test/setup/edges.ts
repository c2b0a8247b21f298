/** The edge on each platform it runs on, as a server to send requests to: for the suite that holds all three to one text. */
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { unstable_startWorker } from "wrangler";
import { type EdgePlatform, startEdgeFleet } from "../../infra/launch/edge-fleet.ts";
import { startGuard } from "../../infra/launch/guard.ts";
import { findFreePort } from "../../infra/launch/ports.ts";

/** `workers` is Cloudflare's platform as wrangler runs it locally. */
export type EdgeKind = "workers" | EdgePlatform;

export interface RunningEdge {
  readonly url: string;
  stop(): Promise<void>;
}

export interface SelfHostedEdge extends RunningEdge {
  /** What its processes have logged so far, one object a line. */
  logs(): Promise<readonly Readonly<Record<string, unknown>>[]>;
}

/** Two processes where the platform is self-hosted, so that nothing may rest on one process' memory. */
const PROCESSES = 2;
const START_TIMEOUT_MS = 60_000;
const GRACE_MS = 5_000;

/** @param settings - the edge's knobs; `COLDPATH_*` of this process' own environment don't count */
export async function startEdge(
  kind: EdgeKind,
  settings: Readonly<Record<string, string>>,
  processes = PROCESSES,
): Promise<RunningEdge> {
  return kind === "workers" ? startWorkers(settings) : startSelfHosted(kind, settings, processes);
}

async function startWorkers(settings: Readonly<Record<string, string>>): Promise<RunningEdge> {
  const worker = await unstable_startWorker({
    config: resolve(import.meta.dirname, "../../wrangler.toml"),
    bindings: Object.fromEntries(
      Object.entries(settings).map(([name, value]) => [name, { type: "plain_text", value } as const]),
    ),
    dev: {
      server: { hostname: "127.0.0.1", port: await findFreePort() },
      inspector: false,
      watch: false,
      logLevel: "error",
    },
  });
  return { url: (await worker.url).origin, stop: () => worker.dispose() };
}

export async function startSelfHosted(
  platform: EdgePlatform,
  settings: Readonly<Record<string, string>>,
  processes: number,
): Promise<SelfHostedEdge> {
  const folder = await mkdtemp(join(tmpdir(), `coldpath-${platform}-`));
  const port = await findFreePort();
  const guard = startGuard();
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("COLDPATH_"));
  const fleet = await startEdgeFleet({
    platform,
    processes,
    host: "127.0.0.1",
    port,
    env: { ...Object.fromEntries(inherited), ...settings },
    folder,
    output: "files",
    graceMs: GRACE_MS,
    startTimeoutMs: START_TIMEOUT_MS,
    say: (line) => console.error(line),
    guard,
    signal: new AbortController().signal,
  });
  return {
    url: `http://127.0.0.1:${port}`,
    logs: async () => {
      const files = (await readdir(folder)).filter((file) => /^edge-\d+\.log$/.test(file));
      const texts = await Promise.all(files.map((file) => readFile(join(folder, file), "utf8")));
      const lines = texts.flatMap((text) => text.split("\n")).filter((line) => line.startsWith("{"));
      return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    },
    stop: async () => {
      await fleet.stop();
      guard.close();
      await rm(folder, { recursive: true });
    },
  };
}
