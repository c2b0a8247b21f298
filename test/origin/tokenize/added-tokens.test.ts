import { describe, expect, test } from "vitest";
import { AddedTokens, addedTokenSchema } from "../../../origin/tokenize/added-tokens.ts";
import { mulberry32 } from "../../fakes/mulberry32.ts";

function tokensOf(...contents: readonly (string | object)[]): AddedTokens {
  return new AddedTokens(
    contents.map((each, id) =>
      addedTokenSchema.parse({ id, ...(typeof each === "string" ? { content: each } : each) }),
    ),
  );
}

function split(tokens: AddedTokens, text: string): readonly (string | number)[] {
  return tokens.split(text).map((part) => (typeof part === "string" ? part : part.id));
}

describe("a text is split", () => {
  test("at the longest token of a place, and the first place", () => {
    const tokens = tokensOf("ab", "abc", "bcd");
    expect(split(tokens, "xabcdab")).toEqual(["x", 1, "d", 0]);
    expect(split(tokens, "")).toEqual([]);
  });

  test("so that a token takes the spaces it asks for, those of other scripts too", () => {
    const tokens = tokensOf({ content: "<l>", lstrip: true }, { content: "<r>", rstrip: true });
    expect(split(tokens, "a \u3000<l> b <r> \u0085c")).toEqual(["a", 0, " b ", 1, "c"]);
  });

  test("at a word only where it is one", () => {
    const tokens = tokensOf({ content: "the", single_word: true });
    expect(split(tokens, "the other 中the the. the𝔵")).toEqual([0, " other 中the ", 0, ". the𝔵"]);
  });
});

describe("a sealed text holds no token,", () => {
  test("where they overlap too", () => {
    const tokens = tokensOf("ab", "bc", "<|a|>", "|><|");
    for (const text of ["abc", "<|a|><|a|>", "aabbcc", "<|<|a|>a|>"]) {
      const sealed = tokens.seal(text, "\uFDD0");
      expect(split(tokens, sealed)).toEqual([sealed]);
      expect(sealed.replaceAll("\uFDD0", "")).toBe(text);
    }
  });

  test("whatever the tokens and the text are", () => {
    const seed = Date.now() % 100_000;
    const random = mulberry32(seed);
    const word = (length: number) => Array.from({ length }, () => "ab<|"[Math.floor(random() * 4)]).join("");
    for (let round = 0; round < 300; round++) {
      const tokens = tokensOf(...new Set(Array.from({ length: 4 }, () => word(2 + Math.floor(random() * 3)))));
      const text = word(20);
      const sealed = tokens.seal(text, "\uFDD0");
      expect(split(tokens, sealed), `seed ${seed}, round ${round}`).toEqual([sealed]);
    }
  });
});
