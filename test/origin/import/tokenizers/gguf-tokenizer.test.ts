/** The rebuilt tokenizer against llama.cpp's and the published ones, and the files whose tokenizer must not be guessed. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import type { TensorFile } from "../../../../origin/import/sources/tensor-file.ts";
import { type ImportedTokenizer, readTokenizer } from "../../../../origin/import/tokenizers/read-tokenizer.ts";
import { createPreTokenizer } from "../../../../origin/tokenize/pre-tokenize.ts";
import { Vocabulary } from "../../../../origin/tokenize/vocabulary.ts";
import { type TinyValue, writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";

interface Fixture {
  readonly texts: readonly string[];
  /** By `tokenizer.ggml.pre`. */
  readonly ids: Readonly<Record<string, readonly (readonly number[])[]>>;
}

const fixture = JSON.parse(readFileSync(new URL("llama-cpp.fixture.json", import.meta.url), "utf8")) as Fixture;
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

function load({ json }: ImportedTokenizer): Vocabulary {
  return new Vocabulary(JSON.parse(json));
}

describe.each(Object.keys(fixture.ids))("split like %s", (pre) => {
  test("gives llama.cpp's ids for every text", () => {
    const metadata = { ...real.metadata, "tokenizer.ggml.pre": pre };
    const vocabulary = load(readTokenizer({ ...real, metadata }, 49_152));
    for (const [index, text] of fixture.texts.entries()) {
      // llama.cpp does not normalize; the published Qwen 2 tokenizer composes accents (NFC) first, and so do we.
      if (pre === "qwen2" && text !== text.normalize("NFC")) continue;
      // Nor does it know what a user may not say.
      if (vocabulary.controls.some(({ content }) => text.includes(content))) continue;
      expect(vocabulary.encode(text, true), text).toEqual(fixture.ids[pre]![index]);
    }
  });
});

interface Pieces {
  readonly texts: readonly string[];
  /** By `tokenizer.ggml.pre`. */
  readonly pieces: Readonly<Record<string, readonly (readonly string[])[]>>;
}

const published = JSON.parse(readFileSync(new URL("pieces.fixture.json", import.meta.url), "utf8")) as Pieces;

test.each(Object.entries(published.pieces))("cuts every text as the published tokenizer of %s does", (pre, pieces) => {
  const path = join(folder, `${pre}.gguf`);
  writeTinyCheckpoint(path, { metadata: { "tokenizer.ggml.pre": string(pre) } });
  using file = openGguf(path);
  const { pre_tokenizer: config } = JSON.parse(readTokenizer(file, 272).json) as { readonly pre_tokenizer: unknown };
  const preTokenize = createPreTokenizer(config);
  for (const [index, text] of published.texts.entries()) {
    expect(preTokenize({ pieces: [text], isStart: true }).pieces, text).toEqual(pieces[index]);
  }
});

test("decodes what it encoded, byte for byte", () => {
  const vocabulary = load(readTokenizer(real, 49_152));
  for (const text of ["don't , stop .", "你好 🎉 é\n\tcode();", "<|im_start|>user\nhi<|im_end|>"]) {
    const bytes = vocabulary.encode(text, true).map((id) => vocabulary.bytesOf(id));
    expect(Buffer.concat(bytes).toString()).toBe(text);
  }
});

test("takes the chat template and the tokens that begin and end", () => {
  const { tokens, chatTemplate } = readTokenizer(real, 49_152);
  const names = {
    bos_token: "<|im_start|>",
    eos_token: "<|im_end|>",
    pad_token: "<|im_end|>",
    unk_token: "<|endoftext|>",
  };
  expect(tokens).toEqual({ bos: 1, ends: [0, 2], addBos: false, names });
  expect(chatTemplate).toContain("<|im_start|>");
});

const LOOP =
  "{% for a in range(1000) %}{% for b in range(1000) %}{% for c in range(1000) %}{% endfor %}{% endfor %}{% endfor %}";

describe("refuses, in one sentence,", () => {
  const cases: readonly (readonly [string, Record<string, TinyValue | undefined>, string, RegExp])[] = [
    ["another tokenizer", { "tokenizer.ggml.model": string("rwkv") }, "unsupported-tokenizer", /tokenizer 'rwkv'/],
    ["SentencePiece without scores", { "tokenizer.ggml.model": string("llama") }, "invalid-file", /ggml\.scores/],
    [
      "an unknown pre-tokenizer",
      { "tokenizer.ggml.pre": string("viking") },
      "unsupported-tokenizer",
      /way of 'viking'/,
    ],
    ["no pre-tokenizer", { "tokenizer.ggml.pre": undefined }, "unsupported-tokenizer", /way of undefined/],
    ["no vocabulary", { "tokenizer.ggml.tokens": undefined }, "invalid-file", /tokenizer\.ggml\.tokens/],
    ["no merges", { "tokenizer.ggml.merges": undefined }, "invalid-file", /tokenizer\.ggml\.merges/],
    ["no token types", { "tokenizer.ggml.token_type": undefined }, "invalid-file", /token_type/],
    ["a vocabulary of another size", { "tokenizer.ggml.tokens": strings(["a", "b"]) }, "invalid-file", /2 tokens/],
    ["a merge of unknown tokens", { "tokenizer.ggml.merges": strings(["q zz"]) }, "invalid-file", /merges 'q zz'/],
    ["a merge of one part", { "tokenizer.ggml.merges": strings(["he"]) }, "invalid-file", /merges 'he'/],
    [
      "an end token outside the vocabulary",
      { "tokenizer.ggml.eos_token_id": { type: "uint32", value: 9999 } },
      "invalid-file",
      /eos_token_id is 9999/,
    ],
    [
      "a chat template that is no text",
      { "tokenizer.chat_template": strings(["a"]) },
      "invalid-file",
      /chat template that is no text/,
    ],
    [
      "a chat template that can't be parsed",
      { "tokenizer.chat_template": string("{% for %}") },
      "unsupported-model",
      /can't be rendered/,
    ],
    [
      "a chat template that loops for ever",
      { "tokenizer.chat_template": string(LOOP) },
      "unsupported-model",
      /can't be rendered: .*more than \d+ steps/,
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
