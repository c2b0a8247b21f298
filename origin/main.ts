/**
 * The origin's process: config → server → model → engine, and the way back on a signal. `/health` answers while the
 * model is still loading. What can't work ends with one sentence on stderr and exit code 1.
 */
import { randomInt, randomUUID } from "node:crypto";
import { once } from "node:events";
import type { Server } from "node:http";
import { createAdaptorServer } from "@hono/node-server";
import { collectDefaultMetrics } from "prom-client";
import { KnobError, readKnobs } from "../shared/knobs.ts";
import { importSignatureKey } from "../shared/signature.ts";
import { Admission } from "./admit.ts";
import { Coalescer } from "./coalesce.ts";
import { ORIGIN_KNOBS, type OriginConfig } from "./config.ts";
import type { EngineCounters } from "./engine/engine.ts";
import type { Embedder } from "./embed/embedder.ts";
import { NO_COUNTERS, type Occupancy } from "./engine/messages.ts";
import type { EngineSupervisor } from "./engine/supervisor.ts";
import type { Log } from "./exchange.ts";
import { readImportConfig } from "./import/config.ts";
import { createMetrics } from "./metrics.ts";
import { createServer, type ServiceState } from "./server.ts";
import type { SelfTest } from "./runtime/runtime.ts";
import { describeSelfTest, registerSelfTest } from "./runtime/self-test/report.ts";
import { findModelFolder, isEncoder, serveEncoder, serveModel } from "./serve-model.ts";
import { EdgeVerifier } from "./verify-edge.ts";

/** How long an error event gets to reach its reader before the process ends. */
const LAST_WORDS_MS = 500;

const EMPTY: Occupancy = { running: 0, waiting: 0 };

