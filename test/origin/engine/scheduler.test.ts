import { describe, expect, test } from "vitest";
import {
  admit,
  planLoad,
  schedule,
  type ScheduleLimits,
  type ScheduleState,
} from "../../../origin/engine/scheduler.ts";
import { createSequence, type Priority, type Sequence } from "../../../origin/engine/sequence.ts";
import { StepTimeModel } from "../../../origin/engine/step-time.ts";
import { GREEDY } from "../../fakes/greedy.ts";

const LIMITS: ScheduleLimits = {
  budget: { slots: 2, capacity: 1024, tokenBytes: 1, kvBytes: 2048 },
  prefillChunkTokens: 100,
  interTokenMs: 50,
  speculationTokens: 0,
  draftTokens: 3,
};

interface Given {
  readonly promptTokens?: number;
  readonly maxTokens?: number;
  readonly past?: number;
  readonly priority?: Priority;
  readonly atMs?: number;
}

function sequence(id: number, given: Given = {}): Sequence {
  const { promptTokens = 3, maxTokens = 1, past = 0, priority = 1, atMs = id } = given;
  const request = { id, prompt: new Int32Array(promptTokens), maxTokens, sampling: GREEDY, priority };
  return Object.assign(createSequence(request, atMs, { queueWaitMs: Infinity, ageingMs: 1000 }), { past });
}

function state(changes: Partial<ScheduleState> = {}): ScheduleState {
  return { running: [], prefilling: undefined, waiting: [], slab: { slots: 0, capacity: 0 }, ...changes };
}

/**
 * A machine on which a step takes 5 ms, 1 ms more for each row and 1 for each token of a chunk, and as much more for one
 * guessed token or three.
 */
function knownTime(guesses: Readonly<Record<1 | 3, number>> = { 1: 1, 3: 4 }): StepTimeModel {
  const time = new StepTimeModel();
  for (let i = 0; i < 200; i++) {
    const rows = i % 5;
    const chunk = i % 2 === 0 || rows === 0 ? 1 + (i % 60) : 0;
    time.observe({ rows, context: 0, chunk, guessed: 0, past: 0 }, 5 + rows + chunk);
    const guessed = i % 3 === 0 ? 1 : 3;
    time.observe({ rows: 1, context: 0, chunk: 0, guessed, past: 12 }, 6 + guesses[guessed]);
  }
  return time;
}

/** A machine on which what lies before a chunk is read anew for each, and costs as much as some tokens of it. */
function deepStepMs({ chunk, past }: { readonly chunk: number; readonly past: number }): number {
  return chunk === 0 ? 8 : 10 + chunk + past / 100;
}

const fresh = new StepTimeModel();

describe("who gets a row", () => {
  test("is nobody when nobody waits", () => {
    expect(admit(state(), LIMITS)).toEqual({ preempt: undefined, start: undefined });
  });

  test("is the first in the queue, in the smallest slab that will do", () => {
    const [first, second] = [sequence(1), sequence(2)];
    expect(admit(state({ waiting: [first, second] }), LIMITS)).toEqual({
      preempt: undefined,
      start: { sequence: first, slab: { slots: 1, capacity: 256 } },
    });
  });

  test("is nobody while a prompt is being prefilled, or every row is taken", () => {
    const [one, two, three] = [sequence(1), sequence(2), sequence(3)];
    expect(admit(state({ prefilling: one, waiting: [two] }), LIMITS).start).toBeUndefined();
    expect(admit(state({ running: [one, two], waiting: [three] }), LIMITS).start).toBeUndefined();
  });

  test("waits for the KV budget, and nobody overtakes", () => {
    const limits = { ...LIMITS, budget: { ...LIMITS.budget, slots: 4, kvBytes: 1024 } };
    const long = sequence(2, { promptTokens: 600, maxTokens: 400 });
    const waiting = [long, sequence(3)];
    expect(admit(state({ running: [sequence(1)], waiting }), limits).start).toBeUndefined();
    expect(admit(state({ waiting }), limits).start).toEqual({ sequence: long, slab: { slots: 1, capacity: 1024 } });
    // Four rows of 256 fit into the same bytes.
    const rows = [sequence(1), sequence(2), sequence(3)];
    expect(admit(state({ running: rows, waiting: [sequence(4)] }), limits).start?.slab).toEqual({
      slots: 4,
      capacity: 256,
    });
  });
});

