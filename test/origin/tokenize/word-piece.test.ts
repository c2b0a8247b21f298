/** BERT's tokenizer against the reference implementation's ids; the fixture says how it was made. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { WordPieceTokenizer } from "../../../origin/tokenize/word-piece.ts";

interface Reference {
  readonly json: Readonly<Record<string, unknown>> & { readonly model: Readonly<Record<string, unknown>> };
  readonly ids: readonly (readonly number[])[];
}
const fixture = JSON.parse(readFileSync(new URL("word-piece.fixture.json", import.meta.url), "utf8")) as {
  readonly texts: readonly string[];
  readonly tokenizers: Readonly<Record<"cased" | "uncased", Reference>>;
};

describe.each(Object.entries(fixture.tokenizers))("%s", (_, { json, ids }) => {
  test("gives the reference's ids for every text", () => {
    const tokenizer = new WordPieceTokenizer(json);
    for (const [i, text] of fixture.texts.entries()) {
      expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids[i]);
    }
  });
});

describe("a tokenizer that is not known exactly", () => {
  const { json } = fixture.tokenizers.uncased;
  const refusals: readonly (readonly [string, unknown, RegExp])[] = [
    ["of another kind", { ...json, model: { type: "Unigram", vocab: [] } }, /its model Unigram is not WordPiece/],
    ["that adds other tokens", { ...json, post_processor: { type: "RobertaProcessing" } }, /RobertaProcessing/],
    ["that adds nothing", { ...json, post_processor: null }, /post-processor null/],
    ["with an unknown normalizer", { ...json, normalizer: { type: "Nmt" } }, /its normalizer Nmt is not known/],
    ["without its unknown token", { ...json, model: { ...json.model, unk_token: "<nope>" } }, /<nope> is not in its/],
    ["that is none", 3, /no tokenizer.json/],
  ];
  test.each(refusals)("%s is refused by name", (_, other, reason) => {
    expect(() => new WordPieceTokenizer(other)).toThrow(reason);
  });
});
