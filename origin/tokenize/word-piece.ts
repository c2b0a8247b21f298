/**
 * The tokenizer of BERT and its kin: a text to the ids that an encoder reads, `[CLS]` first and `[SEP]` last. The same ids
 * as Hugging Face's reference gives. Control tokens' names in a text are those tokens, as there: an encoder obeys nobody,
 * so a text can't speak in another's place with them. Knows no model.
 *
 * Source: Devlin et al. 2018, "BERT"; huggingface/tokenizers, tokenizers/src/models/wordpiece/mod.rs and
 * processors/template.rs.
 */
import { z } from "zod";
import { AddedTokens, addedTokenSchema } from "./added-tokens.ts";
import { createNormalizer, describeStep, type Normalizer } from "./normalize.ts";
import { createPreTokenizer, type PreTokenizer } from "./pre-tokenize.ts";

const specialToken = z.looseObject({ SpecialToken: z.looseObject({ id: z.string() }) });
const sequence = z.looseObject({ Sequence: z.looseObject({ id: z.literal("A") }) });
const processorSchema = z.discriminatedUnion("type", [
  z.looseObject({
    type: z.literal("TemplateProcessing"),
    single: z.tuple([specialToken, sequence, specialToken]),
    special_tokens: z.record(z.string(), z.looseObject({ ids: z.tuple([z.int().min(0)]) })),
  }),
  z.looseObject({
    type: z.literal("BertProcessing"),
    cls: z.tuple([z.string(), z.int().min(0)]),
    sep: z.tuple([z.string(), z.int().min(0)]),
  }),
]);

const tokenizerSchema = z.looseObject({
  added_tokens: z.array(addedTokenSchema),
  normalizer: z.unknown(),
  pre_tokenizer: z.unknown(),
  post_processor: z.unknown(),
  model: z.unknown(),
});
const modelSchema = z.looseObject({
  type: z.literal("WordPiece").default("WordPiece"),
  unk_token: z.string(),
  continuing_subword_prefix: z.string(),
  max_input_chars_per_word: z.int().min(1),
  vocab: z.record(z.string(), z.int().min(0)),
});
type Model = z.infer<typeof modelSchema>;

export class WordPieceTokenizer {
  /** One more than the largest id. */
  readonly size: number;
  /** What a text begins and ends with. */
  readonly begin: number;
  readonly end: number;
  readonly #added: AddedTokens;
  readonly #addedNormalized: AddedTokens;
  readonly #normalizer: Normalizer;
  readonly #preTokenize: PreTokenizer;
  readonly #model: Model;
  readonly #vocabulary: ReadonlyMap<string, number>;
  readonly #unknown: number;
  readonly #longestToken: number;

  /**
   * @param tokenizerJson - `tokenizer.json`, parsed
   * @throws an Error that names what is not known exactly, or is missing
   */
  constructor(tokenizerJson: unknown) {
    const parsed = tokenizerSchema.safeParse(tokenizerJson);
    if (!parsed.success) throw new Error(`it is no tokenizer.json: ${z.prettifyError(parsed.error)}`);
    const { added_tokens: added, normalizer, pre_tokenizer, post_processor, model } = parsed.data;
    this.#model = readModel(model);
    this.#vocabulary = new Map(Object.entries(this.#model.vocab));
    this.#normalizer = createNormalizer(normalizer);
    this.#preTokenize = createPreTokenizer(pre_tokenizer);
    const { begin, end } = readEnds(post_processor);
    this.begin = begin;
    this.end = end;
    const unknown = this.#vocabulary.get(this.#model.unk_token);
    if (unknown === undefined) throw new Error(`its token ${this.#model.unk_token} is not in its vocabulary`);
    this.#unknown = unknown;
    const isNormalized = ({ normalized, special }: (typeof added)[number]): boolean => normalized ?? !special;
    this.#added = new AddedTokens(added.filter((token) => !isNormalized(token)));
    this.#addedNormalized = new AddedTokens(added.filter(isNormalized), (text) => this.#normalizer.normalize(text));
    let [size, longest] = [Math.max(begin, end, ...added.map(({ id }) => id)) + 1, 1];
    for (const [token, id] of this.#vocabulary) {
      size = Math.max(size, id + 1);
      longest = Math.max(longest, token.length);
    }
    this.size = size;
    this.#longestToken = longest;
  }

  /** A text's ids, those it begins and ends with included. */
  encode(text: string): number[] {
    const ids = [this.begin];
    for (const part of this.#split(text.toWellFormed())) {
      if (typeof part !== "string") {
        ids.push(part.id);
        continue;
      }
      const { pieces } = this.#preTokenize({ pieces: [part], isStart: true });
      for (const piece of pieces) this.#addWord(piece, ids);
    }
    ids.push(this.end);
    return ids;
  }

  *#split(text: string) {
    for (const part of this.#added.split(text)) {
      if (typeof part === "string") yield* this.#addedNormalized.split(this.#normalizer.normalize(part));
      else yield part;
    }
  }

  /** The longest token that begins the rest, again and again; a word of which any rest has none is unknown as a whole. */
  #addWord(word: string, ids: number[]): void {
    const { continuing_subword_prefix: prefix, max_input_chars_per_word: charsMax } = this.#model;
    const letters = Array.from(word);
    if (letters.length > charsMax) return void ids.push(this.#unknown);
    const found: number[] = [];
    for (let from = 0; from < letters.length;) {
      let [to, id] = [Math.min(letters.length, from + this.#longestToken), undefined as number | undefined];
      for (; to > from; to--) {
        const part = letters.slice(from, to).join("");
        id = this.#vocabulary.get(from === 0 ? part : prefix + part);
        if (id !== undefined) break;
      }
      if (id === undefined) return void ids.push(this.#unknown);
      found.push(id);
      from = to;
    }
    ids.push(...found);
  }
}

function readModel(model: unknown): Model {
  const parsed = modelSchema.safeParse(model);
  if (parsed.success) return parsed.data;
  throw new Error(`its model ${describeStep(model)} is not WordPiece, or not in its usual form`, {
    cause: parsed.error,
  });
}

function readEnds(processor: unknown): { readonly begin: number; readonly end: number } {
  const parsed = processorSchema.safeParse(processor);
  if (!parsed.success) throw new Error(`its post-processor ${describeStep(processor)} is not BERT's`);
  const { data } = parsed;
  if (data.type === "BertProcessing") return { begin: data.cls[1], end: data.sep[1] };
  const [begin, , end] = data.single;
  const idOf = (name: string): number => {
    const id = data.special_tokens[name]?.ids[0];
    if (id === undefined) throw new Error(`its post-processor does not say which token ${name} is`);
    return id;
  };
  return { begin: idOf(begin.SpecialToken.id), end: idOf(end.SpecialToken.id) };
}
