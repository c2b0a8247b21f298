/** Several models behind one front door: each answers for itself, and what befalls one is nothing to the others. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Admission } from "../../../origin/request/admit.ts";
import type { ServedEncoder } from "../../../origin/request/answer-embeddings.ts";
import type { EngineClient } from "../../../origin/engine/client.ts";
import type { EngineStatus } from "../../../origin/engine/supervisor.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { BYTE_MODEL, createDecoder, createEncoder, createOrigin } from "../../fakes/origin.ts";

const ALPHA = { ...BYTE_MODEL, id: "alpha", digest: "a".repeat(64) };
const BETA = { ...BYTE_MODEL, id: "beta", digest: "b".repeat(64) };
const VECTORS: ServedEncoder = {
  id: "vectors",
  digest: "c".repeat(64),
  created: 1_600_000_000,
  contextLength: 24,
  hiddenSize: 2,
  embedding: { pooling: "mean", normalized: false, dimensions: [] },
};

const engines: EngineClient[] = [];
beforeAll(async () => {
  engines.push(await startFakeEngine(), await startFakeEngine());
});
afterAll(() => Promise.all(engines.map((engine) => engine.stop())));

/** The three of them, each with a status that can be changed. */
async function serve(admission = new Admission({ openMax: 9, followersMax: 9, waitMs: () => undefined })) {
  const statuses: Record<"alpha" | "beta" | "vectors", EngineStatus> = {
    alpha: "ready",
    beta: "ready",
    vectors: "ready",
  };
  const decoder = (id: "alpha" | "beta", index: number) => {
    const engine = engines[index];
    if (engine === undefined) throw new Error("there is no such engine");
    return {
      submit: (...asked: Parameters<EngineClient["submit"]>) => engine.submit(...asked),
      occupancy: engine.occupancy,
      counters: engine.counters,
      get status() {
        return statuses[id];
      },
    };
  };
  const encoder = {
    get status() {
      return statuses.vectors;
    },
    occupancy: { running: 0, waiting: 0 },
    embed: (inputs: readonly unknown[]) =>
      Promise.resolve({ vectors: inputs.map(() => Float32Array.of(3, 4)), tokens: inputs.length }),
    stop: () => Promise.resolve(),
  };
  const origin = await createOrigin({
    services: [
      createEncoder(VECTORS, encoder),
      createDecoder({ engine: decoder("alpha", 0), model: ALPHA, admission }),
      createDecoder({ engine: decoder("beta", 1), model: BETA }),
    ],
  });
  const complete = (model: string) => origin.ask("/v1/completions", { model, prompt: "x", max_tokens: 3 });
  const embed = (model: string) => origin.ask("/v1/embeddings", { model, input: "x" });
  const ready = async () => {
    const response = await origin.app.request("/ready");
    return [response.status, await response.json()];
  };
  return { ...origin, complete, embed, ready, statuses };
}

describe("a request", () => {
  test("is answered by the model it names, under that model's digest", async () => {
    const { complete, embed } = await serve();
    for (const [answer, model] of [
      [await complete("alpha"), ALPHA],
      [await complete("beta"), BETA],
      [await embed("vectors"), VECTORS],
    ] as const) {
      expect([answer.status, answer.headers.get("coldpath-model-digest")]).toEqual([200, model.digest]);
      expect(await answer.json()).toMatchObject({ model: model.id });
    }
  });

  test("that names none is answered by the first that makes text", async () => {
    const { ask } = await serve();
    const answer = await ask("/generate", { prompt: "x", max_tokens: 3 });
    expect([answer.status, answer.headers.get("coldpath-model-digest")]).toEqual([200, ALPHA.digest]);
  });

  test("for an unknown model, an empty name or a property of objects is a 404", async () => {
    const { complete, embed } = await serve();
    for (const name of ["gamma", "ALPHA", "alpha,beta", " alpha", "__proto__", "constructor"]) {
      for (const answer of [await complete(name), await embed(name)]) {
        expect([answer.status, await answer.json()]).toMatchObject([
          404,
          { error: { code: "model_not_found", param: "model" } },
        ]);
      }
    }
  });

  test("of the wrong kind is told the right path", async () => {
    const { complete, embed } = await serve();
    const text = await complete("vectors");
    expect([text.status, await text.json()]).toMatchObject([400, { error: { message: /\/v1\/embeddings/ } }]);
    const vectors = await embed("beta");
    expect([vectors.status, await vectors.json()]).toMatchObject([400, { error: { message: /\/v1\/chat\/compl/ } }]);
  });
});

