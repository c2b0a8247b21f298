/** The figures of an evaluation, on distributions small enough to compute by hand. */
import { describe, expect, test } from "vitest";
import { compareToken, summarize } from "../../../origin/evaluate/compare.ts";

/** Logits of a distribution: its logarithms, shifted, since a softmax does not notice. */
const logits = (shift: number, ...probabilities: number[]) =>
  Float32Array.from(probabilities, (p) => Math.log(p) + shift);

const reference = logits(3, 0.5, 0.25, 0.25);
const candidate = logits(-7, 0.25, 0.5, 0.25);

describe("compares two distributions before a token", () => {
  test("by the definition", () => {
    const token = compareToken(reference, candidate, 1);
    // 0.5 ln(0.5 / 0.25) + 0.25 ln(0.25 / 0.5) + 0.25 ln 1
    expect(token.kl).toBeCloseTo(0.25 * Math.LN2, 5);
    expect(token.referenceSurprise).toBeCloseTo(Math.log(4), 5);
    expect(token.surprise).toBeCloseTo(Math.log(2), 5);
    expect(token).toMatchObject({ isReferenceRight: false, isRight: true, isAgreed: false });
  });

  test("as equal where they are", () => {
    const token = compareToken(reference, logits(40, 0.5, 0.25, 0.25), 0);
    expect(Math.abs(token.kl)).toBeLessThan(1e-5);
    expect(token).toMatchObject({ isReferenceRight: true, isRight: true, isAgreed: true });
  });

  test("without overflow, however large the logits", () => {
    const { kl, surprise } = compareToken(Float32Array.of(1e4, 0), Float32Array.of(0, 1e4), 0);
    expect(kl).toBeCloseTo(1e4, 0);
    expect(surprise).toBeCloseTo(1e4, 0);
  });

  test("asymmetrically, as the divergence is", () => {
    const skewed = logits(0, 0.9, 0.05, 0.05);
    const [there, back] = [compareToken(reference, skewed, 0).kl, compareToken(skewed, reference, 0).kl];
    expect(there).toBeCloseTo(0.5 * Math.log(0.5 / 0.9) + 0.5 * Math.log(0.25 / 0.05), 5);
    expect(back).toBeCloseTo(0.9 * Math.log(0.9 / 0.5) + 0.1 * Math.log(0.05 / 0.25), 5);
  });

  test("and refuses other vocabularies and a token that is none", () => {
    expect(() => compareToken(reference, Float32Array.of(1, 2), 0)).toThrow(/vocabular/);
    expect(() => compareToken(reference, candidate, 3)).toThrow(RangeError);
    expect(() => compareToken(reference, candidate, -1)).toThrow(RangeError);
  });
});

describe("sums up", () => {
  test("perplexity, accuracy, divergence and agreement", () => {
    const tokens = [compareToken(reference, candidate, 1), compareToken(reference, reference, 0)];
    const sum = summarize(tokens);
    // The reference gave the tokens 1/4 and 1/2, the candidate 1/2 and 1/2.
    expect(sum.referencePerplexity).toBeCloseTo(Math.sqrt(8), 5);
    expect(sum.perplexity).toBeCloseTo(2, 5);
    expect(sum.meanKl).toBeCloseTo(0.125 * Math.LN2, 5);
    expect(sum).toMatchObject({ tokens: 2, referenceAccuracy: 0.5, accuracy: 1, top1: 0.5 });
  });

  test("the divergence that 99 of 100 tokens do not exceed", () => {
    const token = compareToken(reference, reference, 0);
    const hundred = Array.from({ length: 100 }, (_, i) => ({ ...token, kl: 100 - i }));
    expect(summarize(hundred).p99Kl).toBe(99);
  });

  test("nothing to no number", () => {
    expect(summarize([])).toMatchObject({ tokens: 0, perplexity: Number.NaN, meanKl: Number.NaN, p99Kl: Number.NaN });
  });
});
