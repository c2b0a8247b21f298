import { describe, expect, test } from "vitest";
import { Engine, type EngineOptions, type SequenceUpdate } from "../../../origin/engine/engine.ts";
import type { SequenceRequest } from "../../../origin/engine/sequence.ts";
import { ENGINE_OPTIONS } from "../../fakes/engine-options.ts";
import { RuntimeError, type StepBatch } from "../../../origin/runtime/port/runtime.ts";
import { FakeRuntime, type FakeRuntimeOptions } from "../../fakes/fake-runtime.ts";
import { GREEDY } from "../../fakes/greedy.ts";

function createEngine(runtime: Partial<FakeRuntimeOptions> = {}, options: Partial<EngineOptions> = {}) {
  const fake = new FakeRuntime({ slots: 4, capacity: 64, vocabSize: 97, ...runtime });
  const engine = new Engine({ ...ENGINE_OPTIONS, runtime: fake, prefillChunkTokens: 4, queueWaitMs: 1000, ...options });
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
    expect(updates.get(1)).toEqual([{ id: 1, token: -1, status: "poisoned", cachedTokens: 0 }]);
    expect(tokensOf(updates.get(2))).toEqual(expected);
  });

  test("with a run ends the request that it comes from; the others go on as if nothing had been", async () => {
    const alone = createEngine().engine;
    for (const id of [1, 3]) alone.submit(request(id, { maxTokens: 20 }));
    const expected = await run(alone);

    const { engine } = createEngine({ failToken: 96 });
    engine.submit(request(1, { maxTokens: 20 }));
    engine.submit(request(2, { prompt: Int32Array.of(96, 1) }));
    engine.submit(request(3, { maxTokens: 20 }));
    const before = [...(await engine.step()).updates];
    const report = await engine.step();
    expect(report).toMatchObject({ failure: { message: "the run failed" }, updates: [] });
    const updates = await run(engine);
    expect(updates.get(2)).toEqual([{ id: 2, token: -1, status: "failed", cachedTokens: 0 }]);
    expect([...before, ...(updates.get(1) ?? [])]).toEqual(expected.get(1));
    expect(updates.get(3)).toEqual(expected.get(3));
  });

  test("with every run ends everybody, not the engine", async () => {
    const { engine, fake } = createEngine();
    fake.step = () => {
      throw new RuntimeError("nothing works any more");
    };
    for (const id of [1, 2, 3]) engine.submit(request(id));
    const updates = await run(engine);
    expect([...updates.values()].flat().map(({ id, status }) => [id, status])).toEqual([
      [1, "failed"],
      [2, "failed"],
      [3, "failed"],
    ]);
  });

  test("with runs of several together ends them after a few, so that nobody is tried for ever", async () => {
    const { engine, fake } = createEngine();
    const step = fake.step.bind(fake);
    fake.step = (batch) => {
      if (batch.decode.tokens.length + (batch.prefill === undefined ? 0 : 1) > 1) throw new RuntimeError("one at most");
      return step(batch);
    };
    for (const id of [1, 2, 3]) engine.submit(request(id));
    const ends = [...(await run(engine)).values()].map((updates) => updates.at(-1)?.status);
    expect(ends.filter((end) => end === "failed")).toHaveLength(2);
    expect(ends).toContain("length");
  });

  test("with the slab's memory ends the request that it was wanted for", async () => {
    const { engine, fake } = createEngine({ capacity: 600 });
    engine.submit(request(1, { maxTokens: 20 }));
    await engine.step();
    const resize = fake.resize.bind(fake);
    fake.resize = (shape) => {
      if (shape.capacity > 256) throw new RuntimeError("no memory");
      resize(shape);
    };
    engine.submit(request(2, { maxTokens: 500 }));
    engine.submit(request(3));
    const updates = await run(engine);
    expect(updates.get(2)?.map(({ status }) => status)).toEqual(["failed"]);
    expect(updates.get(1)?.at(-1)?.status).toBe("length");
    expect(tokensOf(updates.get(3))).toHaveLength(5);
  });

  test("in what was cached does not come back with every hit", async () => {
    const { engine, fake } = createEngine({ poisonToken: 96, vocabSize: 97 }, { prefixCacheBytes: 10_000 });
    const prompt = Int32Array.from({ length: 40 }, (_, i) => i);
    engine.submit(request(1, { prompt, maxTokens: 1 }));
    await run(engine);
    // What lies in the slab goes bad by itself: a bit that flipped.
    const held = fake.held[0];
    if (held !== undefined) held[20] = 96;
    for (const id of [2, 3]) engine.submit(request(id, { prompt, maxTokens: 1 }));
    const updates = await run(engine);
    expect(updates.get(2)).toMatchObject([{ status: "poisoned", cachedTokens: 38 }]);
    expect(updates.get(3)).toMatchObject([{ status: "length", cachedTokens: 0 }]);
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

describe("a request cancelled", () => {
  const moments: readonly (readonly [string, number])[] = [
    ["in the queue", 0],
    ["in its prefill", 3],
    ["in the middle of its answer", 8],
    ["before its last token", 9],
    ["after its end", 30],
  ];
  test.each(moments)("%s is gone, and leaves the others as they are", async (_, steps) => {
    const alone = createEngine().engine;
    alone.submit(request(1, { maxTokens: 15 }));
    const expected = (await run(alone)).get(1);

    const { engine } = createEngine({ slots: 2 }, { prefillChunkTokens: 2, prefixCacheBytes: 10_000 });
    engine.submit(request(1, { maxTokens: 15 }));
    engine.submit(request(2, { prompt: new Int32Array(10).fill(7), maxTokens: 5 }));
    const updates: SequenceUpdate[] = [];
    for (let i = 0; i < steps; i++) updates.push(...(await engine.step()).updates);
    engine.cancel(2);
    engine.cancel(2);
    for (const later of (await run(engine)).values()) updates.push(...later);
    expect(updates.filter(({ id }) => id === 1)).toEqual(expected);
    const ofTwo = updates.filter(({ id }) => id === 2);
    expect(ofTwo.length).toBe({ 0: 0, 3: 0, 8: 3, 9: 4, 30: 5 }[steps]);
  });

  test("while it is parked is gone too", async () => {
    const { engine } = createEngine({ slots: 1 }, { prefixCacheBytes: 10_000 });
    engine.submit(request(1, { maxTokens: 30, priority: 2 }));
    await engine.step();
    engine.submit(request(2, { priority: 0 }));
    await engine.step();
    expect(engine.waiting.map(({ id }) => id)).toEqual([1]);
    engine.cancel(1);
    const updates = await run(engine);
    expect([...updates.keys()]).toEqual([2]);
  });
});

/** The order in which requests begin, one row, each of one token. */
async function orderOf(arrivals: readonly (readonly [id: number, priority: 0 | 1 | 2, atMs: number])[]) {
  let now = 0;
  const { engine } = createEngine({ slots: 1 }, { now: () => now, ageingMs: 100, queueWaitMs: Infinity });
  engine.submit(request(99, { maxTokens: 1 }));
  for (const [id, priority, atMs] of arrivals) {
    now = atMs;
    engine.submit(request(id, { maxTokens: 1, priority }));
  }
  return [...(await run(engine)).keys()].filter((id) => id !== 99);
}

describe("priorities", () => {
  test("go before the order of arrival", async () => {
    expect(
      await orderOf([
        [1, 2, 1],
        [2, 1, 2],
        [3, 0, 3],
        [4, 0, 4],
      ]),
    ).toEqual([3, 4, 2, 1]);
  });

  test("hold nobody back for longer than a class's ageing", async () => {
    const arrivals = [
      [1, 2, 0],
      [4, 1, 99],
      [5, 1, 101],
      [2, 0, 199],
      [3, 0, 201],
    ] as const;
    expect(await orderOf(arrivals)).toEqual([4, 2, 1, 5, 3]);
  });

  test("starve nobody, however many come before: a low one waits for those of its first 2 × ageing", async () => {
    let now = 0;
    const { engine } = createEngine({ slots: 1 }, { now: () => now, ageingMs: 50, queueWaitMs: Infinity });
    engine.submit(request(1, { maxTokens: 1, priority: 2 }));
    let answeredAt = -1;
    for (let id = 2; answeredAt < 0 && id < 1000; id++) {
      engine.submit(request(id, { maxTokens: 1, priority: 0 }));
      const { updates } = await engine.step();
      now += 1;
      if (updates.some((update) => update.id === 1)) answeredAt = now;
    }
    expect(answeredAt).toBeGreaterThan(90);
    expect(answeredAt).toBeLessThan(110);
  });

  test("take a row from a lower one, which goes on later where it was", async () => {
    const alone = createEngine().engine;
    alone.submit(request(1, { maxTokens: 30 }));
    const expected = tokensOf((await run(alone)).get(1));

    for (const prefixCacheBytes of [0, 10_000]) {
      const { engine } = createEngine({ slots: 1 }, { prefixCacheBytes });
      engine.submit(request(1, { maxTokens: 30, priority: 2 }));
      const first: SequenceUpdate[] = [];
      for (let i = 0; i < 20; i++) first.push(...(await engine.step()).updates);
      engine.submit(request(2, { priority: 0, maxTokens: 3 }));
      const updates = await run(engine);
      expect([...updates.keys()]).toEqual([2, 1]);
      expect(tokensOf([...first, ...(updates.get(1) ?? [])])).toEqual(expected);
      expect(engine.counters.preemptions).toBe(1);
      expect(engine.counters.prefixHitTokens).toBe(prefixCacheBytes === 0 ? 0 : 16);
    }
  });
});

describe("time", () => {
  test("that a request may wait is kept, and no longer", async () => {
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

  test("that a sequence waits for its first row is told once, and what each run took", async () => {
    let now = 0;
    const { engine, fake } = createEngine({ slots: 1 }, { now: () => now });
    const step = fake.step.bind(fake);
    fake.step = (batch) => {
      now += 7;
      return step(batch);
    };
    engine.submit(request(1, { maxTokens: 2 }));
    engine.submit(request(2, { maxTokens: 1 }));
    const reports = [];
    while (engine.busy) {
      now += 3;
      const { stepMs, queuedMs } = await engine.step();
      reports.push({ stepMs, queuedMs });
    }
    expect(reports).toEqual([
      { stepMs: 7, queuedMs: [3] },
      { stepMs: 7, queuedMs: [] },
      { stepMs: 7, queuedMs: [23] },
    ]);
  });

  test("that an answer may take ends it, wherever it is", async () => {
    let now = 0;
    const { engine } = createEngine({ slots: 1 }, { now: () => now, prefillChunkTokens: 2 });
    engine.submit(request(1, { maxTokens: 50, deadlineMs: 100 }));
    for (let i = 0; i < 4; i++) await engine.step();
    engine.submit(request(2, { deadlineMs: 50 }));
    now = 60;
    expect((await engine.step()).updates.map(({ id, status }) => [id, status])).toEqual([
      [2, "deadline"],
      [1, "running"],
    ]);
    now = 100;
    expect((await engine.step()).updates).toEqual([{ id: 1, token: -1, status: "deadline", cachedTokens: 0 }]);
    expect(engine.busy).toBe(false);

    engine.submit(request(3, { prompt: new Int32Array(20), deadlineMs: 10 }));
    await engine.step();
    expect(engine.prefilling?.id).toBe(3);
    now = 110;
    expect((await engine.step()).updates.map(({ id, status }) => [id, status])).toEqual([[3, "deadline"]]);
    expect(engine.busy).toBe(false);
  });

  test("that jumps back expires nobody early and keeps nobody for ever", async () => {
    let now = 1_000_000;
    const { engine } = createEngine({ slots: 1 }, { now: () => now, queueWaitMs: 100 });
    engine.submit(request(1, { maxTokens: 50 }));
    await engine.step();
    engine.submit(request(2));
    now = 0;
    expect((await engine.step()).updates.map(({ id }) => id)).toEqual([1]);
    now = 99;
    expect((await engine.step()).updates.map(({ id }) => id)).toEqual([1]);
    now = 100;
    expect((await engine.step()).updates.map(({ status }) => status)).toEqual(["expired", "running"]);
  });

  test("that jumps an hour ahead ends who has no more of it, and nobody else", async () => {
    let now = 0;
    const { engine } = createEngine({ slots: 2 }, { now: () => now, queueWaitMs: 100 });
    engine.submit(request(1, { maxTokens: 50 }));
    engine.submit(request(2, { maxTokens: 50, deadlineMs: 60_000 }));
    for (let step = 0; step < 2; step++) await engine.step();
    for (const [id, priority] of [
      [3, 1],
      [4, 2],
    ] as const) {
      engine.submit(request(id, { priority }));
    }
    now = 3_600_000;
    const statuses = (await engine.step()).updates.map(({ id, status }) => [id, status]);
    expect(statuses).toEqual([
      [2, "deadline"],
      [3, "expired"],
      [4, "expired"],
      [1, "running"],
    ]);
    engine.submit(request(5));
    const updates = await run(engine);
    expect(tokensOf(updates.get(5))).toHaveLength(5);
    expect(updates.get(1)?.at(-1)?.status).toBe("length");
  });

  test.each([Number.NaN, -Infinity, Infinity])(
    "that reads %d once is no time at all, and then goes on",
    async (reading) => {
      let now = 1000;
      const { engine } = createEngine({ slots: 1 }, { now: () => now, queueWaitMs: 100 });
      engine.submit(request(1, { maxTokens: 50 }));
      engine.submit(request(2));
      await engine.step();
      now = reading;
      expect((await engine.step()).updates.map(({ id }) => id)).toEqual([1]);
      now = 1000;
      await engine.step();
      now = 1099;
      expect((await engine.step()).updates.map(({ id }) => id)).toEqual([1]);
      now = 1100;
      expect((await engine.step()).updates.map(({ status }) => status)).toEqual(["expired", "running"]);
    },
  );

  test("that rows were held is known once one has ended", async () => {
    let now = 0;
    const { engine } = createEngine({}, { now: () => now });
    expect(engine.serviceMs).toBeUndefined();
    engine.submit(request(1, { maxTokens: 5 }));
    while (engine.busy) {
      await engine.step();
      now += 10;
    }
    expect(engine.serviceMs).toBe(40);
  });
});

describe("memory", () => {
  test("follows need: the slab grows by buckets, and is given back when asked while nothing runs", async () => {
    const { engine, fake } = createEngine({ slots: 8, capacity: 2000 });
    expect(fake.shape).toMatchObject({ slots: 0, capacity: 0 });
    for (const id of [1, 2, 3]) engine.submit(request(id, { maxTokens: 20 }));
    engine.rest();
    await run(engine);
    expect(fake.shape).toMatchObject({ slots: 4, capacity: 256 });
    engine.submit(request(4, { maxTokens: 900 }));
    await engine.step();
    engine.rest();
    expect(fake.shape).toMatchObject({ slots: 4, capacity: 1024 });
    engine.cancel(4);
    engine.rest();
    expect(fake.shape).toMatchObject({ slots: 0, capacity: 0 });
  });

  test("is what a request waits for; one that could never fit is refused at once", async () => {
    const { engine } = createEngine({ slots: 8, capacity: 2000 }, { kvBytes: 4 * 1024 });
    expect(() => engine.submit(request(1, { maxTokens: 1022 }))).toThrow(RangeError);
    engine.submit(request(1, { maxTokens: 1021 }));
    engine.submit(request(2));
    await engine.step();
    expect([engine.running.length, engine.waiting.length]).toEqual([1, 1]);
    engine.cancel(1);
    for (const id of [3, 4, 5, 6]) engine.submit(request(id, { maxTokens: 30 }));
    for (let i = 0; i < 4; i++) await engine.step();
    // Four rows of 256 tokens take what the one took.
    expect([engine.running.length, engine.waiting.length]).toEqual([4, 1]);
    await run(engine);
  });

  test("is not copied in the common case: rows that join, end last, or go on with their conversation", async () => {
    const { engine } = createEngine({ capacity: 200 }, { prefixCacheBytes: 10_000, prefillChunkTokens: 64 });
    const first = request(1, { prompt: Int32Array.from({ length: 50 }, (_, i) => i) });
    engine.submit(first);
    const answer = tokensOf((await run(engine)).get(1)) ?? [];
    engine.submit(request(2, { prompt: Int32Array.from([...first.prompt, ...answer, 5, 6, 7]) }));
    const updates = (await run(engine)).get(2);
    expect(updates?.[0]?.cachedTokens).toBe(54);
    expect(engine.counters).toMatchObject({ copiedTokens: 0, prefixHits: 1, prefixQueries: 2 });
  });
});

test("what a row has left is saved block by block while others run, and not at once when its slot is needed", async () => {
  const { engine } = createEngine({ capacity: 400 }, { prefixCacheBytes: 10_000 });
  const prompt = Int32Array.from({ length: 170 }, (_, i) => i % 90);
  engine.submit(request(1, { prompt: new Int32Array(20).fill(3), maxTokens: 300 }));
  engine.submit(request(2, { prompt, maxTokens: 1 }));
  const copied: number[] = [];
  const step = async (): Promise<boolean> => {
    const before = engine.counters.copiedTokens;
    const { updates } = await engine.step();
    copied.push(engine.counters.copiedTokens - before);
    return updates.some(({ id }) => id === 2);
  };
  while (!(await step()));
  for (let more = 0; more < 12; more++) await step();
  const ahead = [...copied];
  expect([...new Set(ahead)].toSorted((a, b) => a - b)).toEqual([0, 16]);
  expect(ahead.reduce((sum, tokens) => sum + tokens, 0)).toBe(160);

  engine.submit(request(3, { prompt: new Int32Array(100).fill(7), maxTokens: 1 }));
  await step();
  expect(copied.at(-1)).toBe(0);
  engine.submit(request(4, { prompt, maxTokens: 1 }));
  expect((await run(engine)).get(4)?.[0]?.cachedTokens).toBe(160);
});

describe("the prefix cache", () => {
  const opening = Array.from({ length: 50 }, (_, i) => (i * 7) % 97);
  const ask = (id: number, changes: Partial<SequenceRequest> = {}) =>
    request(id, { prompt: Int32Array.from([...opening, id, 1, 2]), ...changes });

  test.each([
    ["from a row that runs", 40, 10_000],
    ["from a slot that a row has left", 1, 10_000],
  ])("gives %s what a prompt begins with, and the answer stays the same", async (_, maxTokens, prefixCacheBytes) => {
    const alone = createEngine({ capacity: 200 }).engine;
    alone.submit(ask(2));
    const expected = tokensOf((await run(alone)).get(2));

    const { engine } = createEngine({ capacity: 200 }, { prefixCacheBytes });
    engine.submit(ask(1, { maxTokens }));
    engine.submit(ask(2));
    const updates = await run(engine);
    expect(updates.get(2)?.[0]?.cachedTokens).toBe(50);
    expect(tokensOf(updates.get(2))).toEqual(expected);
  });

  test("gives whole blocks from the second tier, for as long as it has them", async () => {
    const { engine } = createEngine({ slots: 1, capacity: 200 }, { prefixCacheBytes: 64 * 4 });
    engine.submit(ask(1, { maxTokens: 1 }));
    engine.submit(request(2, { prompt: new Int32Array(30).fill(9), maxTokens: 1 }));
    engine.submit(ask(3, { maxTokens: 1 }));
    const updates = await run(engine);
    expect([1, 2, 3].map((id) => updates.get(id)?.[0]?.cachedTokens)).toEqual([0, 0, 48]);
    // The next one's block needs the room.
    engine.submit(request(4, { prompt: new Int32Array(80).fill(8), maxTokens: 1 }));
    engine.submit(request(5, { prompt: new Int32Array(80).fill(6), maxTokens: 1 }));
    await run(engine);
    expect(engine.counters.prefixEvictions).toBeGreaterThan(0);
    expect(engine.counters.prefixBytes).toBeLessThanOrEqual(64 * 4);
  });

  test("computes a prompt's last two tokens again, however well it is known", async () => {
    const { engine } = createEngine({ capacity: 200 }, { prefixCacheBytes: 10_000 });
    for (const id of [1, 2]) engine.submit(request(id, { prompt: Int32Array.from(opening), maxTokens: 1 }));
    expect((await run(engine)).get(2)?.[0]?.cachedTokens).toBe(48);
  });

  test("never gives one tenant what another has computed", async () => {
    for (const slots of [1, 4]) {
      const { engine } = createEngine({ slots, capacity: 200 }, { prefixCacheBytes: 10_000 });
      const tenants = ["a", "b", "", "a"];
      tenants.forEach((tenant, i) => engine.submit(ask(i + 1, { tenant })));
      const updates = await run(engine);
      const cached = [1, 2, 3, 4].map((id) => updates.get(id)?.[0]?.cachedTokens);
      expect(cached.slice(0, 3)).toEqual([0, 0, 0]);
      expect(cached[3]).toBeGreaterThanOrEqual(48);
    }
  });

  test("is off where it has no bytes", async () => {
    const { engine } = createEngine({ capacity: 200 }, { prefixCacheBytes: 0 });
    for (const id of [1, 2]) engine.submit(ask(id));
    expect((await run(engine)).get(2)?.[0]?.cachedTokens).toBe(0);
  });

  test("survives the slab being given back", async () => {
    const { engine } = createEngine({ capacity: 200 }, { prefixCacheBytes: 10_000 });
    engine.submit(ask(1));
    await run(engine);
    engine.rest();
    engine.submit(ask(2));
    expect((await run(engine)).get(2)?.[0]?.cachedTokens).toBe(48);
  });
});

describe("guesses", () => {
  /** Samples from two tokens, so that half of all guesses are right. */
  const shunned = Array.from({ length: 95 }, (_, i) => i + 2);

  test.each([
    [0, 1],
    [0, 3],
    [1, 1],
    [1, 3],
  ])("change no token, at temperature %d and %d at once, and save steps", async (temperature, most) => {
    const outcomes = await Promise.all(
      [0, most].map(async (speculationTokens) => {
        const { engine, fake } = createEngine({ capacity: 300, shunned }, { speculationTokens });
        for (const id of [1, 2, 3]) {
          const sampling = { ...GREEDY, temperature, seed: id, presencePenalty: 0.1 };
          engine.submit(request(id, { maxTokens: 70 * id, sampling }));
        }
        const updates = await run(engine);
        return { tokens: [1, 2, 3].map((id) => tokensOf(updates.get(id))), steps: fake.steps, engine };
      }),
    );
    const [without, drafting] = outcomes;
    expect(drafting?.tokens).toEqual(without?.tokens);
    expect(drafting?.engine.counters.draftedTokens).toBeGreaterThan(3);
    expect(drafting?.engine.counters.acceptedTokens).toBeGreaterThan(1);
    expect(drafting?.engine.counters.acceptedTokens).toBeLessThan(drafting?.engine.counters.draftedTokens ?? 0);
    expect(drafting?.steps).toBeLessThan(without?.steps ?? 0);
  });

  /** A machine whose steps take as long as given, on a clock of its own. */
  class TimedRuntime extends FakeRuntime {
    atMs = 0;
    override step(batch: StepBatch): Float32Array | Promise<Float32Array> {
      const { decode, prefill } = batch;
      const isGuess = prefill !== undefined && prefill.slot < decode.tokens.length;
      const guessMs = !isGuess ? 0 : prefill.tokens.length === 1 ? 2 : 9;
      this.atMs += 6 + decode.tokens.length + guessMs + (isGuess ? 0 : (prefill?.tokens.length ?? 0));
      return super.step(batch);
    }
  }
  const DIGITS = Array.from({ length: 30 }, (_, i) => 10 + i);
  const answers: Readonly<Record<string, (held: readonly number[]) => number>> = {
    "copies its prompt": (held) => DIGITS[held.length % 30]!,
    "never repeats itself": (held) => 40 + held.length,
    "repeats pairs, and goes on otherwise": (held) => (held.length % 3 < 2 ? held.length % 3 : 40 + held.length),
    "copies for a while, and then does not": (held) =>
      held.length < 70 ? DIGITS[held.length % 30]! : 40 + held.length,
  };

  async function answerMs(next: (held: readonly number[]) => number, speculationTokens: number): Promise<number> {
    const runtime = new TimedRuntime({ slots: 2, capacity: 400, vocabSize: 500, next });
    const now = () => runtime.atMs;
    const engine = new Engine({ ...ENGINE_OPTIONS, runtime, speculationTokens, now });
    await engine.warmUp();
    const begunAtMs = runtime.atMs;
    engine.submit(request(1, { prompt: Int32Array.from(DIGITS), maxTokens: 200 }));
    await run(engine);
    return runtime.atMs - begunAtMs;
  }

  test.each([
    ["copies its prompt", 0, 1 / 1.65],
    ["never repeats itself", 1, 1],
    ["repeats pairs, and goes on otherwise", 1, 1.03],
    ["copies for a while, and then does not", 0, 1],
  ] as const)(
    "cost nothing that they don't bring, by the time that steps take: an answer that %s",
    async (name, least, most) => {
      const next = answers[name]!;
      const ratio = (await answerMs(next, 3)) / (await answerMs(next, 0));
      expect(ratio).toBeGreaterThanOrEqual(least);
      expect(ratio).toBeLessThanOrEqual(most);
    },
  );
});