describe("a row is taken away", () => {
  const high = sequence(9, { priority: 0 });

  test("from the lowest class for a higher one, from the latest of it", () => {
    const [early, late] = [sequence(1, { priority: 2 }), sequence(2, { priority: 2 })];
    const { preempt, start } = admit(state({ running: [early, late], waiting: [high] }), LIMITS);
    expect([preempt, start?.sequence]).toEqual([late, high]);
    const mixed = admit(state({ running: [early, sequence(3)], waiting: [high] }), LIMITS);
    expect(mixed.preempt).toBe(early);
  });

  test("also from a prompt that is being prefilled", () => {
    const low = sequence(1, { priority: 2, promptTokens: 900 });
    const { preempt, start } = admit(state({ prefilling: low, waiting: [high] }), LIMITS);
    expect([preempt, start?.sequence]).toEqual([low, high]);
  });

  test("never for one of the same class, nor for one that comes so late that the row has aged past it", () => {
    const rows = [sequence(1), sequence(2)];
    expect(admit(state({ running: rows, waiting: [sequence(3)] }), LIMITS).preempt).toBeUndefined();
    const lateHigh = sequence(9, { priority: 0, atMs: 1001 + 2 });
    expect(admit(state({ running: rows, waiting: [lateHigh] }), LIMITS).preempt).toBeUndefined();
    expect(admit(state({ running: rows, waiting: [{ ...lateHigh, rankMs: 1000 }] }), LIMITS).preempt).toBe(rows[1]);
  });

  test("not while there is room", () => {
    const { preempt, start } = admit(state({ running: [sequence(1, { priority: 2 })], waiting: [high] }), LIMITS);
    expect(preempt).toBeUndefined();
    expect(start?.sequence).toBe(high);
  });

  test("one at a time, where the newcomer needs the room of several", () => {
    const limits = { ...LIMITS, budget: { ...LIMITS.budget, slots: 4, kvBytes: 1024 } };
    const rows = [1, 2, 3, 4].map((id) => sequence(id, { priority: 2 }));
    const large = sequence(9, { priority: 0, promptTokens: 500 });
    const { preempt, start } = admit(state({ running: rows, waiting: [large] }), limits);
    expect([preempt, start]).toEqual([rows[3], undefined]);
    expect(admit(state({ running: rows.slice(0, 2), waiting: [large] }), limits).start?.sequence).toBe(large);
  });
});

