/**
 * The origin's process: config → memory plan → server → models, and the way back on a signal. `/health` answers while
 * they are still loading. What can't work ends with one sentence on stderr and exit code 1.
 */
import { randomInt, randomUUID } from "node:crypto";
import { once } from "node:events";
import type { Server } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { createAdaptorServer } from "@hono/node-server";
import { collectDefaultMetrics } from "prom-client";
import { KnobError, readKnobs } from "../shared/knobs.ts";
import { importSignatureKey } from "../shared/signature.ts";
import { ORIGIN_KNOBS, type OriginConfig } from "./config.ts";
import type { Log } from "./request/exchange.ts";
import { findModels } from "./models/find.ts";
import { readImportConfig } from "./import/config.ts";
import { readMachineMemory } from "./models/memory/available.ts";
import { describePlan, planMemory, requireMemory } from "./models/memory/plan.ts";
import { createMetrics, type ObservedModel } from "./operate/metrics.ts";
import { registerSelfTest } from "./runtime/self-test/report.ts";
import { createServer } from "./request/server.ts";
import { type ModelService, ServedModels } from "./models/registry.ts";
import { settleHeap } from "./models/settle-heap.ts";
import { startModel } from "./models/start.ts";
import { EdgeVerifier } from "./request/verify-edge.ts";

/** How long an error event gets to reach its reader before the process ends. */
const LAST_WORDS_MS = 500;

/** A process that ends in the midst of loading an encoder is aborted by the stock binding; so long it is waited for. */
const LOADING_MS = 2_000;

const log: Log = (line) => process.stdout.write(`${JSON.stringify({ time: new Date().toISOString(), ...line })}\n`);
// Whoever read the log may go; that is no reason to leave, too.
for (const output of [process.stdout, process.stderr]) output.on("error", () => undefined);

try {
  await main();
} catch (thrown) {
  fail(thrown);
}

async function main(): Promise<void> {
  const config = readKnobs(ORIGIN_KNOBS, process.env);
  if (config.secret === undefined) throw new KnobError(`${ORIGIN_KNOBS.secret.env} must be set`);
  const found = findModels(readImportConfig(process.env));
  const manifests = found.map(({ manifest }) => manifest);
  const memory = planMemory(manifests, config, readMachineMemory());
  requireMemory(memory, config);

  const models = new ServedModels(manifests.map(({ name }) => name));
  const { app, metrics } = await createApp(config, config.secret, models);
  const server = await listen(app.fetch, config);

  let ending: Promise<void> | undefined;
  let loading: Promise<unknown> = Promise.resolve();
  const end = (options: { readonly exitCode: number; readonly drainMs: number }) => {
    models.close(options.exitCode === 0 ? "draining" : "failed");
    ending ??= shutDown({ ...options, server, models, loading });
  };
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    process.once(signal, () => end({ exitCode: 0, drainMs: config.drainMs }));
  }
  // Started by the launcher: without it nobody would ever stop this process.
  if (process.channel !== undefined) process.once("disconnect", () => end({ exitCode: 0, drainMs: 0 }));

  // Said only now: whoever reads it may already send a signal.
  const address = server.address();
  log({ level: "info", event: "listening", host: config.host, port: typeof address === "object" ? address?.port : 0 });
  log({ level: "info", event: "memory", plan: describePlan(memory), bytes: memory.bytes });

  const onGiveUp = (model: string) => {
    log({ level: "error", event: "engine given up", model, crashesMax: config.crashesMax });
    // Whoever watches the process starts it anew; while another model answers, that would take its answers along.
    if (!models.hasFuture) end({ exitCode: 1, drainMs: config.drainMs });
  };
  // One after the other: each measures the machine when it starts.
  for (const [index, plan] of memory.models.entries()) {
    const folder = found[index]?.folder ?? "";
    const own = { plan, folder, metrics: metrics.of(plan.name), shared: found.length > 1 };
    const starting = startModel({ config, ...own, log, onGiveUp });
    loading = starting.then((service) => (ending === undefined ? undefined : service.engine.stop()));
    const service = await starting;
    if (ending !== undefined) return;
    settleHeap();
    models.add(service);
  }
}

async function createApp(config: OriginConfig, secret: string, models: ServedModels) {
  const key = await importSignatureKey(secret);
  const { secretPrevious } = config;
  const previousKey = secretPrevious === undefined ? undefined : await importSignatureKey(secretPrevious);
  const metrics = createMetrics({ models: () => models.loaded.map(observe) });
  registerSelfTest(metrics.registry, () => models.loaded.map(({ model, engine }) => [model.id, engine.selfTest]));
  collectDefaultMetrics({ register: metrics.registry, prefix: "coldpath_origin_" });
  const app = createServer({
    models,
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

function observe({ model: { id }, engine }: ModelService): ObservedModel {
  const { occupancy, counters, status } = engine;
  return { id, occupancy, counters, ready: status === "ready" };
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
  models,
  loading,
}: {
  readonly exitCode: number;
  readonly drainMs: number;
  readonly server: Server;
  readonly models: ServedModels;
  /** Settled when nothing is being loaded any more. */
  readonly loading: Promise<unknown>;
}): Promise<void> {
  const admissions = models.loaded.map(({ admission }) => admission);
  log({ level: "info", event: "draining", open: admissions.reduce((sum, { present }) => sum + present, 0) });
  await Promise.all(admissions.map((admission) => admission.idle(drainMs)));
  await Promise.all(models.loaded.map(({ engine }) => engine.stop()));
  await Promise.race([Promise.allSettled([loading]), sleep(LOADING_MS)]);
  server.close();
  server.closeIdleConnections();
  // Whoever got an error event just now may still read it.
  await Promise.race([once(server, "close"), sleep(LAST_WORDS_MS)]);
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
