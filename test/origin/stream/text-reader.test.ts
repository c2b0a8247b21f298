/** An answer's text and its tokens, kept in step whatever the tokens' boundaries are. */
import { expect, test } from "vitest";
import type { GenerationEvent } from "../../../origin/engine/client.ts";
import { TextReader } from "../../../origin/stream/text-reader.ts";
import { createByteTokenizer } from "../../fakes/byte-tokenizer.ts";

const bytes = (text: string) => [...new TextEncoder().encode(text)];

type ReadableEvent = Extract<GenerationEvent, { readonly type: "token" | "finish" }>;

function read(
  text: string | readonly number[],
  { stops = [], logprobs = true }: { stops?: readonly string[]; logprobs?: boolean } = {},
) {
  const reader = new TextReader({ detokenizer: createByteTokenizer().createDetokenizer({ continues: false }), stops });
  const tokens = typeof text === "string" ? bytes(text) : text;
  const given: ReadableEvent[] = tokens.map((token) => ({
    type: "token",
    token,
    logprobs: logprobs ? { logprob: -token, top: [] } : undefined,
  }));
  given.push({ type: "finish", reason: "length", cachedTokens: 0, generated: tokens.length });
  const events = [];
  for (const event of given) {
    events.push(...reader.read(event));
    if (events.at(-1)?.type === "finish") break;
  }
  const pieces = events.filter((event) => event.type === "text");
  return {
    pieces,
    end: events.at(-1),
    text: pieces.map((piece) => piece.text).join(""),
    tokens: pieces.flatMap((piece) => piece.tokens ?? []),
  };
}

test("a token is told of with the text that it begins in, once, in order", () => {
  for (const said of ["plain", "你好，世界", "👩‍👩‍👧 a🙂", "é\u0301é"]) {
    const { text, tokens, pieces } = read(said);
    expect(text).toBe(said);
    expect(tokens.map(({ id }) => id)).toEqual(bytes(said));
    // Offsets count characters: every byte of a character begins where the character does.
    const starts = Array.from(said).flatMap((letter, i) => bytes(letter).map(() => i));
    expect(tokens.map(({ start }) => start)).toEqual(starts);
    let characters = 0;
    for (const piece of pieces) {
      characters += Array.from(piece.text).length;
      for (const { start } of piece.tokens ?? []) expect(start).toBeLessThan(characters);
    }
  }
});

test("tokens of a stop string, and of what was held back for one, come with the text or not at all", () => {
  const cut = read("one STOP two", { stops: ["STOP"] });
  expect(cut.text).toBe("one ");
  expect(cut.tokens.map(({ id }) => id)).toEqual(bytes("one "));
  expect(cut.end).toEqual({ type: "finish", reason: "stop", generated: "one STOP".length });

  const kept = read("one STO", { stops: ["STOP"] });
  expect(kept.text).toBe("one STO");
  expect(kept.tokens.map(({ id }) => id)).toEqual(bytes("one STO"));
  // While "STO" could still become the stop string, its tokens wait with it.
  expect(kept.pieces.slice(0, -1).flatMap(({ tokens }) => tokens ?? [])).toHaveLength(4);
});

test("a character that was cut off, and tokens without text, are told of at the end", () => {
  const { text, tokens } = read([...bytes("a"), 256, 0xe4, 0xbd]);
  expect(text).toBe("a\uFFFD");
  expect(tokens.map(({ id }) => id)).toEqual([97, 256, 0xe4, 0xbd]);
});

test("who did not ask for log probabilities gets no tokens", () => {
  const { pieces } = read("abc", { logprobs: false });
  expect(pieces.every(({ tokens }) => tokens === undefined)).toBe(true);
});
