import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { findMatch, GuessRecord, guessNext } from "../../../origin/engine/draft.ts";

/** The last token is the newest. */
function guessed(tokens: readonly number[], count: number): number[] | undefined {
  const all = Int32Array.from(tokens);
  const match = findMatch(all);
  return match && [...guessNext(all, match, count)];
}
/** A record of these tokens, as they are sampled one by one. */
function observe(tokens: readonly number[]): GuessRecord {
  const record = new GuessRecord();
  for (let length = 1; length <= tokens.length; length++) record.observe(Int32Array.from(tokens.slice(0, length)));
  return record;
}
const range = (length: number, from = 0) => Array.from({ length }, (_, i) => from + i);
const guess = (...tokens: readonly number[]) => guessed(tokens, 1)?.[0];
const guessThree = (...tokens: readonly number[]) => guessed(tokens, 3);

describe("a guess", () => {
  test("is what followed the last tokens when they stood there before, the latest time", () => {
    expect(guess(1, 2, 3, 4, 9, 1, 2, 7, 8, 5, 1, 2)).toBe(7);
  });

  test("prefers a longer match that is farther back", () => {
    expect(guess(1, 2, 3, 50, 9, 2, 3, 60, 9, 1, 2, 3)).toBe(50);
  });

  test("is none where the end is new, or there is nothing before it", () => {
    for (const tokens of [[1, 2, 3, 4], [1], [], [5, 6, 5]]) expect(guess(...tokens)).toBeUndefined();
  });

  test("may be one of the tokens that it was found by", () => {
    expect(guess(7, 7, 7)).toBe(7);
    expect(guess(1, 2, 1, 2)).toBe(1);
  });

  test("of several goes on from there, and round again where that is the end", () => {
    expect(guessThree(1, 2, 7, 8, 9, 5, 1, 2)).toEqual([7, 8, 9]);
    expect(guessThree(4, 1, 2, 9, 1, 2)).toEqual([9, 1, 2]);
    expect(guessThree(1, 2, 1, 2)).toEqual([1, 2, 1]);
    expect(guessThree(7, 7, 7)).toEqual([7, 7, 7]);
    expect(guessThree(1, 2, 3, 4)).toBeUndefined();
  });

  test("is found by the definition", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(2), { maxLength: 60 }), (tokens) => {
        const text = tokens.join("");
        // On text: the last occurrence of the longest end that has one.
        const at = [8, 7, 6, 5, 4, 3, 2]
          .filter((length) => length < tokens.length)
          .map((length) => ({ length, start: text.lastIndexOf(text.slice(-length), text.length - length - 1) }))
          .find(({ start }) => start >= 0);
        expect(guess(...tokens)).toBe(at === undefined ? undefined : tokens[at.start + at.length]);
      }),
    );
  });
});

test("a match says how many of the last tokens stood there, up to eight", () => {
  for (const [length, matched] of [
    [2, 2],
    [5, 5],
    [8, 8],
    [12, 8],
  ] as const) {
    const repeated = Array.from({ length }, (_, i) => 10 + i);
    const tokens = Int32Array.from([1, ...repeated, 2, ...repeated]);
    expect(findMatch(tokens)).toEqual({ end: 1 + length, length: matched });
  }
});

describe("the record of a sequence's guesses", () => {
  test("begins with less trust in shorter matches", () => {
    const fresh = new GuessRecord();
    const byLength = [2, 3, 4, 5, 7, 8].map((length) => fresh.acceptance(length));
    expect(byLength).toEqual(byLength.toSorted((a, b) => a - b));
    expect(fresh.acceptance(2)).toBeLessThan(0.35);
    expect(fresh.acceptance(8)).toBeLessThan(0.85);
    expect(fresh.acceptance(20)).toBe(fresh.acceptance(8));
    expect(fresh.match).toBeUndefined();
  });

  test("learns from the tokens that come, without a guess being run", () => {
    const copy = observe([...range(60), ...range(40)]);
    expect(copy.acceptance(8)).toBeGreaterThan(0.98);
    expect(copy.match).toEqual({ end: 40, length: 8 });
    // Pairs that come again and are followed by something else.
    const pairs = observe(range(40).flatMap((i) => [1, 2, 100 + i]));
    expect(pairs.acceptance(2)).toBeLessThan(0.05);
    // What is known of one kind of match says nothing of the others.
    expect(pairs.acceptance(8)).toBe(new GuessRecord().acceptance(8));
    expect(observe(range(100)).acceptance(2)).toBe(new GuessRecord().acceptance(2));
  });

  test("changes its mind within ten guesses or so", () => {
    const tokens = range(40).flatMap((i) => [1, 2, 100 + i]);
    const before = observe(tokens).acceptance(2);
    const after = observe([...tokens, ...range(20).flatMap(() => [1, 2, 3, 9])]);
    expect(before).toBeLessThan(0.05);
    expect(after.acceptance(8)).toBeGreaterThan(0.9);
  });
});
