/** The tokenizer files beside a safetensors checkpoint: what is read from each of them, and what is refused. */
import { describe, expect, test } from "vitest";
import type { TensorFile } from "../../../../origin/import/sources/tensor-file.ts";
import { readTokenizer } from "../../../../origin/import/tokenizers/read-tokenizer.ts";
import { Tokenizer } from "../../../../origin/tokenize/tokenizer.ts";
import { BYTE_VOCAB_SIZE, byteTokenizerSource, IM_END, IM_START } from "../../../fakes/byte-tokenizer.ts";
import { weightlessFile } from "../../../fakes/weightless-file.ts";

const { tokenizerJson, chatTemplate } = byteTokenizerSource();

/** The files of a small chat model. `undefined` removes a file, an object changes fields of its JSON. */
function checkpoint(changes: Readonly<Record<string, object | string | undefined>> = {}): TensorFile {
  const files: Record<string, object | string | undefined> = {
    "tokenizer.json": tokenizerJson as object,
    "tokenizer_config.json": {
      bos_token: "<|im_start|>",
      eos_token: { content: "<|im_end|>" },
      chat_template: chatTemplate,
    },
    "generation_config.json": { eos_token_id: [IM_END, 10] },
  };
  for (const [name, change] of Object.entries(changes)) {
    const before = files[name];
    files[name] = typeof change === "object" && typeof before === "object" ? { ...before, ...change } : change;
  }
  return weightlessFile({
    format: "safetensors",
    readText: (name) => {
      const file = files[name];
      return typeof file === "object" ? JSON.stringify(file) : file;
    },
  });
}

function read(changes?: Parameters<typeof checkpoint>[0]) {
  return readTokenizer(checkpoint(changes), BYTE_VOCAB_SIZE);
}

test("keeps tokenizer.json unchanged, byte for byte", () => {
  const written = JSON.stringify(tokenizerJson, undefined, 3);
  expect(read({ "tokenizer.json": written }).json).toBe(written);
});

test("has the end tokens of generation_config.json, and those with a known name", () => {
  expect(read().tokens).toEqual({
    bos: IM_START,
    ends: [10, IM_END],
    addBos: false,
    names: { bos_token: "<|im_start|>", eos_token: "<|im_end|>" },
  });
  expect(read({ "generation_config.json": undefined }).tokens.ends).toEqual([IM_END]);
  expect(read({ "generation_config.json": { eos_token_id: 7 } }).tokens.ends).toEqual([7, IM_END]);
});

test("adds control tokens that only tokenizer_config.json has", () => {
  const configured = { added_tokens_decoder: { 258: { content: "<|later|>", special: true, lstrip: false } } };
  const template = { chat_template: "{{ '<|later|>' + messages[0].content }}" };
  const found = readTokenizer(checkpoint({ "tokenizer_config.json": { ...configured, ...template } }), 259);
  const tokenizer = new Tokenizer({ ...found, tokenizerJson: JSON.parse(found.json) });
  expect([...tokenizer.encodeChat([{ role: "user", content: "a" }])]).toEqual([258, 97]);
  expect([...tokenizer.encodeChat([{ role: "user", content: "<|later|>" }])]).toHaveLength(10);
});

