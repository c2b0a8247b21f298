import { expect, test } from "vitest";
import { LogprobReader } from "../../../origin/engine/logprobs.ts";
import type { SequenceUpdate } from "../../../origin/engine/engine.ts";
import {
  attachLogprobs,
  NO_COUNTERS,
  packLogprobs,
  NO_STEP,
  packReport,
  unpackReport,
} from "../../../origin/engine/messages.ts";
import { createRandom } from "../../../origin/engine/random.ts";

/** The definition: the logarithm of the softmax. */
function logSoftmax(logits: Float32Array): number[] {
  const total = logits.reduce((sum, logit) => sum + Math.exp(logit - 50), 0);
  return Array.from(logits, (logit) => logit - 50 - Math.log(total));
}

test("are the logarithm of the softmax, the best alternatives first", () => {
  const random = createRandom(9);
  const reader = new LogprobReader(1000);
  for (const count of [0, 1, 5, 20]) {
    const logits = Float32Array.from({ length: 1000 }, () => random() * 30 + 20);
    const expected = logSoftmax(logits);
    reader.observe(logits, count);
    // What the sampler does to the logits afterwards must not matter.
    const copy = logits.slice();
    logits.fill(0);
    const { logprob, top } = reader.read(123);
    expect(logprob).toBeCloseTo(expected[123] ?? NaN, 10);
    const best = [...copy.keys()].toSorted((a, b) => (copy[b] ?? 0) - (copy[a] ?? 0)).slice(0, count);
    expect(top.map(({ token }) => token)).toEqual(best);
    for (const { token, logprob: found } of top) expect(found).toBeCloseTo(expected[token] ?? NaN, 10);
  }
});

test("take the lower id of equals first and never list one twice", () => {
  const reader = new LogprobReader(6);
  reader.observe(Float32Array.of(1, 3, 3, 3, 2, 3), 3);
  expect(reader.read(0).top.map(({ token }) => token)).toEqual([1, 2, 3]);
});

test("give the impossible a number that JSON has", () => {
  const reader = new LogprobReader(3);
  reader.observe(Float32Array.of(0, -Infinity, -1e30), 3);
  expect([reader.read(0).logprob, reader.read(1).logprob, reader.read(2).logprob]).toEqual([0, -9999, -9999]);
  expect(reader.read(0).top.every(({ logprob }) => Number.isFinite(logprob))).toBe(true);
});

test("travel with the tokens of those who asked, and cost the others no message", () => {
  const plain: SequenceUpdate = { id: 1, token: 5, status: "running", cachedTokens: 0 };
  const asked: SequenceUpdate = {
    id: 2,
    token: 6,
    status: "length",
    cachedTokens: 3,
    logprobs: {
      logprob: -0.5,
      top: [
        { token: 6, logprob: -0.5 },
        { token: 9, logprob: -1.25 },
      ],
    },
  };
  const bare: SequenceUpdate = {
    id: 3,
    token: 7,
    status: "running",
    cachedTokens: 0,
    logprobs: { logprob: -2, top: [] },
  };
  expect(packLogprobs([plain, plain])).toBeUndefined();

  const updates = [plain, asked, plain, bare];
  const occupancy = { running: 4, waiting: 2 };
  const state = { occupancy, serviceMs: 1.5, counters: { ...NO_COUNTERS, preemptions: 3 }, waiting: [8, 9] };
  const times = { stepMs: 12.5, queuedMs: [0, 250] };
  const unpacked = unpackReport(packReport(state, updates, times));
  expect(unpacked).toMatchObject({ state, times });
  expect(unpackReport(packReport({ ...state, waiting: [] }, [], NO_STEP)).times).toEqual(NO_STEP);
  const received = unpacked.updates;
  attachLogprobs(received, packLogprobs(updates));
  expect(received).toEqual(updates);
});
