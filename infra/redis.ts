/**
 * The Redis behind a stack: the one the operator names, else a private one that lives and dies with the launcher, else
 * none. Knows nothing of what is stored in it.
 */
import { accessSync, constants, existsSync, mkdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "redis";
import { LaunchFailure } from "./launch/failure.ts";
import type { Guard } from "./launch/guard.ts";
import { type Part, describeExit, startPart } from "./launch/part.ts";
import { findFreePort } from "./launch/ports.ts";

/** Oldest version whose commands the stack relies on; Valkey reports the Redis version it is compatible with. */
const VERSION_MIN = [6, 2] as const;
const CONNECT_TIMEOUT_MS = 5_000;
/** A free port may be taken between finding and using it. */
const START_ATTEMPTS = 3;
const APT_TIMEOUT_MS = 300_000;

export interface RedisOptions {
  /** The operator's Redis; `undefined` asks for a private one. */
  readonly redisUrl: string | undefined;
  /** For a private one: its password (letters and digits), its memory, and a folder of its own for the log. */
  readonly password: string;
  readonly memoryBytes: number;
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  readonly guard: Guard;
  /** Tells the operator one line. */
  readonly say: (line: string) => void;
}

/** A Redis that answered PING. */
export interface RedisServer {
  /** With the password: not for logs. */
  readonly url: string;
  /** The process, when it is ours. */
  readonly part: Part | undefined;
}

/**
 * Provides a Redis.
 *
 * @returns `null` when there is none to be had, after saying why
 * @throws {LaunchFailure} when the operator's Redis can't be used, or ours does not start
 */
export async function provideRedis(options: RedisOptions): Promise<RedisServer | null> {
  if (options.redisUrl !== undefined) {
    await requireUsable(options.redisUrl);
    return { url: options.redisUrl, part: undefined };
  }
  const program = findRedisProgram(options.env) ?? (await installWithApt(options));
  return program === undefined ? null : startPrivate(program, options);
}

async function requireUsable(url: string): Promise<void> {
  const failure = await probe(url);
  if (failure === undefined) return;
  const { host } = new URL(url);
  throw new LaunchFailure(
    `the Redis at ${host} can't be used (${failure}): correct COLDPATH_REDIS_URL, or unset it to have one started`,
  );
}

/** The first of redis-server and valkey-server on the PATH. */
export function findRedisProgram(env: NodeJS.ProcessEnv): string | undefined {
  const folders = (env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");
  return ["redis-server", "valkey-server"]
    .flatMap((name) => folders.map((folder) => join(folder, name)))
    .find((path) => isExecutable(path));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

async function startPrivate(program: string, options: RedisOptions): Promise<RedisServer> {
  mkdirSync(options.folder, { recursive: true, mode: 0o700 });
  let failure = "";
  for (let attempt = 0; attempt < START_ATTEMPTS; attempt += 1) {
    const port = await findFreePort();
    const part = await startPart({
      name: "Redis",
      command: program,
      args: ["-"],
      // On standard input: an argument would show the password to every user of the machine.
      input: configuration(port, options),
      env: options.env,
      cwd: options.folder,
      output: { file: join(options.folder, "redis.log") },
      guard: options.guard,
    });
    const url = `redis://:${options.password}@127.0.0.1:${port}`;
    const reason = await waitUntilUsable(url, part);
    if (reason === undefined) return { url, part };
    await part.stop(0);
    failure = reason;
  }
  throw new LaunchFailure(`${program} does not start (${failure}): set COLDPATH_REDIS_URL to a Redis that runs`);
}

/**
 * No persistence: a cache and counters of minutes are not worth a disk. `volatile-lru` evicts only keys with an expiry,
 * so what is stored for good (revoked tokens) stays; and among those with one, the least recently used go first, which
 * is a cold answer and not the counter of a client who is asking right now. `volatile-ttl` would do the opposite:
 * counters expire soonest. Ten samples instead of five make the choice close to true LRU.
 */
function configuration(port: number, options: RedisOptions): string {
  return [
    "bind 127.0.0.1",
    `port ${port}`,
    `requirepass ${options.password}`,
    `save ""`,
    "appendonly no",
    `maxmemory ${options.memoryBytes}`,
    "maxmemory-policy volatile-lru",
    "maxmemory-samples 10",
    "",
  ].join("\n");
}

/** @returns `undefined` when it answers, else why it does not */
async function waitUntilUsable(url: string, part: Part): Promise<string | undefined> {
  const deadline = performance.now() + CONNECT_TIMEOUT_MS;
  for (;;) {
    const failure = await probe(url);
    if (failure === undefined || performance.now() > deadline) return failure;
    const exit = await Promise.race([part.exited, sleep(20)]);
    if (exit !== undefined) return `${describeExit(exit)}: ${exit.logTail}`;
  }
}

/** @returns `undefined` when a usable Redis answers at the URL, else the reason, without the password */
async function probe(url: string): Promise<string | undefined> {
  const client = createClient({ url, socket: { reconnectStrategy: false, connectTimeout: CONNECT_TIMEOUT_MS } });
  // Reported by the rejected `connect`, too; without a listener Node would throw it.
  client.on("error", () => {});
  try {
    await client.connect();
    await client.ping();
    const version = /redis_version:(\d+)\.(\d+)/.exec(await client.info("server"));
    const [major, minor] = [Number(version?.[1] ?? 0), Number(version?.[2] ?? 0)];
    const newEnough = major > VERSION_MIN[0] || (major === VERSION_MIN[0] && minor >= VERSION_MIN[1]);
    return newEnough ? undefined : `version ${major}.${minor} is older than ${VERSION_MIN.join(".")}`;
  } catch (error) {
    return error instanceof Error && error.message !== "" ? error.message : String(error);
  } finally {
    client.destroy();
  }
}

/** Debian and Ubuntu as root; anywhere else the operator decides what is installed. */
async function installWithApt(options: RedisOptions): Promise<string | undefined> {
  const withoutRedis = "going on without Redis: answers and limits are kept in the edge's own memory";
  if (!existsSync("/etc/debian_version") || process.getuid?.() !== 0) {
    options.say(`no redis-server or valkey-server is on the PATH, ${withoutRedis}`);
    return undefined;
  }
  options.say("no redis-server or valkey-server is on the PATH: installing one with apt-get install redis-server");
  const installed =
    (await apt(options, "install")) || ((await apt(options, "update")) && (await apt(options, "install")));
  const program = installed ? findRedisProgram(options.env) : undefined;
  if (program === undefined) options.say(`apt-get could not install redis-server, ${withoutRedis}`);
  else await stopService(options);
  return program;
}

async function apt(options: RedisOptions, action: "install" | "update"): Promise<boolean> {
  const args =
    action === "update" ? ["update", "-q"] : ["install", "-y", "-q", "--no-install-recommends", "redis-server"];
  return runToEnd(options, { command: "apt-get", args });
}

/** The package starts a service for everyone on the standard port; nobody asked for that. */
async function stopService(options: RedisOptions): Promise<void> {
  await runToEnd(options, { command: "service", args: ["redis-server", "stop"] });
  if (existsSync("/run/systemd/system")) {
    await runToEnd(options, { command: "systemctl", args: ["disable", "redis-server"] });
  }
}

async function runToEnd(
  options: RedisOptions,
  program: { readonly command: string; readonly args: readonly string[] },
): Promise<boolean> {
  mkdirSync(options.folder, { recursive: true, mode: 0o700 });
  try {
    const part = await startPart({
      ...program,
      name: program.command,
      env: { ...options.env, DEBIAN_FRONTEND: "noninteractive" },
      output: { file: join(options.folder, `${program.command}.log`) },
      guard: options.guard,
    });
    const timer = setTimeout(() => part.kill(), APT_TIMEOUT_MS);
    const { code } = await part.exited;
    clearTimeout(timer);
    return code === 0;
  } catch (error) {
    // The program itself is missing: then there is no way to install anything.
    if (error instanceof LaunchFailure) return false;
    throw error;
  }
}
