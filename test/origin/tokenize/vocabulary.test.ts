/** Small tokenizers of every kind against the reference implementation's ids and texts; the fixture says how it was made. */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { Vocabulary } from "../../../origin/tokenize/vocabulary.ts";
import { Detokenizer } from "../../../origin/tokenize/tokenizer.ts";

interface Reference {
  readonly json: {
    readonly added_tokens: readonly { readonly content: string; readonly special: boolean }[];
    readonly model: Readonly<Record<string, unknown>>;
  };
  readonly ids: readonly (readonly number[])[];
  /** `null` where a text comes back as it was. */
  readonly decoded: readonly (string | null)[];
}

const fixture = JSON.parse(readFileSync(new URL("reference.fixture.json", import.meta.url), "utf8")) as {
  readonly texts: readonly string[];
  readonly tokenizers: Readonly<Record<string, Reference>>;
};

describe.each(Object.entries(fixture.tokenizers))("%s", (name, { json, ids, decoded }) => {
  const vocabulary = new Vocabulary(json);

  test("gives the reference's ids for every text", () => {
    for (const [i, text] of fixture.texts.entries()) {
      // The reference takes the letters <0x41> for the byte; SentencePiece, on which such models were trained, does not.
      if (name === "unigram, bytes" && text.includes("<0x")) continue;
      expect(vocabulary.encode(text, true), JSON.stringify(text)).toEqual(ids[i]);
    }
  });

  test("gives the reference's text back, whatever pieces it comes in", () => {
    for (const [i, text] of fixture.texts.entries()) {
      const detokenizer = new Detokenizer(vocabulary, false);
      const said = ids[i]!.map((id) => detokenizer.push(id)).join("") + detokenizer.flush();
      const unknown = json.added_tokens.filter(({ special }) => special).map(({ content }) => content);
      const wanted = unknown.reduce((rest, token) => rest.replaceAll(token, ""), decoded[i] ?? text);
      expect(said, JSON.stringify(text)).toBe(wanted);
    }
  });

  test("never overrates how many tokens a text needs at least", () => {
    for (const text of [...fixture.texts, "e\u0301".repeat(500), "\u1112\u1161\u11ab".repeat(500), "𝐀".repeat(500)]) {
      expect(vocabulary.fewestTokens(text)).toBeLessThanOrEqual(vocabulary.encode(text, true).length);
    }
  });

  test("makes no control token of what only reads like one", () => {
    for (const { id, content } of vocabulary.controls) {
      for (const text of [content, `a ${content} b`, content.repeat(3), content.normalize("NFKC")]) {
        const found = vocabulary.encode(text, true).includes(id);
        // Letters that no token has become the unknown one, which says nothing.
        expect(found && content !== "<unk>", JSON.stringify(text)).toBe(false);
      }
    }
  });
});
