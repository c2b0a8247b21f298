/** Tokenizers rebuilt from GGUF metadata, compared with SentencePiece itself. `sentencepiece.fixture.py` made the fixture. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { TensorFile } from "../../../../origin/import/sources/tensor-file.ts";
import { readTokenizer } from "../../../../origin/import/tokenizers/read-tokenizer.ts";
import { Vocabulary } from "../../../../origin/tokenize/vocabulary.ts";
import { Tokenizer } from "../../../../origin/tokenize/tokenizer.ts";
import { weightlessFile } from "../../../fakes/weightless-file.ts";

interface Model {
  readonly tokens: readonly string[];
  readonly scores: readonly number[];
  readonly types: readonly number[];
  readonly ids: readonly (readonly number[])[];
}

function readJson(path: string): unknown {
  return JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
}
const { models } = readJson("sentencepiece.fixture.json") as { readonly models: Readonly<Record<string, Model>> };
const { texts } = readJson("../../tokenize/reference.fixture.json") as { readonly texts: readonly string[] };

/** Llama 2's chat template, which ends turns with `eos_token`. */
const TEMPLATE =
  "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}" +
  "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}";

function ggufOf(kind: string, changes: Readonly<Record<string, unknown>> = {}): TensorFile {
  const { tokens, scores, types } = models[kind]!;
  const metadata = {
    "tokenizer.ggml.model": kind,
    "tokenizer.ggml.tokens": tokens,
    "tokenizer.ggml.scores": scores,
    "tokenizer.ggml.token_type": types,
    "tokenizer.ggml.unknown_token_id": 0,
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.remove_extra_whitespaces": kind === "t5",
    "tokenizer.chat_template": TEMPLATE,
    ...changes,
  };
  return weightlessFile({ format: "gguf", metadata });
}

function tokenizerOf(kind: string, changes?: Readonly<Record<string, unknown>>): Tokenizer {
  const { json, tokens, chatTemplate } = readTokenizer(ggufOf(kind, changes), models[kind]!.tokens.length);
  return new Tokenizer({ tokenizerJson: JSON.parse(json), tokens, chatTemplate });
}

describe.each(Object.entries(models))("%s", (kind, { tokens, types, ids }) => {
  const vocabulary = new Vocabulary(JSON.parse(readTokenizer(ggufOf(kind), tokens.length).json));

  test("leads to SentencePiece's ids for every text", () => {
    for (const [i, text] of texts.entries()) {
      expect(vocabulary.encode(text, true), JSON.stringify(text)).toEqual(ids[i]);
    }
  });

  test("decodes byte tokens to their bytes, and never encodes the letters of their names to them", () => {
    for (const [id, token] of tokens.entries()) {
      if (types[id] !== 6) continue;
      const byte = Number.parseInt(token.slice(1, -1), 16);
      expect(vocabulary.bytesOf(id)).toEqual(Uint8Array.of(byte));
      // The letters of the name may themselves be encoded as bytes.
      if (!token.includes(String.fromCharCode(byte))) expect(vocabulary.encode(`a${token}`, true)).not.toContain(id);
    }
  });

  test("lists the vocabulary in byte-level letters", () => {
    const letters = tokenizerOf(kind).listVocabulary();
    expect(letters).toHaveLength(tokens.length);
    expect(letters[tokens.indexOf("▁the")]).toBe("Ġthe");
    expect(letters[tokens.indexOf("<0x0A>")]).toBe("Ċ");
    expect(letters.slice(0, 3)).toEqual(["", "", ""]);
  });
});

describe("a conversation", () => {
  const tokenizer = tokenizerOf("llama");

  test("has control tokens from the template only, and ends turns with EOS", () => {
    const ids = tokenizer.encodeChat([
      { role: "user", content: "Hi" },
      { role: "assistant", content: "Hello" },
      { role: "user", content: "</s> <s> <unk>" },
    ]);
    expect(ids.filter((id) => id === 1)).toHaveLength(2);
    expect(ids.filter((id) => id === 2)).toHaveLength(1);
    expect(ids[0]).toBe(1);
  });

  test("decodes to the same text, although a space is prepended after every control token", () => {
    const ids = tokenizer.encodeChat([{ role: "user", content: "你好 👩‍👩‍👧 <s>" }]);
    const detokenizer = tokenizer.createDetokenizer({ continues: false });
    const text = [...ids].map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
    expect(text).toBe("[INST] 你好 👩‍👩‍👧 <s> [/INST]");
  });
});

describe("the first space of an answer", () => {
  const tokenizer = tokenizerOf("llama");
  const ids = [...tokenizer.encodePrompt("the answer")].slice(1);
  const write = (continues: boolean) => {
    const detokenizer = tokenizer.createDetokenizer({ continues });
    return ids.map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
  };

  test("is removed where the answer begins a text, because the tokenizer prepended it", () =>
    expect(write(false)).toBe("the answer"));
  test("is kept where the answer continues a text", () => expect(write(true)).toBe(" the answer"));
});

test("a token of several spaces, as in Gemma, is found whether the text has spaces or ▁", () => {
  const { tokens, scores, types } = models["llama"]!;
  const metadata = {
    "tokenizer.ggml.tokens": [...tokens, "   "],
    "tokenizer.ggml.scores": [...scores, 0],
    "tokenizer.ggml.token_type": [...types, 4],
    "tokenizer.ggml.add_space_prefix": false,
  };
  const { json } = readTokenizer(ggufOf("llama", metadata), tokens.length + 1);
  const vocabulary = new Vocabulary(JSON.parse(json));
  for (const text of ["a   b", "a ▁ b", "a▁▁▁b"]) expect(vocabulary.encode(text, true), text).toContain(tokens.length);
  expect(vocabulary.encode("a  b", true)).not.toContain(tokens.length);
});

describe("refuses, in one sentence, a file with", () => {
  const size = models["llama"]!.tokens.length;
  const cases: readonly (readonly [string, string, Readonly<Record<string, unknown>>, string, RegExp])[] = [
    ["fewer scores than tokens", "llama", { "tokenizer.ggml.scores": [1] }, "invalid-file", /1 scores/],
    ["scores that are not numbers", "llama", { "tokenizer.ggml.scores": ["a"] }, "invalid-file", /ggml\.scores/],
    [
      "no token for unknown characters",
      "llama",
      { "tokenizer.ggml.token_type": Array.from({ length: size }, () => 1) },
      "invalid-file",
      /neither a token for each byte/,
    ],
    [
      "a damaged normalization",
      "t5",
      { "tokenizer.ggml.precompiled_charsmap": [255, 255, 255, 255, 0] },
      "unsupported-tokenizer",
      /normalization is damaged/,
    ],
  ];
  test.each(cases)("%s", (_, kind, changes, code, message) => {
    expect(() => readTokenizer(ggufOf(kind, changes), models[kind]!.tokens.length)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});
