/** Where the stack's Redis comes from: the operator's, a private one, or none; each with its own troubles. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient } from "redis";
import { afterAll, expect, inject, it, onTestFinished } from "vitest";
import { startGuard } from "../../infra/launch/guard.ts";
import { findFreePort } from "../../infra/launch/ports.ts";
import { type RedisOptions, provideRedis } from "../../infra/redis.ts";

const folder = mkdtempSync(join(tmpdir(), "coldpath-redis-test-"));
afterAll(() => rmSync(folder, { recursive: true }));

function options(over: Partial<RedisOptions> = {}): RedisOptions & { readonly lines: string[] } {
  const guard = startGuard();
  onTestFinished(() => guard.close());
  const lines: string[] = [];
  return {
    redisUrl: undefined,
    password: "letmein",
    memoryBytes: 16 * 1024 * 1024,
    folder,
    env: process.env,
    guard,
    say: (line) => lines.push(line),
    ...over,
    lines,
  };
}

it("uses the Redis the operator names", async () => {
  const { redisUrl } = inject("redisRest");
  expect(await provideRedis(options({ redisUrl }))).toEqual({ url: redisUrl, part: undefined });
});

it("names the place and the reason when the operator's Redis can't be used, and never the password", async () => {
  const { port } = new URL(inject("redisRest").redisUrl);
  const wrongPassword = provideRedis(options({ redisUrl: `redis://:hunter2@127.0.0.1:${port}` }));
  await expect(wrongPassword).rejects.toThrow(
    /^the Redis at 127\.0\.0\.1:\d+ can't be used \(WRONGPASS.*correct COLDPATH_REDIS_URL/,
  );
  await expect(wrongPassword).rejects.not.toThrow(/hunter2/);

  const nobody = provideRedis(options({ redisUrl: `redis://127.0.0.1:${await findFreePort()}` }));
  await expect(nobody).rejects.toThrow(/ECONNREFUSED.*correct COLDPATH_REDIS_URL/);
});

it("notices that what listens there is no Redis", async () => {
  const server = createServer((socket) => socket.on("error", () => {}).end("HTTP/1.1 400 Bad Request\r\n\r\n"));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  const { port } = server.address() as AddressInfo;
  await expect(provideRedis(options({ redisUrl: `redis://127.0.0.1:${port}` }))).rejects.toThrow(/can't be used/);
});

it("starts a private one that wants its password, shows it to no process list, and writes nothing to disk", async () => {
  const given = options();
  const redis = await provideRedis(given);
  if (redis?.part === undefined) throw new Error("no private Redis was started");
  const { part, url } = redis;
  onTestFinished(() => part.stop(1_000));
  expect(given.lines).toEqual([]);
  expect(execFileSync("ps", ["-A", "-ww", "-o", "args="], { encoding: "utf8" })).not.toContain("letmein");
  expect(readFileSync(join(folder, "redis.log"), "utf8")).not.toContain("letmein");

  const client = createClient({ url });
  await client.connect();
  onTestFinished(() => client.destroy());
  expect(await client.configGet("maxmemory-policy")).toEqual({ "maxmemory-policy": "volatile-lru" });
  expect(await client.configGet("save")).toEqual({ save: "" });
  expect(await client.configGet("maxmemory")).toEqual({ maxmemory: String(16 * 1024 * 1024) });
  expect(await client.configGet("bind")).toEqual({ bind: "127.0.0.1" });

  const stranger = createClient({ url: url.replace("letmein", "guess"), socket: { reconnectStrategy: false } });
  stranger.on("error", () => {});
  await expect(stranger.connect()).rejects.toThrow(/WRONGPASS/);
});

it("keeps what has no expiry and what is in use, and lets the cold answers go, when memory is full", async () => {
  const redis = await provideRedis(options({ memoryBytes: 8 * 1024 * 1024 }));
  if (redis?.part === undefined) throw new Error("no private Redis was started");
  const { part, url } = redis;
  onTestFinished(() => part.stop(1_000));
  const client = createClient({ url });
  await client.connect();
  onTestFinished(() => client.destroy());

  await client.set("revoked", "1");
  await client.set("limit", "1", { EX: 60 });
  const answer = "x".repeat(16 * 1024);
  // Redis' clock for the least recently used counts seconds, so five rounds in five seconds; about 350 answers fit.
  for (let round = 0; round < 5; round += 1) {
    for (let index = 0; index < 150; index += 1) await client.set(`answer:${round}:${index}`, answer, { EX: 1_800 });
    await client.incr("limit");
    await sleep(1_100);
  }
  const kept = (round: number) => client.exists(Array.from({ length: 150 }, (_, index) => `answer:${round}:${index}`));
  expect(await kept(0)).toBeLessThan(15);
  expect(await kept(4)).toBe(150);
  expect(await client.get("revoked")).toBe("1");
  expect(await client.get("limit")).toBe("6");
});

it("goes on without one, and says so in one line, where none can be had", async () => {
  const bin = join(folder, "bin");
  mkdirSync(bin);
  symlinkSync("/bin/sh", join(bin, "sh"));
  const given = options({ env: { PATH: bin } });
  expect(await provideRedis(given)).toBeNull();
  expect(given.lines.at(-1)).toMatch(/going on without Redis/);
});

it("says which program does not start, and what it complained about", async () => {
  const bin = join(folder, "broken");
  mkdirSync(bin);
  writeFileSync(join(bin, "valkey-server"), "#!/bin/sh\necho no luck today\nexit 1\n", { mode: 0o755 });
  await expect(provideRedis(options({ env: { PATH: bin } }))).rejects.toThrow(
    /valkey-server does not start \(ended with exit code 1: no luck today\): set COLDPATH_REDIS_URL/,
  );
});
