/**
 * Starts a private Redis and a redis-rest in front of it for one test project, and tells the tests where they are:
 * `inject("redisRest")`. Tests share it, so each takes keys of its own.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { startGuard } from "../../infra/launch/guard.ts";
import { startRedisRest } from "../../infra/redis-rest/serve.ts";
import { provideRedis } from "../../infra/redis.ts";

declare module "vitest" {
  interface ProvidedContext {
    redisRest: {
      /** redis-rest, `http://127.0.0.1:port`. */
      readonly url: string;
      readonly token: string;
      readonly readToken: string;
      /** The Redis behind it, with its password. */
      readonly redisUrl: string;
    };
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const folder = mkdtempSync(join(tmpdir(), "coldpath-redis-"));
  const guard = startGuard();
  const redis = await provideRedis({
    redisUrl: undefined,
    password: randomBytes(24).toString("hex"),
    memoryBytes: 64 * 1024 * 1024,
    folder,
    env: process.env,
    guard,
    say: (line) => console.error(line),
  });
  if (redis === null) throw new Error("the tests need a real Redis: install redis-server or valkey-server");
  const token = randomBytes(24).toString("hex");
  const readToken = randomBytes(24).toString("hex");
  const rest = await startRedisRest({
    host: "127.0.0.1",
    port: 0,
    token,
    readToken,
    redisUrl: redis.url,
    timeoutMs: 5_000,
    bodyBytesMax: 4 * 1024 * 1024,
    pipelineCommandsMax: 1_000,
    pendingCommandsMax: 10_000,
    log: () => {},
  });
  project.provide("redisRest", { url: rest.url, token, readToken, redisUrl: redis.url });

  return async () => {
    await rest.close();
    await redis.part?.stop(2_000);
    guard.close();
    rmSync(folder, { recursive: true });
  };
}
