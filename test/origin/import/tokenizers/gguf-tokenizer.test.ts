/** The rebuilt tokenizer compared with llama.cpp and with published tokenizers, and files that are refused. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import type { TensorFile } from "../../../../origin/import/sources/tensor-file.ts";
import type { ImportedTokenizer } from "../../../../origin/import/tokenizers/imported-tokenizer.ts";
import { readTokenizer } from "../../../../origin/import/tokenizers/read-tokenizer.ts";
import { createPreTokenizer } from "../../../../origin/tokenize/pre-tokenize.ts";
import { Vocabulary } from "../../../../origin/tokenize/vocabulary.ts";
import { type TinyValue, writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";

interface Fixture {
  readonly texts: readonly string[];
  /** Token ids of each text, by the value of `tokenizer.ggml.pre`. */
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

describe.each(Object.keys(fixture.ids))("the pre-tokenizer %s", (pre) => {
  test("leads to llama.cpp's ids for every text", () => {
    const metadata = { ...real.metadata, "tokenizer.ggml.pre": pre };
    const vocabulary = load(readTokenizer({ ...real, metadata }, 49_152));
    for (const [index, text] of fixture.texts.entries()) {
      // llama.cpp does not normalize. The published Qwen 2 tokenizer composes accents (NFC), and so does this one.
      if (pre === "qwen2" && text !== text.normalize("NFC")) continue;
      // llama.cpp also tokenizes control tokens in a user's text as control tokens.
      if (vocabulary.controls.some(({ content }) => text.includes(content))) continue;
      expect(vocabulary.encode(text, true), text).toEqual(fixture.ids[pre]![index]);
    }
  });
});

interface Pieces {
  readonly texts: readonly string[];
  /** Pieces of each text, by the value of `tokenizer.ggml.pre`. */
  readonly pieces: Readonly<Record<string, readonly (readonly string[])[]>>;
}

const published = JSON.parse(readFileSync(new URL("pieces.fixture.json", import.meta.url), "utf8")) as Pieces;

test.each(Object.entries(published.pieces))("splits every text like the published tokenizer of %s", (pre, pieces) => {
  const path = join(folder, `${pre}.gguf`);
  writeTinyCheckpoint(path, { metadata: { "tokenizer.ggml.pre": string(pre) } });
  using file = openGguf(path);
  const { pre_tokenizer: config } = JSON.parse(readTokenizer(file, 272).json) as { readonly pre_tokenizer: unknown };
  const preTokenize = createPreTokenizer(config);
  for (const [index, text] of published.texts.entries()) {
    expect(preTokenize({ pieces: [text], isStart: true }).pieces, text).toEqual(pieces[index]);
  }
});

test("decodes encoded texts to the same bytes", () => {
  const vocabulary = load(readTokenizer(real, 49_152));
  for (const text of ["don't , stop .", "你好 🎉 é\n\tcode();", "<|im_start|>user\nhi<|im_end|>"]) {
    const bytes = vocabulary.encode(text, true).map((id) => vocabulary.bytesOf(id));
    expect(Buffer.concat(bytes).toString()).toBe(text);
  }
});

test("reads the chat template and the tokens that begin a text and end an answer", () => {
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

describe("refuses, in one sentence, a file with", () => {
  const cases: readonly (readonly [string, Record<string, TinyValue | undefined>, string, RegExp])[] = [
    ["an unknown tokenizer", { "tokenizer.ggml.model": string("rwkv") }, "unsupported-tokenizer", /tokenizer 'rwkv'/],
    ["SentencePiece without scores", { "tokenizer.ggml.model": string("llama") }, "invalid-file", /ggml\.scores/],
    [
      "an unknown pre-tokenizer",
      { "tokenizer.ggml.pre": string("viking") },
      "unsupported-tokenizer",
      /pre-tokenizer 'viking'/,
    ],
    ["no pre-tokenizer", { "tokenizer.ggml.pre": undefined }, "unsupported-tokenizer", /pre-tokenizer undefined/],
    ["no vocabulary", { "tokenizer.ggml.tokens": undefined }, "invalid-file", /tokenizer\.ggml\.tokens/],
    ["no merges", { "tokenizer.ggml.merges": undefined }, "invalid-file", /tokenizer\.ggml\.merges/],
    ["no token types", { "tokenizer.ggml.token_type": undefined }, "invalid-file", /token_type/],
    ["a vocabulary of another size", { "tokenizer.ggml.tokens": strings(["a", "b"]) }, "invalid-file", /2 tokens/],
    ["a merge of unknown tokens", { "tokenizer.ggml.merges": strings(["q zz"]) }, "invalid-file", /the merge 'q zz'/],
    ["a merge of one part", { "tokenizer.ggml.merges": strings(["he"]) }, "invalid-file", /the merge 'he'/],
    [
      "an end token outside the vocabulary",
      { "tokenizer.ggml.eos_token_id": { type: "uint32", value: 9999 } },
      "invalid-file",
      /eos_token_id is 9999/,
    ],
    [
      "a chat template that is not a string",
      { "tokenizer.chat_template": strings(["a"]) },
      "invalid-file",
      /chat template that is not a string/,
    ],
    [
      "a chat template that can't be parsed",
      { "tokenizer.chat_template": string("{% for %}") },
      "unsupported-model",
      /can't be rendered/,
    ],
    [
      "a chat template with an endless loop",
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
