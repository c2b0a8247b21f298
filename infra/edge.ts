/**
 * `npm run edge:node` and `npm run edge:workerd`: the edge alone on a machine of its own. Origin, Redis and secrets come
 * from the environment; secrets that are not there from the state folder, where `npm start` made some.
 */
import { availableParallelism } from "node:os";
import { join, resolve } from "node:path";
import { KnobError, readKnobs } from "../shared/knobs.ts";
import { EDGE_FLEET_KNOBS } from "./config.ts";
import { type EdgePlatform, startEdgeFleet } from "./launch/edge-fleet.ts";
import { LaunchFailure } from "./launch/failure.ts";
import { startGuard } from "./launch/guard.ts";
import { findSecret, SECRET_NAMES } from "./secrets.ts";

const PLATFORMS: readonly EdgePlatform[] = ["node", "workerd"];

const stopping = new AbortController();
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(name, () => {
    // Asked twice: leave now. The guard kills what is still running.
    if (stopping.signal.aborted) process.exit(130);
    stopping.abort();
  });
}
try {
  await main(process.argv[2]);
} catch (error) {
  if (!stopping.signal.aborted) explain(error);
}
process.exit();

async function main(name: string | undefined): Promise<void> {
  const platform = PLATFORMS.find((known) => known === name);
  if (platform === undefined) throw new LaunchFailure("npm run edge:node, or npm run edge:workerd");
  const { stateDir, edgeHost: host, edgePort: port, ...knobs } = readKnobs(EDGE_FLEET_KNOBS, process.env);
  const folder = resolve(import.meta.dirname, "..", stateDir);
  const processes = knobs.edgeProcesses === 0 ? availableParallelism() : knobs.edgeProcesses;
  const guard = startGuard();
  const fleet = await startEdgeFleet({
    platform,
    processes,
    host,
    port,
    env: { ...process.env, ...keptSecrets(folder) },
    folder: join(folder, `edge-${port}`),
    output: "inherit",
    graceMs: knobs.stopGraceMs,
    startTimeoutMs: knobs.startTimeoutMs,
    say,
    guard,
    signal: stopping.signal,
  });
  say(`the edge listens on ${host}:${port}, ${processes} × ${platform}; Ctrl-C stops it`);
  await new Promise((resolved) => {
    if (stopping.signal.aborted) resolved(undefined);
    stopping.signal.addEventListener("abort", resolved, { once: true });
  });
  say("stopping");
  await fleet.stop();
}

function say(line: string): void {
  console.error(`coldpath: ${line}`);
}

function keptSecrets(folder: string): NodeJS.ProcessEnv {
  return Object.fromEntries(SECRET_NAMES.map((name) => [name, findSecret(name, folder, process.env)]));
}

function explain(error: unknown): void {
  process.exitCode = 1;
  if (!(error instanceof LaunchFailure || error instanceof KnobError)) return console.error(error);
  console.error(`coldpath: ${error.message}`);
  if (error instanceof LaunchFailure && (error.logTail ?? "") !== "") console.error(error.logTail);
}
