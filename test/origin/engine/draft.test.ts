import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuessRecord, guessNext } from "../../../origin/engine/draft.ts";

const guessThree = (...tokens: readonly number[]) => guessNext(Int32Array.from(tokens), 3);
const guess = (...tokens: readonly number[]) => guessNext(Int32Array.from(tokens), 1)?.[0];

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
    expect(guessThree(1, 2, 7, 8, 9, 5, 1, 2)).toEqual(Int32Array.of(7, 8, 9));
    expect(guessThree(4, 1, 2, 9, 1, 2)).toEqual(Int32Array.of(9, 1, 2));
    expect(guessThree(1, 2, 1, 2)).toEqual(Int32Array.of(1, 2, 1));
    expect(guessThree(7, 7, 7)).toEqual(Int32Array.of(7, 7, 7));
    expect(guessThree(1, 2, 3, 4)).toBeUndefined();
  });

  test("is found by the definition", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(3), { maxLength: 40 }), (tokens) => {
        const text = tokens.join("");
        // On text: the last occurrence of the longest end that has one.
        const at = [4, 3, 2]
          .filter((length) => length < tokens.length)
          .map((length) => ({ length, start: text.lastIndexOf(text.slice(-length), text.length - length - 1) }))
          .find(({ start }) => start >= 0);
        expect(guess(...tokens)).toBe(at === undefined ? undefined : tokens[at.start + at.length]);
      }),
    );
  });
});

test("the record of a sequence's guesses begins undecided, learns either way in a few, and forgives in time", () => {
  const good = new GuessRecord();
  const bad = new GuessRecord();
  expect(good.acceptance).toBe(0.5);
  for (let i = 0; i < 10; i++) {
    good.note(true);
    bad.note(false);
  }
  expect(good.acceptance).toBeGreaterThan(0.95);
  expect(bad.acceptance).toBeLessThan(0.05);
  for (let i = 0; i < 50; i++) bad.forgive();
  expect(bad.acceptance).toBeGreaterThan(0.05);
  expect(bad.acceptance).toBeLessThan(0.25);
  for (let i = 0; i < 2000; i++) bad.forgive();
  expect(bad.acceptance).toBeCloseTo(0.5, 2);
});
