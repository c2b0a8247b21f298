/**
 * One origin, two models: the default one with its real weights, and a tiny encoder that the stack itself imports. Through
 * the edge each answers for itself, has hits of its own, and goes on while the other is away.
 */
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test } from "vitest";
import type { Stack } from "../../infra/launch/stack.ts";
import type { ModelList } from "../../shared/completion-response.ts";
import type { EmbeddingList } from "../../shared/embedding-request.ts";
import { writeTinyBert } from "../fakes/tiny-bert.ts";
import { DEFAULT_MODEL } from "../setup/default-model.ts";
import { startPrivateStack } from "../setup/private-stack.ts";

const ENCODER = "tiny-bert";

let home: string;
let stack: Stack;
let token: string;

beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "coldpath-several-"));
  const folder = inject("modelFolder");
  symlinkSync(folder, join(home, basename(folder)));
  writeTinyBert(join(home, "checkpoints", ENCODER));
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

async function start(env: Readonly<Record<string, string>> = {}): Promise<void> {
  stack = await startPrivateStack({
    COLDPATH_MODELS_DIR: home,
    // The encoder first: whoever names no model means the first that makes text.
    COLDPATH_MODEL: `${join(home, "checkpoints", ENCODER)}, ${DEFAULT_MODEL}`,
    COLDPATH_EDGE: "node",
    ...env,
  });
  token = await stack.token({ sub: "alice", plan: "bench" });
}

function send(path: string, body?: object): Promise<Response> {
  return fetch(stack.edgeUrl + path, {
    method: body === undefined ? "GET" : "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    ...(body && { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(30_000),
  });
}

function chat(content: string): Promise<Response> {
  const messages = [{ role: "user", content }];
  return send("/v1/chat/completions", { model: DEFAULT_MODEL, messages, max_tokens: 8, temperature: 0 });
}

function embed(input: string): Promise<Response> {
  return send("/v1/embeddings", { model: ENCODER, input });
}

async function readiness(): Promise<unknown> {
  const response = await fetch(`${stack.originUrl}/ready`);
  return [response.status, await response.json()];
}

describe("both are there", () => {
  beforeEach(() => start());
  afterEach(() => stack.stop());

  test("each answers for itself, and its hits are its own", async () => {
    const { data } = (await (await send("/v1/models")).json()) as ModelList;
    expect(data.map(({ id, task }) => [id, task])).toEqual([
      [ENCODER, "embed"],
      [DEFAULT_MODEL, "generate"],
    ]);
    expect(new Set(data.map(({ digest }) => digest)).size).toBe(2);

    for (const ask of [() => chat("a cat!"), () => embed("a cat!")]) {
      const cold = await ask();
      expect([cold.status, cold.headers.get("x-cache")]).toEqual([200, "MISS"]);
      const hit = await ask();
      expect([hit.status, hit.headers.get("x-cache")]).toEqual([200, "HIT"]);
      expect(await hit.text()).toBe(await cold.text());
    }
    const vectors = (await (await embed("the dogs")).json()) as EmbeddingList;
    expect(vectors).toMatchObject({ model: ENCODER, usage: { prompt_tokens: 5 } });
    expect(vectors.data[0]?.embedding).toHaveLength(64);

    const simple = await send("/generate", { prompt: "Hello?", max_tokens: 4 });
    expect([simple.status, await simple.json()]).toMatchObject([200, { response: expect.stringMatching(/./) }]);

    // Where one model's answers are forgotten the other's stay.
    const admin = await stack.token({ sub: "root", tenant: "alice", scope: ["admin"] });
    const purged = await fetch(`${stack.edgeUrl}/admin/purge`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${admin}` },
      body: JSON.stringify({ model: ENCODER }),
    });
    expect(purged.status).toBe(200);
    await expect.poll(async () => (await embed("a cat!")).headers.get("x-cache"), { timeout: 30_000 }).toBe("MISS");
    expect((await chat("a cat!")).headers.get("x-cache")).toBe("HIT");
  });

  test("an unknown one is a 404, and each tells the other's clients where to go", async () => {
    const unknown = await send("/v1/completions", { model: `${DEFAULT_MODEL},${ENCODER}`, prompt: "x" });
    expect([unknown.status, await unknown.json()]).toMatchObject([404, { error: { code: "model_not_found" } }]);
    const text = await send("/v1/completions", { model: ENCODER, prompt: "x" });
    expect([text.status, await text.json()]).toMatchObject([400, { error: { message: /\/v1\/embeddings/ } }]);
    const vectors = await send("/v1/embeddings", { model: DEFAULT_MODEL, input: "x" });
    expect([vectors.status, await vectors.json()]).toMatchObject([400, { error: { message: /chat\/completions/ } }]);
  });
});

test("an engine that dies for good leaves the other model serving, and readiness says which it was", async () => {
  // No step of a real model is over so soon: the first request's engine counts as hung.
  await start({ COLDPATH_STEP_TIMEOUT_MS: "1", COLDPATH_ENGINE_CRASHES_MAX: "0" });
  try {
    const models = { [ENCODER]: "ready", [DEFAULT_MODEL]: "ready" };
    expect(await readiness()).toEqual([200, { status: "ready", models }]);
    const died = await chat("Hello?");
    expect([died.status, await died.json()]).toMatchObject([503, { error: { type: "server_error" } }]);
    expect(await readiness()).toEqual([200, { status: "degraded", models: { ...models, [DEFAULT_MODEL]: "failed" } }]);
    const vectors = await embed("a cat!");
    expect([vectors.status, vectors.headers.get("x-cache")]).toEqual([200, "MISS"]);
    expect((await chat("Hello again?")).status).toBe(503);
    expect((await fetch(`${stack.edgeUrl}/readyz`)).status).toBe(200);
    const metrics = await (await fetch(`${stack.originUrl}/metrics`)).text();
    expect(metrics).toContain(`coldpath_origin_engine_crashes_total{model_name="${DEFAULT_MODEL}"} 1`);
    expect(metrics).toContain(`coldpath_origin_engine_crashes_total{model_name="${ENCODER}"} 0`);
  } finally {
    await stack.stop();
  }
});
