/** redis-rest beside redis-benchmark, which speaks to the same Redis directly: one small script, from as many connections. */
import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { promisify } from "node:util";
import type { Stack } from "../../infra/launch/stack.ts";
import type { Load } from "./load.ts";

const SCRIPT = "return redis.call('GET', KEYS[1])";
const SHA1 = createHash("sha1").update(SCRIPT).digest("hex");
const ARGS = ["EVALSHA", SHA1, "1", "cp:bench:value"] as const;
/** A second or two of redis-benchmark. */
const REQUESTS = 60_000;

export interface RedisRestRound {
  readonly rest: number;
  readonly direct: number;
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
  const figures = await load({ url, headers, body: JSON.stringify(ARGS) }, options);
  return { rest: figures["requests/s"], direct: await redisBenchmark(redisUrl, options.connections) };
}

/** @returns NaN where it is not installed */
async function redisBenchmark(redisUrl: string, connections: number): Promise<number> {
  const { hostname, port, password } = new URL(redisUrl);
  const where = ["-h", hostname, "-p", port, "-a", decodeURIComponent(password)];
  const args = [...where, "-c", `${connections}`, "-n", `${REQUESTS}`, "--csv", ...ARGS];
  try {
    const { stdout } = await promisify(execFile)("redis-benchmark", args);
    // The last line is "<the command>","<requests a second>", …
    return Number(stdout.trim().split("\n").at(-1)?.split('","')[1]);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return Number.NaN;
    throw error;
  }
}
