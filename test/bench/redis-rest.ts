/**
 * redis-rest beside redis-benchmark, which speaks to the same Redis directly: one small script, from as many connections.
 *
 * The load comes from wrk where that is installed, a C program as redis-benchmark is. autocannon takes as much CPU time a
 * request as redis-rest itself (19 to 26 µs), and on two cores its share is missing: with it the ratio was 0.27 where wrk
 * found 0.34.
 */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { promisify } from "node:util";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Stack } from "../../infra/launch/stack.ts";
import type { Load, LoadTarget } from "./load.ts";

const SCRIPT = "return redis.call('GET', KEYS[1])";
const SHA1 = createHash("sha1").update(SCRIPT).digest("hex");
const ARGS = ["EVALSHA", SHA1, "1", "cp:bench:value"] as const;
/** A second or two of redis-benchmark. */
const REQUESTS = 60_000;

export interface RedisRestRound {
  readonly rest: number;
  readonly direct: number;
  readonly generator: "wrk" | "autocannon";
}

/** Requests a second of both, one after the other. The script must have been loaded. */
export async function redisRestRound(
  stack: Stack,
  load: Load,
  options: { readonly connections: number; readonly seconds: number },
): Promise<RedisRestRound> {
  const { redisRestUrl: url = "", redisUrl = "", secrets } = stack;
  const headers = {
    authorization: `Bearer ${secrets.COLDPATH_REDIS_REST_TOKEN}`,
    "content-type": "application/json",
  };
  const target = { url, headers, body: JSON.stringify(ARGS) };
  const byWrk = await wrk(target, { ...options, folder: stack.folder });
  const direct = await redisBenchmark(redisUrl, options.connections);
  if (byWrk !== undefined) return { rest: byWrk, direct, generator: "wrk" };
  return { rest: (await load(target, options))["requests/s"], direct, generator: "autocannon" };
}

/** @returns requests a second; `undefined` where it is not installed */
async function wrk(
  { url, headers, body }: LoadTarget,
  { connections, seconds, folder }: { readonly connections: number; readonly seconds: number; readonly folder: string },
): Promise<number | undefined> {
  const script = join(folder, "redis-rest.lua");
  // JSON's strings are Lua's too, for the letters that are in these.
  const fields = Object.entries(headers).map(([name, value]) => `[${JSON.stringify(name)}]=${JSON.stringify(value)}`);
  await writeFile(script, `wrk.method="POST"\nwrk.headers={${fields.join(",")}}\nwrk.body=${JSON.stringify(body)}\n`);
  const args = [
    "--threads=1",
    `--connections=${connections}`,
    `--duration=${seconds}s`,
    `--script=${script}`,
    `${url}/`,
  ];
  const output = await outputOf("wrk", args);
  if (output === undefined) return undefined;
  const rate = /Requests\/sec: +([\d.]+)/.exec(output)?.[1];
  if (rate === undefined || output.includes("Non-2xx")) throw new Error(`wrk said:\n${output}`);
  return Number(rate);
}

/** @returns NaN where it is not installed */
async function redisBenchmark(redisUrl: string, connections: number): Promise<number> {
  const { hostname, port, password } = new URL(redisUrl);
  const where = ["-h", hostname, "-p", port, "-a", decodeURIComponent(password)];
  const args = [...where, "-c", `${connections}`, "-n", `${REQUESTS}`, "--csv", ...ARGS];
  // The last line is "<the command>","<requests a second>", …
  const output = await outputOf("redis-benchmark", args);
  return Number(output?.trim().split("\n").at(-1)?.split('","')[1]);
}

/** @returns `undefined` where the program is not installed */
async function outputOf(program: string, args: readonly string[]): Promise<string | undefined> {
  try {
    return (await promisify(execFile)(program, args)).stdout;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
