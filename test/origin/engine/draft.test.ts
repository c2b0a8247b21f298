import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DraftRecord, proposeDraft, worthwhileDraft } from "../../../origin/engine/draft.ts";

const draft = (tokens: readonly number[], max = 3) => [...proposeDraft(Int32Array.from(tokens), max)];

describe("a draft", () => {
  test("is what followed the last tokens when they stood there before, the latest time", () => {
    expect(draft([1, 2, 3, 4, 9, 1, 2, 7, 8, 5, 1, 2])).toEqual([7, 8, 5]);
  });

  test("prefers a longer match that is farther back", () => {
    expect(draft([1, 2, 3, 50, 9, 2, 3, 60, 9, 1, 2, 3])).toEqual([50, 9, 2]);
  });

  test("is empty where the end is new, or there is nothing before it", () => {
    expect(draft([1, 2, 3, 4])).toEqual([]);
    expect(draft([1])).toEqual([]);
    expect(draft([])).toEqual([]);
    expect(draft([5, 6, 5], 3)).toEqual([]);
  });

  test("may run into the tokens that it was found by", () => {
    expect(draft([7, 7, 7])).toEqual([7]);
    expect(draft([1, 2, 1, 2])).toEqual([1, 2]);
  });

  test("is at most as long as asked, and found by the definition", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(3), { maxLength: 40 }), fc.nat(6), (tokens, max) => {
        const found = draft(tokens, max);
        const text = tokens.join("");
        // By the definition, on text: the last occurrence of the longest end that has one.
        const at = [4, 3, 2]
          .filter((length) => length < tokens.length)
          .map((length) => ({ length, start: text.lastIndexOf(text.slice(-length), text.length - length - 1) }))
          .find(({ start }) => start >= 0);
        const expected = at === undefined ? [] : tokens.slice(at.start + at.length).slice(0, max);
        expect(found).toEqual(expected);
      }),
    );
  });
});

describe("the record of a sequence's drafts", () => {
  test("begins undecided, learns either way in a few drafts, and forgives in time", () => {
    const good = new DraftRecord();
    const bad = new DraftRecord();
    expect(good.acceptance).toBe(0.5);
    for (let i = 0; i < 8; i++) {
      good.note({ right: 4, drafted: 4 });
      bad.note({ right: 0, drafted: 4 });
    }
    expect(good.acceptance).toBeGreaterThan(0.95);
    expect(bad.acceptance).toBeLessThan(0.05);
    for (let i = 0; i < 30; i++) bad.forgive();
    expect(bad.acceptance).toBeGreaterThan(0.15);
    for (let i = 0; i < 1000; i++) bad.forgive();
    expect(bad.acceptance).toBeCloseTo(0.5, 2);
  });
});

const predict = (drafted: number) => 8 + 2 * drafted;

describe("whether a draft pays", () => {
  test("is judged by tokens per time: sure guesses are worth their cost, unlikely ones are not", () => {
    expect(worthwhileDraft({ others: 0, acceptance: 1, max: 5, predict })).toBe(5);
    expect(worthwhileDraft({ others: 0, acceptance: 0.05, max: 5, predict })).toBe(0);
    const middling = worthwhileDraft({ others: 0, acceptance: 0.6, max: 5, predict });
    expect(middling).toBeGreaterThan(0);
    expect(middling).toBeLessThan(5);
  });

  test("counts the rows that it makes wait", () => {
    expect(worthwhileDraft({ others: 15, acceptance: 0.9, max: 5, predict })).toBe(0);
  });

  test("is nothing where nothing may be drafted", () => {
    expect(worthwhileDraft({ others: 0, acceptance: 1, max: 0, predict })).toBe(0);
  });
});
