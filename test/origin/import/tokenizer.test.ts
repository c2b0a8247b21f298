/** The rebuilt tokenizer against llama.cpp's, and the files whose tokenizer must not be guessed. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { openGguf } from "../../../origin/import/sources/gguf.ts";
import type { TensorFile } from "../../../origin/import/sources/tensor-file.ts";
import { type ImportedTokenizer, readTokenizer } from "../../../origin/import/tokenizer.ts";
import { type TinyValue, writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";

interface Fixture {
  readonly texts: readonly string[];
  /** By `tokenizer.ggml.pre`. */
  readonly ids: Readonly<Record<string, readonly (readonly number[])[]>>;
}

const fixture = JSON.parse(readFileSync(new URL("tokens.fixture.json", import.meta.url), "utf8")) as Fixture;
let folder = "";
let real: TensorFile;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-tokenizer-"));
  real = openGguf(inject("modelFile"));
});
afterAll(() => {
  real[Symbol.dispose]();
  rmSync(folder, { recursive: true, force: true });
});

function load({ json }: ImportedTokenizer): Tokenizer {
  return new Tokenizer(JSON.parse(json) as object, { clean_up_tokenization_spaces: false });
}

describe.each(Object.keys(fixture.ids))("split like %s", (pre) => {
  test("gives llama.cpp's ids for every text", () => {
    const metadata = { ...real.metadata, "tokenizer.ggml.pre": pre };
    const tokenizer = load(readTokenizer({ ...real, metadata }, 49_152));
    for (const [index, text] of fixture.texts.entries()) {
      // llama.cpp does not normalize; the published Qwen 2 tokenizer composes accents (NFC) first, and so do we.
      if (pre === "qwen2" && text !== text.normalize("NFC")) continue;
      expect(tokenizer.encode(text, { add_special_tokens: false }).ids, text).toEqual(fixture.ids[pre]![index]);
    }
  });
});

test("decodes what it encoded, byte for byte", () => {
  const tokenizer = load(readTokenizer(real, 49_152));
  for (const text of ["don't , stop .", "你好 🎉 é\n\tcode();", "<|im_start|>user\nhi<|im_end|>"]) {
    expect(tokenizer.decode(tokenizer.encode(text, { add_special_tokens: false }).ids)).toBe(text);
  }
});

test("takes the chat template and the tokens that begin and end", () => {
  const { tokens, chatTemplate } = readTokenizer(real, 49_152);
  expect(tokens).toEqual({ bos: 1, ends: [0, 2], addBos: false });
  expect(chatTemplate).toContain("<|im_start|>");
});

describe("refuses, in one sentence,", () => {
  const cases: readonly (readonly [string, Record<string, TinyValue | undefined>, string, RegExp])[] = [
    ["SentencePiece", { "tokenizer.ggml.model": string("llama") }, "unsupported-tokenizer", /not SentencePiece/],
    [
      "an unknown pre-tokenizer",
      { "tokenizer.ggml.pre": string("tekken") },
      "unsupported-tokenizer",
      /way of 'tekken'/,
    ],
    ["no pre-tokenizer", { "tokenizer.ggml.pre": undefined }, "unsupported-tokenizer", /way of undefined/],
    ["no vocabulary", { "tokenizer.ggml.tokens": undefined }, "invalid-file", /tokenizer\.ggml\.tokens/],
    ["no merges", { "tokenizer.ggml.merges": undefined }, "invalid-file", /tokenizer\.ggml\.merges/],
    ["no token types", { "tokenizer.ggml.token_type": undefined }, "invalid-file", /token_type/],
    ["a vocabulary of another size", { "tokenizer.ggml.tokens": strings(["a", "b"]) }, "invalid-file", /2 tokens/],
    ["a merge of unknown tokens", { "tokenizer.ggml.merges": strings(["q zz"]) }, "invalid-file", /merges "q zz"/],
    ["a merge of one part", { "tokenizer.ggml.merges": strings(["he"]) }, "invalid-file", /merges "he"/],
    [
      "an end token outside the vocabulary",
      { "tokenizer.ggml.eos_token_id": { type: "uint32", value: 9999 } },
      "invalid-file",
      /eos_token_id is 9999/,
    ],
    ["no chat template", { "tokenizer.chat_template": undefined }, "unsupported-model", /no chat template/],
    [
      "a chat template that can't be parsed",
      { "tokenizer.chat_template": string("{% for %}") },
      "unsupported-model",
      /can't be parsed/,
    ],
  ];
  test.each(cases)("%s", async (_, metadata, code, message) => {
    const path = join(folder, "odd.gguf");
    writeTinyCheckpoint(path, { metadata });
    using file = openGguf(path);
    expect(() => readTokenizer(file, 272)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

function string(value: string): TinyValue {
  return { type: "string", value };
}

function strings(value: readonly string[]): TinyValue {
  return { type: "strings", value };
}