describe("what a step computes", () => {
  test("is nothing when nobody has a row", () => {
    expect(schedule(state({ waiting: [sequence(1)] }), LIMITS, fresh)).toEqual({ decode: [], chunk: undefined });
  });

  test("is every running row", () => {
    const running = [sequence(1), sequence(2)];
    expect(schedule(state({ running }), LIMITS, fresh)).toEqual({ decode: running, chunk: undefined });
  });

  test("is as much of a prompt as a step may take while nobody runs, sampled at its end", () => {
    const prompt = sequence(1, { promptTokens: 250 });
    const sizes = [0, 100, 200].map((past) => {
      prompt.past = past;
      const { chunk } = schedule(state({ prefilling: prompt }), LIMITS, fresh);
      return [chunk?.tokens.length, chunk?.sampled];
    });
    expect(sizes).toEqual([
      [100, 0],
      [100, 0],
      [50, 1],
    ]);
  });

  test("never leaves one token over, which another kernel would compute", () => {
    for (let promptTokens = 2; promptTokens < 40; promptTokens++) {
      for (let prefillChunkTokens = 2; prefillChunkTokens < 9; prefillChunkTokens++) {
        const prompt = sequence(1, { promptTokens });
        while (prompt.past < promptTokens) {
          const { chunk } = schedule(state({ prefilling: prompt }), { ...LIMITS, prefillChunkTokens }, fresh);
          expect(chunk?.tokens.length).toBeGreaterThan(1);
          prompt.past += chunk?.tokens.length ?? 0;
        }
        expect(prompt.past).toBe(promptTokens);
      }
    }
  });

  test("of a row that was taken away is its prompt, and then its answer token by token", () => {
    const row = sequence(1, { promptTokens: 103, maxTokens: 20 });
    row.length += 3;
    const sizes: [size: number, sampled: number][] = [];
    while (row.past < row.length) {
      const { chunk } = schedule(state({ prefilling: row }), LIMITS, fresh);
      sizes.push([chunk?.tokens.length ?? 0, chunk?.sampled ?? 0]);
      row.past += chunk?.tokens.length ?? 1;
    }
    expect(sizes).toEqual([
      [100, 0],
      [3, 0],
      [1, 0],
      [1, 0],
      [1, 1],
    ]);
  });

  test("behind much of a prompt is less than at its beginning, so that no step of it is longer than the last must be", () => {
    const time = new StepTimeModel();
    for (let i = 0; i < 600; i++) {
      const chunk = i % 3 === 0 ? 0 : 1 + (i % 16);
      const past = chunk === 0 ? 0 : (i * 37) % 1000;
      time.observe({ rows: 1, context: 0, chunk, guessed: 0, past }, deepStepMs({ chunk, past }));
    }
    const prompt = sequence(9, { promptTokens: 1000 });
    const sizes: number[] = [];
    const lengths: number[] = [];
    while (prompt.past < 1000) {
      const chunk =
        schedule(state({ running: [sequence(1)], prefilling: prompt }), LIMITS, time).chunk?.tokens.length ?? 0;
      sizes.push(chunk);
      lengths.push(deepStepMs({ chunk, past: prompt.past }));
      prompt.past += chunk;
    }
    expect(sizes[0]).toBe(5);
    expect(sizes.at(-2)).toBe(3);
    expect(sizes).toEqual(sizes.toSorted((a, b) => b - a));
    expect(Math.max(...lengths)).toBeLessThan(1.1 * deepStepMs({ chunk: 3, past: 1000 }));
  });

  test("beside rows is what keeps the step within 1.7 times its length, and within the knob", () => {
    const time = knownTime();
    const prompt = sequence(9, { promptTokens: 900 });
    const four = [1, 2, 3, 4].map((id) => sequence(id));
    const size = (changes: Partial<ScheduleState>, limits = LIMITS) =>
      schedule(state({ prefilling: prompt, ...changes }), limits, time).chunk?.tokens.length ?? 0;

    // A step of four rows takes 9 ms: 15.3 leave 6 for the chunk, as near as the model knows.
    expect([5, 6]).toContain(size({ running: four }));
    // With four more prompts waiting it may take 76 ms, but the knob says 50.
    const waiting = [5, 6, 7, 8].map((id) => sequence(id));
    const many = size({ running: four, waiting });
    expect(many).toBeGreaterThan(35);
    expect(many).toBeLessThan(45);
    expect(size({ running: four, waiting }, { ...LIMITS, interTokenMs: 25 })).toBeLessThan(20);
    // A knob that can't be kept holds up no prompt: it goes on, as far as that is hardly noticed.
    expect(size({ running: four }, { ...LIMITS, interTokenMs: 1 })).toBe(5);
    expect(size({ running: four, waiting }, { ...LIMITS, interTokenMs: 1 })).toBe(5);
  });

  test("beside rows whose step alone is much shorter, as on a GPU, is what a step of 15 ms has time for", () => {
    const time = new StepTimeModel();
    for (let i = 0; i < 200; i++) {
      const chunk = i % 2 === 0 ? 1 + ((i * 7) % 100) : 0;
      time.observe({ rows: 1, context: 0, chunk, guessed: 0, past: 0 }, chunk === 0 ? 1.5 : 6 + chunk / 10);
    }
    const given = state({ running: [sequence(1)], prefilling: sequence(9, { promptTokens: 900 }) });
    const size = (interTokenMs: number) =>
      schedule(given, { ...LIMITS, prefillChunkTokens: 512, interTokenMs }, time).chunk?.tokens.length ?? 0;
    expect(size(50)).toBeGreaterThan(75);
    expect(size(50)).toBeLessThan(105);
    expect(size(10)).toBeLessThan(50);
  });

  test("leaves the others out of the run of one that may have made a run fail", () => {
    const suspect = Object.assign(sequence(2), { suspect: true });
    const plan = schedule(state({ running: [sequence(1)], prefilling: suspect }), LIMITS, fresh);
    expect(plan.decode).toEqual([]);
    expect(plan.chunk?.sequence).toBe(suspect);
  });
});

/** A row whose last three tokens stood in its prompt, followed by 4, 5 and 6. */
function repeating(maxTokens = 20, id = 1): Sequence {
  const prompt = Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2);
  const row = createSequence({ id, prompt, maxTokens, sampling: GREEDY }, 0, { queueWaitMs: 1, ageingMs: 1 });
  row.tokens[row.length++] = 3;
  row.past = row.length - 1;
  row.history.note(3);
  return row;
}

/** What the row's guesses have been worth, whatever they were made from. */
function trusted(acceptance: number, row = repeating()): Sequence {
  row.guesses.observe(row.tokens.subarray(0, row.length));
  row.guesses.acceptance = () => acceptance;
  return row;
}

