import { expect, test } from "vitest";
import { schedule } from "../../../origin/engine/scheduler.ts";
import { createSequence, type Sequence } from "../../../origin/engine/sequence.ts";
import { GREEDY } from "../../fakes/greedy.ts";

const LIMITS = { slots: 2, prefillChunkTokens: 4 };

function sequence(id: number, { promptTokens = 3, past = 0 } = {}): Sequence {
  const request = { id, prompt: new Int32Array(promptTokens), maxTokens: 1, sampling: GREEDY };
  return Object.assign(createSequence(request, Infinity), { past });
}

test("plans nothing when nothing is open", () => {
  expect(schedule({ running: [], prefilling: undefined, waiting: [] }, LIMITS)).toEqual({
    decode: [],
    prefill: undefined,
  });
});

test("decodes every running row and prefills the one that has waited longest", () => {
  const [running, first, second] = [sequence(1), sequence(2), sequence(3)];
  const plan = schedule({ running: [running], prefilling: undefined, waiting: [first, second] }, LIMITS);
  expect(plan.decode).toEqual([running]);
  expect(plan.prefill).toEqual({ sequence: first, from: 0, to: 3 });
});

test("lets the queue wait while every row is taken", () => {
  const plan = schedule({ running: [sequence(1), sequence(2)], prefilling: undefined, waiting: [sequence(3)] }, LIMITS);
  expect(plan.prefill).toBeUndefined();
});

test("goes on with a prompt it has begun before it takes another, a chunk at a time", () => {
  const begun = sequence(1, { promptTokens: 10, past: 4 });
  const state = { running: [], prefilling: begun, waiting: [sequence(2)] };
  expect(schedule(state, LIMITS).prefill).toEqual({ sequence: begun, from: 4, to: 8 });
  begun.past = 8;
  expect(schedule(state, LIMITS).prefill).toEqual({ sequence: begun, from: 8, to: 10 });
});
