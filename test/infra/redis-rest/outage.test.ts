/** redis-rest while its Redis is killed, hangs, is slow, or was never there: clear answers at once, and back by itself. */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished, vi } from "vitest";
import { startGuard } from "../../../infra/launch/guard.ts";
import { type Part, startPart } from "../../../infra/launch/part.ts";
import { findFreePort } from "../../../infra/launch/ports.ts";
import { type RedisRestOptions, startRedisRest } from "../../../infra/redis-rest/serve.ts";
import { findRedisProgram } from "../../../infra/redis.ts";
import { Wire } from "../../setup/wire.ts";

const token = randomBytes(24).toString("hex");

/** A Redis that a test may mistreat. */
async function startRedis(port: number): Promise<Part> {
  const folder = mkdtempSync(join(tmpdir(), "coldpath-outage-"));
  const guard = startGuard();
  const part = await startPart({
    name: "Redis",
    command: findRedisProgram(process.env) ?? "redis-server",
    args: ["--port", String(port), "--bind", "127.0.0.1", "--save", ""],
    cwd: folder,
    env: process.env,
    output: { file: join(folder, "redis.log") },
    guard,
  });
  onTestFinished(async () => {
    part.kill();
    await part.exited;
    guard.close();
    rmSync(folder, { recursive: true });
  });
  return part;
}

async function startRest(port: number, options: Partial<RedisRestOptions> = {}) {
  const lines: string[] = [];
  const rest = await startRedisRest({
    host: "127.0.0.1",
    port: 0,
    token,
    redisUrl: `redis://127.0.0.1:${port}`,
    timeoutMs: 500,
    bodyBytesMax: 1_000_000,
    pipelineCommandsMax: 100,
    pendingCommandsMax: 50,
    log: (line) => lines.push(line),
    ...options,
  });
  onTestFinished(() => rest.close());
  const post = async (path: string, body: unknown) => {
    const headers = { authorization: `Bearer ${token}` };
    const response = await fetch(`${rest.url}${path}`, { method: "POST", body: JSON.stringify(body), headers });
    return { status: response.status, body: (await response.json()) as { error?: string; result?: unknown } };
  };
  const health = async () => (await fetch(`${rest.url}/health`)).status;
  const ready = () => vi.waitFor(async () => expect(await health()).toBe(200), { timeout: 10_000, interval: 20 });
  return { post, health, ready, lines };
}

it("answers 503 at once while there is no Redis, and serves as soon as there is one", async () => {
  const port = await findFreePort();
  const rest = await startRest(port);
  const started = performance.now();
  expect(await rest.post("/", ["GET", "a"])).toEqual({ status: 503, body: { error: "ERR Redis is not reachable" } });
  expect((await rest.post("/pipeline", [["GET", "a"]])).status).toBe(503);
  expect((await rest.post("/multi-exec", [["GET", "a"]])).status).toBe(503);
  expect(await rest.health()).toBe(503);
  expect(performance.now() - started).toBeLessThan(400);

  await startRedis(port);
  await rest.ready();
  expect(await rest.post("/", ["SET", "a", "b"])).toEqual({ status: 200, body: { result: "OK" } });
});

it("answers every request when Redis is killed under load, and serves the next one when it is back", async () => {
  const port = await findFreePort();
  const redis = await startRedis(port);
  const rest = await startRest(port);
  await rest.ready();

  const answers: number[] = [];
  const stopAt = performance.now() + 1_000;
  const clients = Array.from({ length: 8 }, async () => {
    while (performance.now() < stopAt)
      answers.push(
        (
          await rest.post("/multi-exec", [
            ["INCR", "n"],
            ["GET", "n"],
          ])
        ).status,
      );
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  redis.kill();
  await Promise.all(clients);
  expect(new Set(answers)).toEqual(new Set([200, 503]));

  await startRedis(port);
  await rest.ready();
  expect((await rest.post("/", ["PING"])).body).toEqual({ result: "PONG" });
  // One line for each change, however many requests failed in between.
  expect(rest.lines.filter((line) => line.includes("connected")).length).toBe(2);
  expect(rest.lines.length).toBeLessThan(8);
});

it("answers 504 when Redis hangs, refuses to pile commands up, and recovers with it", async () => {
  const port = await findFreePort();
  const redis = await startRedis(port);
  const rest = await startRest(port);
  await rest.ready();
  process.kill(redis.pid, "SIGSTOP");

  const hung = await rest.post("/", ["SET", "late", "1"]);
  expect(hung.status).toBe(504);
  expect(hung.body.error).toContain("did not answer within 500 ms");
  // 49 more commands reach the limit of 50 that wait at once.
  const waiting = Array.from({ length: 7 }, () =>
    rest.post(
      "/pipeline",
      Array.from({ length: 7 }, () => ["PING"]),
    ),
  );
  const refused = await rest.post("/", ["PING"]);
  expect(refused).toEqual({ status: 503, body: { error: "ERR too many commands are waiting for Redis" } });
  expect((await Promise.all(waiting)).map(({ status }) => status)).toEqual(Array.from({ length: 7 }, () => 504));

  process.kill(redis.pid, "SIGCONT");
  await vi.waitFor(async () => expect((await rest.post("/", ["GET", "late"])).body).toEqual({ result: "1" }));
});

it("says once why it can't use a Redis that wants another password", async () => {
  const port = await findFreePort();
  await startRedis(port);
  const rest = await startRest(port, { redisUrl: `redis://:wrong@127.0.0.1:${port}` });
  expect(await rest.health()).toBe(503);
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(rest.lines).toEqual([expect.stringMatching(/^redis-rest: Redis is away: .*AUTH/)]);
});

it("refuses to start on a port that is taken", async () => {
  const port = await findFreePort();
  await startRedis(port);
  await vi.waitFor(() => expect(startRest(port, { port })).rejects.toThrow(/EADDRINUSE/));
});

function valueOf(key: string): string {
  return `value of ${key}`;
}

it.each([
  ["bytes that are no reply", "\0\u0001<html>nonsense</html>\r\n"],
  ["a length that is none", "$abc\r\n"],
  ["half a reply and then another", "*3\r\n$1\r\na\r\n!!!\r\n"],
])("gives the connection up after %s, and no command hears another's reply", async (_, nonsense) => {
  const port = await findFreePort();
  await startRedis(port);
  const wire = new Wire({ host: "127.0.0.1", port });
  const { port: wirePort } = await wire.open();
  onTestFinished(() => wire.close());
  const rest = await startRest(wirePort);
  await rest.ready();
  const keys = Array.from({ length: 20 }, (_unused, index) => `key ${index}`);
  await rest.post(
    "/pipeline",
    keys.map((key) => ["SET", key, valueOf(key)]),
  );

  wire.nonsense = nonsense;
  const meanwhile = await Promise.all(keys.map((key) => rest.post("/", ["GET", key])));
  expect([...new Set(meanwhile.map(({ status }) => status))].every((status) => status === 503 || status === 504)).toBe(
    true,
  );
  expect(meanwhile.map(({ body }) => body.result)).toEqual(keys.map(() => undefined));

  wire.nonsense = undefined;
  const wrong: unknown[] = [];
  const isBack = async (): Promise<void> => {
    const after = await Promise.all(keys.map((key) => rest.post("/", ["GET", key])));
    const results = after.map(({ body }) => body.result);
    wrong.push(...results.filter((result, index) => result !== undefined && result !== valueOf(keys[index] ?? "")));
    expect(results).toEqual(keys.map(valueOf));
  };
  await vi.waitFor(isBack, { timeout: 20_000, interval: 1_000 });
  expect(wrong).toEqual([]);
});
