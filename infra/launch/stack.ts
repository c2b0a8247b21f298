/**
 * The whole of coldpath on one machine: model, Redis, redis-rest, origin and edge, started in this order and stopped in
 * the other. `npm start`, the system tests and the benchmarks all start this one. It neither prints nor handles
 * signals: that is start.ts.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join, resolve } from "node:path";
import { type KnobValues, readKnobs } from "../../shared/knobs.ts";
import { LAUNCH_KNOBS } from "../config.ts";
import { type TokenOptions, issueToken } from "../issue-token.ts";
import { provideRedis } from "../redis.ts";
import { revokeToken } from "../revoke-token.ts";
import { type Secrets, makeSecrets } from "../secrets.ts";
import { publicJwks, readSigningKeys } from "../signing-keys.ts";
import { readRegister } from "../token-register.ts";
import { workerdProgram } from "../workerd-config.ts";
import { bundleEdge } from "./bundle-edge.ts";
import { urlHost } from "./edge-fleet.ts";
import { environmentFor, settingNames } from "./environments.ts";
import { LaunchFailure } from "./failure.ts";
import { type Guard, startGuard } from "./guard.ts";
import { type Part, type PartExit, startPart } from "./part.ts";
import { requireFreePort } from "./ports.ts";
import { waitUntilReady } from "./wait-until-ready.ts";

const ROOT = resolve(import.meta.dirname, "../..");

export interface StackOptions {
  /** Settings as for `npm start`; the parts get it, too. */
  readonly env: NodeJS.ProcessEnv;
  /** Told of each step in one line. Default: nobody. */
  readonly say?: (line: string) => void;
  /** Shows the model's download and import in the terminal instead of a log. Default: false. */
  readonly showImport?: boolean;
  /** Gives the start up; what was started is stopped. */
  readonly signal?: AbortSignal;
}

export interface Stack {
  /** `http://host:port`, no slash at the end. */
  readonly edgeUrl: string;
  readonly originUrl: string;
  /** `undefined` where the stack goes without Redis. */
  readonly redisRestUrl: string | undefined;
  /** With the password. */
  readonly redisUrl: string | undefined;
  /** Logs and the bundle. */
  readonly folder: string;
  readonly secrets: Secrets;
  /** The processes; `redis` is absent when it is not ours. */
  readonly parts: { readonly redis?: Part; readonly redisRest?: Part; readonly origin: Part; readonly edge: Part };
  /** Resolves when the first of them ends by itself; the others go on. */
  readonly firstExit: Promise<PartExit>;
  /** Issues a token that this stack's edge accepts. */
  token(options: TokenOptions): Promise<string>;
  /** Stops everything, edge first. */
  stop(): Promise<void>;
}

/** What every step of the start shares. */
interface Start {
  readonly knobs: KnobValues<typeof LAUNCH_KNOBS>;
  readonly env: NodeJS.ProcessEnv;
  readonly secrets: Secrets;
  readonly stateDir: string;
  readonly folder: string;
  readonly guard: Guard;
  readonly say: (line: string) => void;
  readonly signal: AbortSignal;
  readonly cleanup: AsyncDisposableStack;
}

/**
 * Starts everything and waits until the edge can serve a miss.
 *
 * @throws {LaunchFailure} one sentence about what failed and what to do; nothing is left running
 * @throws {KnobError} for a setting that can't be used
 * @throws the signal's reason, when it aborts
 */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { env, say = () => {}, showImport = false } = options;
  const knobs = readKnobs(LAUNCH_KNOBS, env);
  refuseRemoteParts(env);
  await requirePorts(knobs);

  await using cleanup = new AsyncDisposableStack();
  const failed = new AbortController();
  const signal = options.signal === undefined ? failed.signal : AbortSignal.any([options.signal, failed.signal]);
  const stateDir = resolve(ROOT, knobs.stateDir);
  const secrets = makeSecrets(stateDir, env);
  // One folder for each edge port: two stacks can share the state folder and never share a log or a bundle.
  const folder = join(stateDir, `run-${knobs.edgePort}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const guard = startGuard();
  cleanup.defer(() => guard.close());
  const start: Start = { knobs, env, secrets, stateDir, folder, guard, say, signal, cleanup };

  await importModel(start, showImport);
  const redis = await startRedis(start);
  const originUrl = `http://127.0.0.1:${knobs.originPort}`;
  const edgeEnv = edgeEnvironment(start, { originUrl, redis });
  // Bundling and loading the model take seconds each and need nothing of one another.
  const bundled = knobs.edge === "node" ? Promise.resolve(undefined) : bundle(start, settingNames(edgeEnv));
  // Whichever of the two fails, the other is given up, and is over before this is.
  bundled.catch((error: unknown) => failed.abort(error));
  cleanup.defer(async () => {
    failed.abort();
    await bundled.catch(() => {});
  });
  const origin = await startOrigin(start, originUrl);
  const edge = await startEdge(start, await bundled, edgeEnv);
  const issuer = { secret: secrets.COLDPATH_JWT_SECRET, issuer: knobs.issuer, audience: knobs.audience };
  const token: Stack["token"] = (claims) =>
    issueToken(claims, { ...issuer, nowSeconds: Math.floor(Date.now() / 1000) });
  await revokeAgain(start, token);

  const parts = { ...redis?.parts, origin, edge };
  const running = cleanup.move();
  return {
    edgeUrl: edgeUrlOf(knobs),
    originUrl,
    redisRestUrl: redis?.restUrl,
    redisUrl: redis?.url,
    folder,
    secrets,
    parts,
    firstExit: Promise.race(Object.values(parts).map((part) => part.exited)),
    token,
    stop: () => running.disposeAsync(),
  };
}

