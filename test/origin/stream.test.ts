/** An answer's text and its tokens, kept in step whatever the tokens' boundaries are. */
import { expect, test } from "vitest";
import { EngineError, type Generation, type GenerationEvent } from "../../origin/engine/client.ts";
import { interleave } from "../../origin/interleave.ts";
import { readText } from "../../origin/stream.ts";
import { createByteTokenizer } from "../fakes/byte-tokenizer.ts";

const bytes = (text: string) => [...new TextEncoder().encode(text)];

/** A generation of the given tokens, several at a time. */
function generationOf(
  tokens: readonly number[],
  { logprobs = true, step = 1 }: { logprobs?: boolean; step?: number },
): Generation {
  async function* events(): AsyncGenerator<GenerationEvent, void, void> {
    for (let at = 0; at < tokens.length; at += step) {
      const some = tokens.slice(at, at + step);
      yield { type: "tokens", tokens: some, logprobs: logprobs ? some.map((id) => ({ logprob: -id, top: [] })) : [] };
    }
    yield { type: "finish", reason: "length", generated: tokens.length };
  }
  return { cancel: () => {}, [Symbol.asyncIterator]: events };
}

async function gather<Value>(source: AsyncIterable<Value>): Promise<Value[]> {
  const values: Value[] = [];
  for await (const value of source) values.push(value);
  return values;
}

async function read(
  text: string | readonly number[],
  options: { stops?: readonly string[]; logprobs?: boolean; step?: number } = {},
) {
  const generation = generationOf(typeof text === "string" ? bytes(text) : text, options);
  const detokenizer = createByteTokenizer().createDetokenizer();
  const events = await gather(readText(generation, { detokenizer, stops: options.stops ?? [] }));
  const pieces = events.filter((event) => event.type === "text");
  return {
    pieces,
    text: pieces.map((piece) => piece.text).join(""),
    tokens: pieces.flatMap(({ tokens }) => tokens ?? []),
  };
}

async function* say(values: readonly string[], fails = false): AsyncGenerator<string, void> {
  for (const value of values) yield value;
  if (fails) throw new EngineError("failed", "x");
}

test("a token is told of with the text that it begins in, once, in order", async () => {
  for (const said of ["plain", "你好，世界", "👩‍👩‍👧 a🙂", "é\u0301é"]) {
    for (const step of [1, 2, 3, 100]) {
      const { text, tokens, pieces } = await read(said, { step });
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
  }
});

test("tokens of a stop string, and of what was held back for one, come with the text or not at all", async () => {
  const cut = await read("one STOP two", { stops: ["STOP"] });
  expect(cut.text).toBe("one ");
  expect(cut.tokens.map(({ id }) => id)).toEqual(bytes("one "));

  const kept = await read("one STO", { stops: ["STOP"] });
  expect(kept.text).toBe("one STO");
  expect(kept.tokens.map(({ id }) => id)).toEqual(bytes("one STO"));
  // While "STO" could still become the stop string, its tokens wait with it.
  expect(kept.pieces.slice(0, -1).flatMap(({ tokens }) => tokens ?? [])).toHaveLength(4);
});

test("a character that was cut off, and tokens without text, are told of at the end", async () => {
  const { text, tokens } = await read([...bytes("a"), 256, 0xe4, 0xbd]);
  expect(text).toBe("a\uFFFD");
  expect(tokens.map(({ id }) => id)).toEqual([97, 256, 0xe4, 0xbd]);
});

test("who did not ask for log probabilities gets no tokens", async () => {
  const { pieces } = await read("abc", { logprobs: false });
  expect(pieces.every(({ tokens }) => tokens === undefined)).toBe(true);
});

test("several streams are read as they come, none starves, and the first failure ends them", async () => {
  const merged = await gather(interleave([say(["a1", "a2", "a3"]), say(["b1", "b2"]), say([])]));
  expect(merged.filter((value) => value.startsWith("a"))).toEqual(["a1", "a2", "a3"]);
  expect(merged.filter((value) => value.startsWith("b"))).toEqual(["b1", "b2"]);
  expect(merged.indexOf("b1")).toBeLessThan(merged.indexOf("a3"));
  await expect(gather(interleave([say(["a"]), say([], true)]))).rejects.toThrow(EngineError);
});

test("a stream that nobody waits for any more may fail in silence", async () => {
  const { promise, reject } = Promise.withResolvers<void>();
  async function* late(): AsyncGenerator<string, void> {
    await promise;
    yield "never";
  }
  for await (const value of interleave([say(["first", "second"]), late()])) {
    expect(value).toBe("first");
    break;
  }
  // Were nobody listening, vitest would report an unhandled rejection.
  reject(new Error("cancelled"));
  await new Promise((resolve) => setImmediate(resolve));
});
