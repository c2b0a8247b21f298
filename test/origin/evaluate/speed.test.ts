/** Speeds by a clock of the test's own: whose steps count, and in what turn. */
import { expect, test } from "vitest";
import { measureSpeeds } from "../../../origin/evaluate/speed.ts";
import type { Runtime, StepBatch } from "../../../origin/runtime/port/runtime.ts";

/** A model that takes as long for a step as the test says; only what a measurement calls is there. */
class TimedRuntime {
  readonly limits = { vocabSize: 50, slots: 17, capacity: 64, tokenBytes: 4, draftTokens: 1 };
  shape = { vocabSize: 50, slots: 0, capacity: 0 };
  readonly steps: StepBatch[] = [];
  readonly #take: (batch: StepBatch, step: number) => void;

  constructor(take: (batch: StepBatch, step: number) => void) {
    this.#take = take;
  }

  resize({ slots, capacity }: { readonly slots: number; readonly capacity: number }): void {
    this.shape = { vocabSize: 50, slots, capacity };
  }

  step(batch: StepBatch): Float32Array {
    this.steps.push(batch);
    this.#take(batch, this.steps.length);
    return new Float32Array(50);
  }
}

test("decode and prompt steps are told apart, and the first step after another model's does not count", async () => {
  let nowMs = 0;
  const turns: string[] = [];
  const timed = (name: string, decodeMs: number, promptMs: number): TimedRuntime => {
    let isFirst = true;
    return new TimedRuntime(({ prefill }) => {
      turns.push(name);
      if (prefill !== undefined) isFirst = true;
      nowMs += prefill === undefined ? decodeMs * (isFirst ? 100 : 1) : promptMs;
      if (prefill === undefined) isFirst = false;
    });
  };
  const slow = timed("slow", 20, 120);
  const fast = timed("fast", 10, 60);
  const runtimes = [slow, fast] as unknown as readonly Runtime[];
  const speeds = await measureSpeeds(runtimes, { rounds: 2, now: () => nowMs });
  // A slab of 64 tokens holds a prompt of 60 and what is decoded behind it.
  expect(speeds).toEqual([
    { decode: [50], prompt: 500 },
    { decode: [100], prompt: 1000 },
  ]);
  const [perRound] = [turns.length / 4];
  expect(turns.slice(0, perRound).every((turn) => turn === "slow")).toBe(true);
  expect(turns.slice(perRound, 2 * perRound).every((turn) => turn === "fast")).toBe(true);
  expect(turns.slice(2 * perRound, 3 * perRound).every((turn) => turn === "slow")).toBe(true);
});

test("rows that decode together count all, and a step that was held up counts for nothing", async () => {
  let nowMs = 0;
  const runtime = new TimedRuntime((_, step) => void (nowMs += step % 5 === 0 ? 500 : 16));
  const [speed] = await measureSpeeds([runtime] as unknown as readonly Runtime[], {
    rows: [1, 16],
    rounds: 8,
    now: () => nowMs,
  });
  expect(speed?.decode).toEqual([62.5, 1000]);
  expect(runtime.shape.slots).toBe(17);
  for (const { decode, prefill } of runtime.steps) {
    expect(Math.max(...decode.pasts, prefill?.tokens.length ?? 0)).toBeLessThan(64);
  }
});