describe("a guess", () => {
  const limits = { ...LIMITS, speculationTokens: 1 };
  const chunkAt = (acceptance: number, time: StepTimeModel) =>
    schedule(state({ running: [trusted(acceptance)] }), limits, time).chunk;

  test("goes behind the row that is guessed best, and every row decodes", () => {
    const running = [sequence(2), trusted(0.99), trusted(0.6)];
    expect(schedule(state({ running }), limits, knownTime())).toEqual({
      decode: running,
      chunk: { sequence: running[1], tokens: Int32Array.of(4), sampled: 1 },
    });
  });

  test("is not made behind the last token but one of an answer", () => {
    for (const [maxTokens, guessed] of [
      [3, 1],
      [2, undefined],
    ] as const) {
      const { chunk } = schedule(state({ running: [trusted(0.99, repeating(maxTokens))] }), limits, knownTime());
      expect(chunk?.tokens.length).toBe(guessed);
    }
  });

  test("is not made where there is none, or where the knob is 0", () => {
    for (const running of [[sequence(1)], [repeating()]]) {
      expect(schedule(state({ running }), limits, knownTime())).toEqual({ decode: running, chunk: undefined });
    }
    expect(schedule(state({ running: [trusted(0.99)] }), LIMITS, knownTime()).chunk).toBeUndefined();
  });

  test("is made where it brings more tokens per time than it costs, by what such steps took, and not else", () => {
    // 6 ms without, 7 with one: a sixth must be right for nothing to be lost, and some more for it to be worth it.
    for (const [acceptance, isMade] of [
      [0.15, false],
      [0.2, false],
      [0.3, true],
      [0.9, true],
    ] as const) {
      expect(chunkAt(acceptance, knownTime()) !== undefined, String(acceptance)).toBe(isMade);
    }
    // Where such a step takes twice as long, not even the surest guess is worth it.
    expect(chunkAt(0.99, knownTime({ 1: 6, 3: 20 }))).toBeUndefined();
  });

  test("is not made beside rows that would all wait longer for one row's token", () => {
    const others = Array.from({ length: 8 }, (_, i) => sequence(10 + i));
    const time = knownTime({ 1: 3, 3: 5 });
    expect(schedule(state({ running: [trusted(0.9)] }), limits, time).chunk).toBeDefined();
    expect(schedule(state({ running: [...others, trusted(0.9)] }), limits, time).chunk).toBeUndefined();
  });

  describe("of several tokens", () => {
    const several = { ...LIMITS, speculationTokens: 3 };
    const roomy = { slots: 2, capacity: 256 };
    const guessOf = (row: Sequence, slab = roomy, most = several) =>
      schedule(state({ running: [row], slab }), most, knownTime()).chunk;

    test("is made where guesses are mostly right", () => {
      expect(guessOf(trusted(0.95))).toMatchObject({ tokens: Int32Array.of(4, 5, 6), sampled: 3 });
    });

    test("is one of a single token where the answer or the slot has no room for more", () => {
      expect(guessOf(trusted(0.95, repeating(5)))?.tokens).toHaveLength(3);
      expect(guessOf(trusted(0.95, repeating(4)))?.tokens).toHaveLength(1);
      expect(guessOf(trusted(0.95), { slots: 2, capacity: 15 })?.tokens).toHaveLength(3);
      expect(guessOf(trusted(0.95), { slots: 2, capacity: 14 })?.tokens).toHaveLength(1);
    });

    test("needs the room of all that the runtime computes, also where the knob allows fewer", () => {
      const two = { ...several, speculationTokens: 2 };
      expect(guessOf(trusted(0.99), { slots: 2, capacity: 15 }, two)?.tokens).toHaveLength(2);
      expect(guessOf(trusted(0.99), { slots: 2, capacity: 14 }, two)?.tokens).toHaveLength(1);
    });

    test("is one of a single token where the second is seldom right", () => {
      // 1.5 tokens in 7 ms, or 1.875 in 10.
      expect(guessOf(trusted(0.5))?.tokens).toHaveLength(1);
    });

    test("is dearer, by what several cost: never fewer than the runtime computes", () => {
      const two = { ...several, speculationTokens: 2 };
      // 1.85 tokens in 7 ms, or 2.57 in 10: for three it would be 3.19.
      expect(guessOf(trusted(0.85), roomy, two)?.tokens).toHaveLength(1);
      expect(guessOf(trusted(0.85))?.tokens).toHaveLength(3);
    });
  });

  test("waits while a prompt is being prefilled: one slot takes a chunk", () => {
    const prompt = sequence(2);
    const plan = schedule(state({ running: [trusted(0.99)], prefilling: prompt }), limits, fresh);
    expect(plan.chunk?.sequence).toBe(prompt);
  });
});

test("a step's load tells a chunk from a guess, and one guessed token from several", () => {
  const row = trusted(0.9);
  const load = (tokens: number, of: Sequence) =>
    planLoad({ decode: [row], chunk: { sequence: of, tokens: new Int32Array(tokens), sampled: 0 } }, LIMITS);
  const rows = { rows: 1, context: 11 };
  expect(planLoad({ decode: [row], chunk: undefined }, LIMITS)).toEqual({ ...rows, chunk: 0, guessed: 0, past: 0 });
  expect(load(5, sequence(2, { past: 30 }))).toEqual({ ...rows, chunk: 5, guessed: 0, past: 30 });
  expect(load(1, row)).toEqual({ ...rows, chunk: 0, guessed: 1, past: 12 });
  expect(load(2, row)).toEqual({ ...rows, chunk: 0, guessed: 3, past: 12 });
});
