import { describe, expect, test } from "vitest";
import { Engine, type EngineOptions, type SequenceUpdate } from "../../../origin/engine/engine.ts";
import type { SequenceRequest } from "../../../origin/engine/sequence.ts";
import { FakeRuntime, type FakeRuntimeOptions } from "../../fakes/fake-runtime.ts";
import { GREEDY } from "../../fakes/greedy.ts";

function createEngine(runtime: Partial<FakeRuntimeOptions> = {}, options: Partial<EngineOptions> = {}) {
  const fake = new FakeRuntime({ slots: 4, capacity: 64, vocabSize: 97, ...runtime });
  const engine = new Engine({
    runtime: fake,
    endTokens: [],
    prefillChunkTokens: 4,
    queueWaitMs: 1000,
    now: () => 0,
    ...options,
  });
  return { engine, fake };
}

function request(id: number, changes: Partial<SequenceRequest> = {}): SequenceRequest {
  return { id, prompt: Int32Array.of(id % 97, 2, 3), maxTokens: 5, sampling: GREEDY, ...changes };
}

/** Steps until nothing is open. */
async function run(engine: Engine): Promise<Map<number, SequenceUpdate[]>> {
  const updates = new Map<number, SequenceUpdate[]>();
  for (let steps = 0; engine.busy; steps++) {
    if (steps > 1000) throw new Error("the engine does not come to an end");
    const report = await engine.step();
    for (const update of report.updates) updates.set(update.id, [...(updates.get(update.id) ?? []), update]);
  }
  return updates;
}

const tokensOf = (updates: readonly SequenceUpdate[] | undefined) => updates?.map(({ token }) => token);

describe("a batch", () => {
  const requests = Array.from({ length: 12 }, (_, i) =>
    request(i + 1, {
      prompt: Int32Array.from({ length: 1 + ((i * 7) % 19) }, (_unused, j) => (i * 31 + j * 5) % 97),
      maxTokens: 1 + ((i * 5) % 11),
      sampling:
        i % 3 === 0
          ? GREEDY
          : {
              ...GREEDY,
              temperature: 1,
              topP: i % 2 === 0 ? 0.8 : 1,
              topK: i % 4 === 0 ? 7 : 0,
              seed: i,
              presencePenalty: 1,
            },
    }),
  );

  test.each([false, true])(
    "answers token for token as one request at a time does (asynchronous: %s)",
    async (asynchronous) => {
      const together = createEngine({ asynchronous }, { prefillChunkTokens: 3, endTokens: [11, 12, 13] }).engine;
      for (const one of requests) together.submit(one);
      const batched = await run(together);

      for (const one of requests) {
        const { engine } = createEngine({ slots: 1 }, { prefillChunkTokens: 64, endTokens: [11, 12, 13] });
        engine.submit(one);
        expect(batched.get(one.id), `request ${one.id}`).toEqual((await run(engine)).get(one.id));
      }
    },
  );

  test("takes one step for every running row together", async () => {
    const { engine, fake } = createEngine();
    for (const id of [1, 2, 3, 4]) engine.submit(request(id, { maxTokens: 10 }));
    await run(engine);
    // Four prefills, one after the other, the first rows decoding meanwhile; then the last row's nine more.
    expect(fake.steps).toBe(4 + 9);
  });
});

describe("the end of an answer", () => {
  test("is an end token, which is reported, or the length", async () => {
    const probe = createEngine().engine;
    probe.submit(request(1));
    const tokens = tokensOf((await run(probe)).get(1)) ?? [];

    const { engine } = createEngine({}, { endTokens: [tokens[2] ?? -1] });
    engine.submit(request(1));
    engine.submit(request(2, { prompt: request(1).prompt, maxTokens: 2 }));
    const updates = await run(engine);
    expect(updates.get(1)?.map(({ token, status }) => [token, status])).toEqual([
      [tokens[0], "running"],
      [tokens[1], "running"],
      [tokens[2], "stop"],
    ]);
    expect(updates.get(2)?.map(({ status }) => status)).toEqual(["running", "length"]);
  });

  test("may be the first token: the row never joins", async () => {
    const { engine } = createEngine();
    engine.submit(request(1, { maxTokens: 1 }));
    expect((await engine.step()).updates).toMatchObject([{ id: 1, status: "length" }]);
    expect(engine.busy).toBe(false);
  });

  test("may be a full context: not one token too many", async () => {
    const { engine } = createEngine({ capacity: 16 });
    engine.submit(request(1, { prompt: new Int32Array(10).fill(1), maxTokens: 6 }));
    expect(tokensOf((await run(engine)).get(1))).toHaveLength(6);
  });
});