const log: Log = (line) => process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), ...line })}\n`);

try {
  await main();
} catch (thrown) {
  fail(thrown);
}

async function main(): Promise<void> {
  const config = readKnobs(ORIGIN_KNOBS, process.env);
  const folder = findModelFolder(readImportConfig(process.env));
  let state: ServiceState = { status: "loading" };
  let engine: EngineSupervisor | undefined;
  /** One of the two. */
  let embedder: Embedder | undefined;
  const { slots, queueMax, followersMax } = config;
  const admission = new Admission({
    openMax: slots + queueMax,
    followersMax,
    waitMs: () => engine?.waitMs,
  });
  const { app, metrics } = await createApp(config, {
    admission,
    state: () =>
      state.status === "ready" && (engine ?? embedder)?.status === "restarting" ? { status: "restarting" } : state,
    occupancy: () => (engine ?? embedder)?.occupancy ?? EMPTY,
    counters: () => engine?.counters ?? NO_COUNTERS,
    selfTest: () => engine?.selfTest,
  });
  const server = await listen(app.fetch, config);

  let ending: Promise<void> | undefined;
  const end = (options: { readonly exitCode: number; readonly drainMs: number }) => {
    state = { status: options.exitCode === 0 ? "draining" : "failed" };
    ending ??= shutDown({ ...options, server, admission, stopEngine: async () => (engine ?? embedder)?.stop() });
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.once(signal, () => end({ exitCode: 0, drainMs: config.drainMs }));
  }
  // Started by the launcher: without it nobody would ever stop this process.
  if (process.channel !== undefined) process.once("disconnect", () => end({ exitCode: 0, drainMs: 0 }));

  // Said only now: whoever reads it may already send a signal.
  const address = server.address();
  log({ level: "info", event: "listening", host: config.host, port: typeof address === "object" ? address?.port : 0 });

  const watch = {
    onCrash: (cause: Error) => {
      metrics.engineCrashes.inc();
      log({ level: "error", event: "engine died", cause: cause.stack });
    },
    onRestart: () => log({ level: "info", event: "engine restarted" }),
    onGiveUp: () => {
      log({ level: "error", event: "engine given up", crashesMax: config.crashesMax });
      end({ exitCode: 1, drainMs: config.drainMs });
    },
  };
  if (isEncoder(folder)) {
    const served = await serveEncoder({ config, folder, ...watch });
    embedder = served.embedder;
    if (ending !== undefined) return embedder.stop();
    state = { status: "ready", ...served };
    const { id, contextLength } = served.model;
    return log({ level: "info", event: "ready", model: id, contextTokens: contextLength });
  }
  const served = await serveModel({
    config,
    folder,
    onStep: ({ stepMs, queuedMs }) => {
      if (stepMs !== undefined) metrics.stepTime.observe(stepMs / 1000);
      for (const waitedMs of queuedMs) metrics.queueTime.observe(waitedMs / 1000);
    },
    onTrouble: (message) => log({ level: "error", event: "run failed", message }),
    onCalibrated: (calibration) => log({ level: "info", event: "calibrated", ...calibration }),
    ...watch,
  });
  engine = served.engine;
  if (ending !== undefined) return engine.stop();
  state = { status: "ready", ...served };
  const { id, contextLength } = served.model;
  const selfTest = engine.selfTest && describeSelfTest(engine.selfTest);
  log({ level: "info", event: "ready", model: id, contextTokens: contextLength, selfTest });
}

interface AppParts {
  readonly admission: Admission;
  readonly state: () => ServiceState;
  readonly occupancy: () => Occupancy;
  readonly counters: () => EngineCounters;
  readonly selfTest: () => SelfTest | undefined;
}

async function createApp(config: OriginConfig, { admission, state, occupancy, counters, selfTest }: AppParts) {
  if (config.secret === undefined) throw new KnobError(`${ORIGIN_KNOBS.secret.env} must be set`);
  const key = await importSignatureKey(config.secret);
  const { secretPrevious } = config;
  const previousKey = secretPrevious === undefined ? undefined : await importSignatureKey(secretPrevious);
  const metrics = createMetrics({ occupancy, counters });
  registerSelfTest(metrics.registry, selfTest);
  collectDefaultMetrics({ register: metrics.registry, prefix: "coldpath_origin_" });
  const app = createServer({
    state,
    admission,
    coalescer: new Coalescer({ onConflict: () => metrics.coalesceConflicts.inc() }),
    verifier: new EdgeVerifier({ key, previousKey, replayIdsMax: config.replayIdsMax, nowSeconds: readUnixSeconds }),
    metrics,
    log,
    bodyBytesMax: config.bodyBytesMax,
    stallMs: config.stallMs,
    wallClock: () => Date.now(),
    now: () => performance.now(),
    createSeed: () => randomInt(0x1_0000_0000),
    choicesMax: config.choicesMax,
    schemaBytesMax: config.schemaBytesMax,
    createId: () => randomUUID(),
  });
  return { app, metrics };
}

function readUnixSeconds(): number {
  return Math.floor(Date.now() / 1000);
}

async function listen(
  fetch: (request: Request) => Response | Promise<Response>,
  config: OriginConfig,
): Promise<Server> {
  const server = createAdaptorServer({ fetch, hostname: config.host }) as Server;
  server.listen(config.port, config.host);
  await once(server, "listening");
  return server;
}

/** Lets what runs finish within its time, cuts the rest, and leaves. */
async function shutDown({
  exitCode,
  drainMs,
  server,
  admission,
  stopEngine,
}: {
  readonly exitCode: number;
  readonly drainMs: number;
  readonly server: Server;
  readonly admission: Admission;
  readonly stopEngine: () => Promise<void>;
}): Promise<void> {
  log({ level: "info", event: "draining", open: admission.present });
  await admission.idle(drainMs);
  await stopEngine();
  server.close();
  server.closeIdleConnections();
  // Whoever got an error event just now may still read it.
  await Promise.race([once(server, "close"), new Promise((resolve) => setTimeout(resolve, LAST_WORDS_MS))]);
  log({ level: "info", event: "stopped" });
  process.exit(exitCode);
}

/** One sentence for the operator. */
function fail(thrown: unknown): void {
  const code = thrown instanceof Error && "code" in thrown ? thrown.code : undefined;
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  const sentence = code === "EADDRINUSE" ? `the port is in use: ${message}; set COLDPATH_ORIGIN_PORT` : message;
  process.stderr.write(`origin: ${sentence}\n`);
  process.exit(1);
}