/** The launcher starts its own; pointing elsewhere would be overruled, and that must not happen in silence. */
function refuseRemoteParts(env: NodeJS.ProcessEnv): void {
  for (const name of ["COLDPATH_ORIGIN_URL", "COLDPATH_REDIS_REST_URL"]) {
    if ((env[name] ?? "") !== "") {
      throw new LaunchFailure(
        `${name} is set, but npm start runs that part itself: unset it, or deploy the edge alone`,
      );
    }
  }
}

async function requirePorts(knobs: Start["knobs"]): Promise<void> {
  const edge = { host: knobs.edgeHost, hostKnob: "COLDPATH_EDGE_HOST" };
  await requireFreePort({ ...edge, port: knobs.edgePort, portKnob: "COLDPATH_EDGE_PORT" });
  await requireFreePort({ host: "127.0.0.1", port: knobs.originPort, portKnob: "COLDPATH_ORIGIN_PORT" });
  if (knobs.store === "memory") return;
  const redisRest = { host: knobs.redisRestHost, hostKnob: "COLDPATH_REDIS_REST_HOST" };
  await requireFreePort({ ...redisRest, port: knobs.redisRestPort, portKnob: "COLDPATH_REDIS_REST_PORT" });
}

/** Instant when the model is there; the import itself says what it does and why it can't. */
async function importModel(start: Start, show: boolean): Promise<void> {
  const part = await startPart({
    name: "the model's import",
    command: process.execPath,
    args: [join(ROOT, "origin/command/main.ts"), "import"],
    env: environmentFor({ ...start, allowed: ["COLDPATH_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] }),
    output: show ? "terminal" : { file: join(start.folder, "import.log") },
    guard: start.guard,
  });
  const stop = () => void part.stop(start.knobs.stopGraceMs);
  start.signal.addEventListener("abort", stop, { once: true });
  const exit = await part.exited;
  start.signal.removeEventListener("abort", stop);
  start.signal.throwIfAborted();
  if (exit.code !== 0) {
    throw new LaunchFailure("the model could not be prepared: npm run model -- import tries it alone", {
      logTail: exit.logTail,
      alreadyExplained: show,
    });
  }
}

interface RunningRedis {
  readonly url: string;
  readonly restUrl: string;
  readonly parts: { readonly redis?: Part; readonly redisRest: Part };
}

async function startRedis(start: Start): Promise<RunningRedis | undefined> {
  const { knobs, guard, env, say } = start;
  if (knobs.store === "memory") return undefined;
  const redis = await provideRedis({
    redisUrl: knobs.redisUrl,
    password: randomBytes(24).toString("hex"),
    memoryBytes: knobs.redisMemoryBytes,
    folder: start.folder,
    env: environmentFor({ env, secrets: start.secrets, allowed: [] }),
    guard,
    say,
  });
  if (redis === null) {
    if (knobs.store === "auto") return undefined;
    throw new LaunchFailure(
      "COLDPATH_STORE asks for Redis and none can be had: install redis-server, or set COLDPATH_REDIS_URL",
    );
  }
  const { part } = redis;
  if (part !== undefined) start.cleanup.defer(() => part.stop(knobs.stopGraceMs));
  start.signal.throwIfAborted();

  const restUrl = `http://${urlHost(knobs.redisRestHost)}:${knobs.redisRestPort}`;
  const redisRest = await runService(start, {
    name: "redis-rest",
    command: process.execPath,
    args: [join(ROOT, "infra/redis-rest/main.ts")],
    env: environmentFor({
      ...start,
      allowed: ["COLDPATH_REDIS_URL", "COLDPATH_REDIS_REST_TOKEN", "COLDPATH_REDIS_REST_READ_TOKEN"],
      set: { COLDPATH_REDIS_URL: redis.url },
    }),
    readyUrl: `${restUrl}/health`,
  });
  return { url: redis.url, restUrl, parts: { ...(part === undefined ? {} : { redis: part }), redisRest } };
}

function startOrigin(start: Start, originUrl: string): Promise<Part> {
  return runService(start, {
    name: "origin",
    command: process.execPath,
    args: [join(ROOT, "origin/main.ts")],
    env: environmentFor({
      ...start,
      allowed: ["COLDPATH_ORIGIN_SECRET", "COLDPATH_ORIGIN_SECRET_PREVIOUS"],
      set: { COLDPATH_ORIGIN_PORT: String(start.knobs.originPort) },
    }),
    readyUrl: `${originUrl}/ready`,
  });
}

function bundle({ knobs, env, secrets, folder, guard, signal }: Start, bindings: readonly string[]): Promise<string> {
  const { edgeHost: host, edgePort: port } = knobs;
  const edge = { root: ROOT, folder, host, port, bindings, guard, signal };
  return bundleEdge({ ...edge, env: environmentFor({ env, secrets, allowed: [] }) });
}

function edgeEnvironment(
  start: Start,
  { originUrl, redis }: { readonly originUrl: string; readonly redis: RunningRedis | undefined },
): NodeJS.ProcessEnv {
  const direct = start.knobs.edge === "node";
  const signingKeys = readSigningKeys(start.stateDir);
  return environmentFor({
    ...start,
    allowed: [
      "COLDPATH_ORIGIN_SECRET",
      "COLDPATH_JWT_SECRET",
      "COLDPATH_CACHE_SECRET",
      "COLDPATH_CACHE_SECRET_PREVIOUS",
      "COLDPATH_JWT_SECRET_PREVIOUS",
      "COLDPATH_CLIENTS",
      "COLDPATH_IDENTITY_SECRET",
      direct ? "COLDPATH_REDIS_URL" : "COLDPATH_REDIS_REST_TOKEN",
    ],
    set: {
      ...(signingKeys.length === 0 || (start.env["COLDPATH_JWKS"] ?? "") !== ""
        ? {}
        : { COLDPATH_JWKS: JSON.stringify(publicJwks(signingKeys)) }),
      COLDPATH_ORIGIN_URL: originUrl,
      COLDPATH_STORE: redis === undefined ? "memory" : "redis",
      ...(redis === undefined ? {} : { COLDPATH_REDIS_REST_URL: redis.restUrl, COLDPATH_REDIS_URL: redis.url }),
    },
  });
}

/** @param configuration - workerd's; without it the edge runs on Node */
function startEdge(start: Start, configuration: string | undefined, env: NodeJS.ProcessEnv): Promise<Part> {
  return runService(start, {
    name: "edge",
    ...(configuration === undefined
      ? { command: process.execPath, args: [join(ROOT, "edge/entries/node/main.ts")] }
      : { command: workerdProgram(), args: ["serve", configuration] }),
    env,
    readyUrl: `${edgeUrlOf(start.knobs)}/readyz`,
  });
}

/** The private Redis forgets everything when it stops; tokens that were taken back stay so. */
async function revokeAgain({ stateDir, knobs }: Start, token: Stack["token"]): Promise<void> {
  const { revoked } = readRegister(stateDir, Math.floor(Date.now() / 1000));
  if (revoked.length === 0) return;
  const admin = await token({ sub: "npm start", scope: ["admin"] });
  for (const revocation of revoked) await revokeToken(edgeUrlOf(knobs), admin, revocation);
}

interface Service {
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly readyUrl: string;
}

async function runService(start: Start, service: Service): Promise<Part> {
  start.signal.throwIfAborted();
  start.say(`starting ${service.name}`);
  const { readyUrl, ...program } = service;
  const part = await startPart({
    ...program,
    output: { file: join(start.folder, `${service.name}.log`) },
    guard: start.guard,
  });
  start.cleanup.defer(() => part.stop(start.knobs.stopGraceMs));
  await waitUntilReady({ part, url: readyUrl, timeoutMs: start.knobs.startTimeoutMs, signal: start.signal });
  return part;
}

function edgeUrlOf(knobs: Start["knobs"]): string {
  return `http://${urlHost(knobs.edgeHost)}:${knobs.edgePort}`;
}