describe("a text begins with BOS", () => {
  const single = [{ SpecialToken: { id: "<|im_start|>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }];
  const template = { type: "TemplateProcessing", single, pair: [], special_tokens: {} };
  test.each<[string, Parameters<typeof checkpoint>[0], boolean]>([
    ["if a step of tokenizer.json adds it", { "tokenizer.json": { post_processor: template } }, true],
    [
      "if a nested step of tokenizer.json adds it",
      { "tokenizer.json": { post_processor: { type: "Sequence", processors: [{ type: "ByteLevel" }, template] } } },
      true,
    ],
    ["if tokenizer_config.json sets add_bos_token", { "tokenizer_config.json": { add_bos_token: true } }, true],
    [
      "but not if tokenizer_config.json unsets add_bos_token",
      { "tokenizer.json": { post_processor: template }, "tokenizer_config.json": { add_bos_token: false } },
      false,
    ],
    ["but not if there is no BOS token", { "tokenizer_config.json": { bos_token: null, add_bos_token: true } }, false],
  ])("%s", (_, changes, expected) => expect(read(changes).tokens.addBos).toBe(expected));
});

describe("the chat template", () => {
  test("is read from its own file rather than the configuration", () => {
    expect(read({ "chat_template.jinja": "own {{ messages[0].content }}" }).chatTemplate).toMatch(/^own/);
    expect(read({ "chat_template.json": { chat_template: "{{ 'json' }}" } }).chatTemplate).toBe("{{ 'json' }}");
  });

  test("is undefined for a base model, also when the configuration has null", () => {
    expect(read({ "tokenizer_config.json": { chat_template: null } }).chatTemplate).toBeUndefined();
    expect(read({ "tokenizer_config.json": undefined }).chatTemplate).toBeUndefined();
  });

  test("is the default of several, or the one for tools if a request has tools", () => {
    const list = [
      { name: "default", template: "\n plain \n" },
      { name: "tool_use", template: "  {{ tools[0].function.name }}  \n" },
      { name: "rag", template: "{{ nothing() }}" },
    ];
    const { json, chatTemplate: both, tokens } = read({ "tokenizer_config.json": { chat_template: list } });
    const tokenizer = new Tokenizer({ tokenizerJson: JSON.parse(json), chatTemplate: both, tokens });
    const write = (tools: Parameters<Tokenizer["encodeChat"]>[1]) =>
      Buffer.from(tokenizer.encodeChat([{ role: "user", content: "x" }], tools)).toString();
    expect(write([])).toBe("\n plain ");
    expect(write([{ type: "function", function: { name: "look" } }])).toBe("  look  ");
  });
});

describe("refuses, in one sentence, a checkpoint with", () => {
  const model = { type: "WordPiece", vocab: { a: 0 }, unk_token: "a" };
  const cases: readonly (readonly [string, Parameters<typeof checkpoint>[0], string, RegExp])[] = [
    ["no tokenizer", { "tokenizer.json": undefined }, "unsupported-tokenizer", /has no tokenizer\.json/],
    ["a tokenizer that is not JSON", { "tokenizer.json": "{" }, "invalid-file", /tokenizer\.json that is not JSON/],
    ["a tokenizer without tokens", { "tokenizer.json": "{}" }, "invalid-file", /added_tokens/],
    [
      "an unknown tokenizer model",
      { "tokenizer.json": { model } },
      "unsupported-tokenizer",
      /model WordPiece is not known/,
    ],
    [
      "an unknown pre-tokenizer",
      { "tokenizer.json": { pre_tokenizer: { type: "UnicodeScripts" } } },
      "unsupported-tokenizer",
      /pre-tokenizer UnicodeScripts is not known/,
    ],
    [
      "a regular expression that JavaScript can't compile",
      { "tokenizer.json": { pre_tokenizer: { type: "Split", pattern: { Regex: "(?<a" }, behavior: "Isolated" } } },
      "unsupported-tokenizer",
      /has an unsupported tokenizer/,
    ],
    [
      "a token id that would exhaust memory",
      { "tokenizer.json": { model: { type: "BPE", vocab: { a: 4e15 }, merges: [] } } },
      "unsupported-tokenizer",
      /token a has the id 4000000000000000/,
    ],
    [
      "more tokens than embeddings",
      { "tokenizer_config.json": { added_tokens_decoder: { 900: { content: "<x>", special: true } } } },
      "invalid-file",
      /901 tokens, but only 258 embeddings/,
    ],
    [
      "files that contradict each other",
      { "tokenizer_config.json": { added_tokens_decoder: { 256: { content: "<x>", special: true } } } },
      "invalid-file",
      /token 256 is <\|im_start\|> in tokenizer\.json but <x> in tokenizer_config\.json/,
    ],
    ["an end token outside the vocabulary", { "generation_config.json": { eos_token_id: 999 } }, "invalid-file", /999/],
    [
      "no end token",
      {
        "tokenizer.json": { added_tokens: [] },
        "tokenizer_config.json": { bos_token: null, eos_token: null },
        "generation_config.json": undefined,
      },
      "invalid-file",
      /no token that ends/,
    ],
    [
      "several chat templates without a default",
      { "tokenizer_config.json": { chat_template: [{ name: "rag", template: "x" }] } },
      "unsupported-model",
      /none named "default"/,
    ],
    [
      "a template that throws",
      { "chat_template.jinja": "{{ raise_exception('never') }}" },
      "unsupported-model",
      /can't be rendered: .*never/,
    ],
    [
      "a template that doubles a text endlessly",
      {
        "chat_template.jinja":
          "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
      },
      "unsupported-model",
      /can't be rendered: .*far more text/,
    ],
    [
      "a template that calls itself endlessly",
      { "chat_template.jinja": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}" },
      "unsupported-model",
      /can't be rendered/,
    ],
  ];
  test.each(cases)("%s", (_, changes, code, message) => {
    expect(() => read(changes)).toThrow(expect.objectContaining({ code, message: expect.stringMatching(message) }));
    expect(() => read(changes)).not.toThrow(/\n/);
  });
});