describe("a request that can't be right", () => {
  test.each([
    ["no prompt", { prompt: new Int32Array() }],
    ["no room for an answer", { maxTokens: 0 }],
    ["more than a row holds", { maxTokens: 62 }],
    ["a token outside the vocabulary", { prompt: Int32Array.of(97) }],
    ["a negative token", { prompt: Int32Array.of(-1) }],
  ])("is refused: %s", (_, changes) => {
    const { engine } = createEngine();
    expect(() => engine.submit(request(1, changes))).toThrow(RangeError);
    expect(engine.busy).toBe(false);
  });
});

describe("trouble", () => {
  test("with one row's logits ends that row alone", async () => {
    const alone = createEngine().engine;
    alone.submit(request(2));
    const expected = tokensOf((await run(alone)).get(2));

    const { engine } = createEngine({ poisonToken: 96 });
    engine.submit(request(1, { prompt: Int32Array.of(96, 1) }));
    engine.submit(request(2));
    const updates = await run(engine);
    expect(updates.get(1)).toEqual([{ id: 1, token: -1, status: "poisoned" }]);
    expect(tokensOf(updates.get(2))).toEqual(expected);
  });

  test("with a run ends the rows of that run, with the reason, and the queue goes on", async () => {
    const { engine } = createEngine({ failToken: 96, slots: 2 });
    engine.submit(request(1, { maxTokens: 20 }));
    engine.submit(request(2, { prompt: Int32Array.of(96, 1) }));
    engine.submit(request(3));
    await engine.step();
    const report = await engine.step();
    expect(report.failure).toMatchObject({ message: "the run failed" });
    expect(report.updates.map(({ id, status }) => [id, status])).toEqual([
      [1, "failed"],
      [2, "failed"],
    ]);
    expect(tokensOf((await run(engine)).get(3))).toHaveLength(5);
  });
});

describe("a cancelled request", () => {
  test("frees its row for the very next step, wherever it is", async () => {
    const { engine } = createEngine({ slots: 2 }, { prefillChunkTokens: 2 });
    for (const id of [1, 2, 3, 4]) engine.submit(request(id, { prompt: new Int32Array(4).fill(id), maxTokens: 40 }));
    for (let i = 0; i < 4; i++) await engine.step();
    expect(engine.running.map(({ id }) => id)).toEqual([1, 2]);

    engine.cancel(1);
    expect(engine.running.map(({ id, slot }) => [id, slot])).toEqual([[2, 0]]);
    await engine.step();
    expect(engine.prefilling?.id).toBe(3);
    engine.cancel(3);
    engine.cancel(4);
    engine.cancel(99);
    expect((await engine.step()).updates.map(({ id }) => id)).toEqual([2]);
    engine.cancel(2);
    expect(engine.busy).toBe(false);
  });
});

test("a request that waits too long is given up, and only then", async () => {
  let now = 0;
  const { engine } = createEngine({ slots: 1 }, { now: () => now, queueWaitMs: 100 });
  engine.submit(request(1, { maxTokens: 50 }));
  await engine.step();
  engine.submit(request(2));
  now = 50;
  engine.submit(request(3));
  now = 99;
  expect((await engine.step()).updates.map(({ id }) => id)).toEqual([1]);
  now = 100;
  expect((await engine.step()).updates.map(({ id, status }) => [id, status])).toEqual([
    [2, "expired"],
    [1, "running"],
  ]);
  engine.cancel(1);
  expect(tokensOf((await run(engine)).get(3))).toHaveLength(5);
});
