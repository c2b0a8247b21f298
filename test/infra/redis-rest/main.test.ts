/** The redis-rest process: what it says, and how it ends. */
import { spawn } from "node:child_process";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { expect, inject, it, onTestFinished, vi } from "vitest";

const { redisUrl, url: takenUrl } = inject("redisRest");
const TOKEN = "a-token-of-at-least-32-bytes-in-length";

function run(env: NodeJS.ProcessEnv) {
  const child = spawn(process.execPath, [join(import.meta.dirname, "../../../infra/redis-rest/main.ts")], {
    env: { PATH: process.env["PATH"], COLDPATH_REDIS_URL: redisUrl, COLDPATH_REDIS_REST_PORT: "0", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  const said = { stdout: "", stderr: "" };
  child.stdout.on("data", (chunk: Buffer) => (said.stdout += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (said.stderr += chunk.toString()));
  const ended = new Promise<number | null>((resolve) => child.once("close", (code) => resolve(code)));
  return { child, said, ended };
}

it("serves, and ends at once with exit code 0 on SIGTERM, open connections or not", async () => {
  const { child, said, ended } = run({ COLDPATH_REDIS_REST_TOKEN: TOKEN });
  await vi.waitFor(() => expect(said.stdout).toContain("listening on"), { timeout: 10_000 });
  const url = said.stdout.trim().split(" ").at(-1);
  const response = await fetch(`${url}/ping`, { headers: { authorization: `Bearer ${TOKEN}` } });
  expect(await response.json()).toEqual({ result: "PONG" });
  const started = performance.now();
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
  expect(performance.now() - started).toBeLessThan(2_000);
});

it("goes on when nobody reads its log any more", async () => {
  // Takes every connection and drops it, so there is something to say.
  const flapping = createServer((socket) => socket.destroy());
  await new Promise<void>((resolve) => flapping.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void flapping.close());
  const { port } = flapping.address() as AddressInfo;
  const { child, said, ended } = run({
    COLDPATH_REDIS_REST_TOKEN: TOKEN,
    COLDPATH_REDIS_URL: `redis://127.0.0.1:${port}`,
  });
  await vi.waitFor(() => expect(said.stdout).toContain("listening on"), { timeout: 10_000 });
  child.stdout.destroy();
  child.stderr.destroy();
  const url = said.stdout.trim().split(" ").at(-1);
  let tried = 0;
  flapping.on("connection", () => (tried += 1));
  await vi.waitFor(() => expect(tried).toBeGreaterThan(3), { timeout: 10_000 });
  const response = await fetch(`${url}/ping`, { headers: { authorization: `Bearer ${TOKEN}` } });
  expect(response.status).toBe(503);
  child.kill("SIGTERM");
  expect(await ended).toBe(0);
});

it.each([
  ["no token", {}, "COLDPATH_REDIS_REST_TOKEN must be set: no one could be let in"],
  [
    "a short token",
    { COLDPATH_REDIS_REST_TOKEN: "hunter2" },
    "COLDPATH_REDIS_REST_TOKEN must be at least 32 bytes long",
  ],
  [
    "a port that is none",
    { COLDPATH_REDIS_REST_TOKEN: TOKEN, COLDPATH_REDIS_REST_PORT: "65536" },
    `COLDPATH_REDIS_REST_PORT must be a whole number from 0 to 65535, not "65536"`,
  ],
  [
    "a port that is taken",
    { COLDPATH_REDIS_REST_TOKEN: TOKEN, COLDPATH_REDIS_REST_PORT: new URL(takenUrl).port },
    "redis-rest's port is in use: set COLDPATH_REDIS_REST_PORT to another one",
  ],
])("refuses %s in one sentence", async (_, env, sentence) => {
  const { said, ended } = run(env);
  expect(await ended).toBe(1);
  expect(said.stderr.trimEnd().split("\n").at(-1)).toBe(sentence);
});