test("all are listed, in their order, with their digests and what they make", async () => {
  const { ask } = await serve();
  const { data } = (await (await ask("/v1/models")).json()) as { data: Record<string, unknown>[] };
  expect(data.map(({ id, digest, task }) => [id, digest, task])).toEqual([
    ["vectors", VECTORS.digest, "embed"],
    ["alpha", ALPHA.digest, "generate"],
    ["beta", BETA.digest, "generate"],
  ]);
});

describe("when one model is away", () => {
  test("the others answer, its requests get 503, and readiness says which it is", async () => {
    const { complete, embed, ready, statuses, ask } = await serve();
    const all = { vectors: "ready", alpha: "ready", beta: "ready" };
    expect(await ready()).toEqual([200, { status: "ready", models: all }]);
    statuses.alpha = "restarting";
    expect(await ready()).toEqual([200, { status: "degraded", models: { ...all, alpha: "restarting" } }]);
    const away = await complete("alpha");
    expect([away.status, away.headers.get("retry-after"), await away.json()]).toMatchObject([
      503,
      "1",
      { error: { code: "not_ready", message: "the model is not available: restarting" } },
    ]);
    expect([(await complete("beta")).status, (await embed("vectors")).status]).toEqual([200, 200]);
    expect((await ask("/v1/models")).status).toBe(200);
    // A request that names no model does not move on to another one: its cached answers are the first's.
    expect((await ask("/generate", { prompt: "x" })).status).toBe(503);

    statuses.vectors = "failed";
    expect(await ready()).toMatchObject([200, { status: "degraded" }]);
    expect([(await embed("vectors")).status, (await complete("beta")).status]).toEqual([503, 200]);
  });

  test.each([
    [{ alpha: "restarting", beta: "failed", vectors: "failed" }, "restarting", true],
    [{ alpha: "failed", beta: "failed", vectors: "failed" }, "failed", false],
  ] as const)("and so are all others: %o is %s", async (changes, status, hasFuture) => {
    const { models, ready, statuses } = await serve();
    Object.assign(statuses, changes);
    expect(await ready()).toMatchObject([503, { status, models: changes }]);
    expect(models.hasFuture).toBe(hasFuture);
  });
});

test("a model whose queue is full refuses alone", async () => {
  const { complete, embed } = await serve(new Admission({ openMax: 0, followersMax: 0, waitMs: () => undefined }));
  const full = await complete("alpha");
  expect([full.status, await full.json()]).toMatchObject([429, { error: { code: "queue_full" } }]);
  expect([(await complete("beta")).status, (await embed("vectors")).status]).toEqual([200, 200]);
});

test("figures and the log tell the models apart, and a client's word is no label", async () => {
  const { complete, embed, app, lines, statuses } = await serve();
  await complete("alpha");
  await complete("beta");
  await complete("beta");
  await embed("vectors");
  await complete('gamma"}');
  statuses.alpha = "restarting";
  const text = await (await app.request("/metrics")).text();
  expect(text).toContain('coldpath_origin_generation_tokens_total{model_name="alpha"} 3');
  expect(text).toContain('coldpath_origin_generation_tokens_total{model_name="beta"} 6');
  expect(text).toContain('coldpath_origin_e2e_request_latency_seconds_count{model_name="beta"} 2');
  expect(text).toContain('coldpath_origin_model_ready{model_name="alpha"} 0');
  expect(text).toContain('coldpath_origin_model_ready{model_name="vectors"} 1');
  expect(text).toContain('coldpath_origin_kv_cache_bytes{model_name="beta"}');
  expect(text).not.toContain('coldpath_origin_kv_cache_bytes{model_name="vectors"}');
  expect(text).not.toContain("gamma");
  expect(lines.map(({ model }) => model)).toEqual(["alpha", "beta", "beta", "vectors", undefined]);
});
