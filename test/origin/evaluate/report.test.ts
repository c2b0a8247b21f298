/** Bounds kept and not kept, and the table. */
import { expect, test } from "vitest";
import type { Comparison } from "../../../origin/evaluate/compare.ts";
import type { Evaluation } from "../../../origin/evaluate/evaluate.ts";
import { brokenBounds, DEFAULT_BOUNDS, evaluationTable } from "../../../origin/evaluate/report.ts";

const read: Comparison = {
  tokens: 10,
  referencePerplexity: 10,
  perplexity: 10.1,
  referenceAccuracy: 0.5,
  accuracy: 0.495,
  meanKl: 0.01,
  p99Kl: 0.1,
  top1: 0.95,
};
const sound: Evaluation = { parts: { prose: read }, texts: read, all: read, sameGreedyTokens: 3, answerTokens: 4 };

test("a model inside every bound breaks none, on the bound itself included", () => {
  expect(brokenBounds(sound, DEFAULT_BOUNDS)).toEqual([]);
  const tight = { perplexityRatioMax: 10.1 / 10, accuracyRatioMin: 0.99, klMax: 0.01, top1Min: 0.95 };
  expect(brokenBounds(sound, tight)).toEqual([]);
});

test.each([
  ["perplexity", { texts: { ...read, perplexity: 10.3 } }, /^perplexity against fp32 is 1\.0300, above .* 1\.02$/],
  ["accuracy", { texts: { ...read, accuracy: 0.48 } }, /^accuracy against fp32 is 0\.9600, below .* 0\.98$/],
  ["divergence", { all: { ...read, meanKl: 0.4 } }, /^mean KL divergence is 0\.4000, above .* 0\.05$/],
  ["agreement", { all: { ...read, top1: 0.7 } }, /^top-1 agreement is 0\.7000, below .* 0\.9$/],
  ["a figure that is no number", { all: { ...read, meanKl: Number.NaN } }, /^mean KL divergence is NaN/],
] as const)("too much %s is one sentence", (_, changed, sentence) => {
  expect(brokenBounds({ ...sound, ...changed }, DEFAULT_BOUNDS)).toEqual([expect.stringMatching(sentence)]);
});

test("the table has a row per part, then all texts, then everything", () => {
  const lines = evaluationTable(sound).split("\n");
  expect(lines.slice(2, 5).map((line) => line.split("|")[1]?.trim())).toEqual(["prose", "all texts", "all"]);
  expect(new Set(lines.slice(0, 5).map((line) => line.split("|").length)).size).toBe(1);
  expect(lines[2]).toContain("| 1.0100 |");
  expect(lines.at(-1)).toBe("same greedy tokens: 3.0 of 4.0");
});
