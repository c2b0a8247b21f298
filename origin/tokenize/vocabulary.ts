/**
 * Text to token ids and ids to bytes, as `tokenizer.json` says: the same ids as Hugging Face's reference gives, but for
 * control tokens, which are not here at all. The BPE itself is a library's; what that has only nearly right (Metaspace,
 * digits, unigram, compiled normalization) is beside this file. Knows no templates.
 *
 * Source: huggingface/tokenizers, tokenizers/src/tokenizer/mod.rs.
 */
import * as tokenizers from "@huggingface/tokenizers";
import { z } from "zod";
import { type AddedToken, AddedTokens, addedTokenSchema } from "./added-tokens.ts";
import { createNormalizer, describeStep, type Normalizer } from "./normalize.ts";
import { createPreTokenizer, type PreTokenizer } from "./pre-tokenize.ts";
import { byteOfToken, createSpelling, type TokenSpelling } from "./token-bytes.ts";
import { Unigram } from "./unigram.ts";

/** What is used of the library: its own types are lost, because they name files without their endings. */
interface Library {
  readonly BPE: new (
    config: object,
  ) => ((pieces: readonly string[]) => readonly string[]) & { readonly tokens_to_ids: Map<string, number> };
}
const { BPE } = tokenizers as unknown as Library;

const noAffix = z.union([z.null(), z.literal("")]).optional();
const modelSchema = z.discriminatedUnion("type", [
  z.looseObject({
    type: z.literal("BPE"),
    // Not looked into: a vocabulary is hundreds of thousands of entries.
    vocab: z.custom<Readonly<Record<string, number>>>((value) => typeof value === "object" && value !== null),
    merges: z.custom<readonly (string | readonly [string, string])[]>(Array.isArray),
    dropout: z.union([z.null(), z.literal(0)]).optional(),
    unk_token: z.string().nullish(),
    continuing_subword_prefix: noAffix,
    end_of_word_suffix: noAffix,
    fuse_unk: z.boolean().default(false),
    byte_fallback: z.boolean().default(false),
    ignore_merges: z.boolean().default(false),
  }),
  z.looseObject({
    type: z.literal("Unigram"),
    vocab: z.custom<readonly (readonly [string, number])[]>(Array.isArray),
    unk_id: z.int().min(0).nullish(),
    byte_fallback: z.boolean().default(false),
  }),
]);
type ModelConfig = z.infer<typeof modelSchema>;

const tokenizerSchema = z.looseObject({
  added_tokens: z.array(addedTokenSchema),
  normalizer: z.unknown(),
  pre_tokenizer: z.unknown(),
  decoder: z.unknown(),
  model: z.unknown(),
});

/** Ids of a piece, in which no control token is. */
type Model = (piece: string) => readonly number[];

export class Vocabulary {
  /** Those that only a template may write. */
  readonly controls: readonly AddedToken[];
  /** The number of ids, unused ones included. */
  readonly size: number;
  /** Bytes of text that one token can stand for; infinite where one may stand for any number of unknown letters. */
  readonly #tokenBytesMax: number;
  readonly #added: AddedTokens;
  readonly #addedNormalized: AddedTokens;
  readonly #normalizer: Normalizer;
  readonly #preTokenize: PreTokenizer;
  readonly #model: Model;
  readonly #spelling: TokenSpelling;
  /** By id; tokens of the model only. */
  readonly #tokens: readonly (string | undefined)[];
  /** Added tokens stand for themselves, and control tokens for nothing. */
  readonly #addedBytes: ReadonlyMap<number, Uint8Array>;

  /**
   * @param tokenizerJson - `tokenizer.json`, parsed
   * @throws an Error that names what is not known exactly, or is missing
   */
  constructor(tokenizerJson: unknown) {
    const parsed = tokenizerSchema.safeParse(tokenizerJson);
    if (!parsed.success) throw new Error(`it is no tokenizer.json: ${z.prettifyError(parsed.error)}`);
    const { added_tokens: all, normalizer, pre_tokenizer, decoder, model } = parsed.data;
    this.controls = all.filter(({ special }) => special);
    const words = all.filter(({ special }) => !special);
    const encoder = new TextEncoder();

    this.#normalizer = createNormalizer(normalizer);
    this.#preTokenize = createPreTokenizer(pre_tokenizer);
    this.#spelling = createSpelling(decoder);
    this.#added = new AddedTokens(words.filter((token) => !isNormalized(token)));
    this.#addedNormalized = new AddedTokens(words.filter(isNormalized), (text) => this.#normalizer.normalize(text));
    const config = readModel(model);
    const forbidden = new Set(this.controls.map(({ content }) => content));
    this.#tokens = listTokens(config);
    this.#model = config.type === "BPE" ? createBpe(config, forbidden) : createUnigram(config, forbidden);
    this.#addedBytes = new Map([
      ...words.map(({ id, content }) => [id, encoder.encode(content)] as const),
      ...this.controls.map(({ id }) => [id, new Uint8Array()] as const),
    ]);
    this.size = all.reduce((most, { id }) => Math.max(most, id + 1), this.#tokens.length);
    this.#tokenBytesMax = spellsAll(config, decoder) ? this.#longestToken() : Infinity;
  }

  /**
   * The ids of a text without control tokens.
   *
   * @param isStart - nothing precedes it, not even a control token
   */
  encode(text: string, isStart: boolean): number[] {
    const ids: number[] = [];
    let begins = isStart;
    for (const part of this.#split(text.toWellFormed())) {
      if (typeof part === "string") {
        const { pieces } = this.#preTokenize({ pieces: [part], isStart: begins });
        for (const piece of pieces) for (const id of this.#model(piece)) ids.push(id);
      } else ids.push(part.id);
      begins = false;
    }
    return ids;
  }

  /** What an id stands for; nothing for control tokens and unused ids. */
  bytesOf(id: number): Uint8Array {
    const added = this.#addedBytes.get(id);
    if (added !== undefined) return added;
    const token = this.#tokens[id];
    return token === undefined ? new Uint8Array() : this.#spelling.bytesOf(token);
  }

  /** What is left of the first bytes of a text that begins by itself. */
  begin(bytes: Uint8Array): Uint8Array {
    return this.#spelling.begin(bytes);
  }

  /** A lower bound of a text's tokens, which costs nothing. */
  fewestTokens(text: string): number {
    return Math.ceil(Buffer.byteLength(text) / this.#tokenBytesMax / this.#normalizer.shrinkage);
  }

  /** Words are found before the text is normalized, or after; the rest is normalized. */
  *#split(text: string): Generator<string | AddedToken> {
    for (const part of this.#added.split(text)) {
      if (typeof part === "string") yield* this.#addedNormalized.split(this.#normalizer.normalize(part));
      else yield part;
    }
  }

  #longestToken(): number {
    let longest = 1;
    for (let id = 0; id < this.size; id++) longest = Math.max(longest, this.bytesOf(id).length);
    return longest;
  }
}

function isNormalized({ normalized, special }: AddedToken): boolean {
  return normalized ?? !special;
}

function readModel(model: unknown): ModelConfig {
  const parsed = modelSchema.safeParse(withType(model));
  if (parsed.success) return parsed.data;
  throw new Error(`its model ${describeStep(withType(model))} is not known, or not in this form`, {
    cause: parsed.error,
  });
}

/** Whether every text is spelled by tokens, in bytes if need be. */
function spellsAll(config: ModelConfig, decoder: unknown): boolean {
  return config.byte_fallback || describeStep(decoder) === "ByteLevel";
}

/** Old files do not name the model's type. */
function withType(model: unknown): unknown {
  if (typeof model !== "object" || model === null || "type" in model) return model;
  if ("merges" in model) return { type: "BPE", ...model };
  return "vocab" in model && Array.isArray(model.vocab) ? { type: "Unigram", ...model } : model;
}

function listTokens(config: ModelConfig): readonly (string | undefined)[] {
  if (config.type === "Unigram") return config.vocab.map(([text]) => text);
  const tokens: (string | undefined)[] = [];
  for (const text of Object.keys(config.vocab)) {
    const id = config.vocab[text] ?? -1;
    if (!Number.isSafeInteger(id) || id < 0 || id > VOCABULARY_MAX)
      throw new Error(`its token ${text} has the id ${id}`);
    tokens[id] = text;
  }
  return tokens;
}

/** Far more than any model has; an id beyond would make a list of holes that fills the memory. */
const VOCABULARY_MAX = 1 << 22;

/** Merges that would spell a control token are left out: only a template writes those. */
function createBpe(config: Extract<ModelConfig, { type: "BPE" }>, forbidden: ReadonlySet<string>): Model {
  const { vocab, unk_token: unknownToken, ...flags } = config;
  const merges = config.merges
    .map((merge): [string, string] => (typeof merge === "string" ? splitMerge(merge) : [merge[0], merge[1]]))
    .filter(([left, right]) => !forbidden.has(left + right));
  const bpe = new BPE({
    type: "BPE",
    vocab,
    merges,
    ...(unknownToken == null ? {} : { unk_token: unknownToken }),
    fuse_unk: flags.fuse_unk,
    byte_fallback: flags.byte_fallback,
    ignore_merges: flags.ignore_merges,
  });
  const unknown = unknownToken == null ? undefined : vocab[unknownToken];
  for (const control of forbidden) bpe.tokens_to_ids.delete(control);
  return (piece) =>
    bpe([piece]).flatMap((token) => {
      const id = bpe.tokens_to_ids.get(token) ?? unknown;
      return id === undefined ? [] : [id];
    });
}

function splitMerge(merge: string): [string, string] {
  const [left, right, ...rest] = merge.split(" ");
  if (left === undefined || right === undefined || rest.length > 0) throw new Error(`its merge "${merge}" is no pair`);
  return [left, right];
}

function createUnigram(config: Extract<ModelConfig, { type: "Unigram" }>, forbidden: ReadonlySet<string>): Model {
  const { vocab, unk_id: unknown, byte_fallback: fallsBack } = config;
  const bytes = fallsBack ? listByteTokens(vocab.map(([text]) => text)) : undefined;
  const pieces = vocab.map(([text, score], id): [string, number] | undefined =>
    forbidden.has(text) || id === unknown || (fallsBack && byteOfToken(text) !== undefined) ? undefined : [text, score],
  );
  const leastScore = vocab.reduce((least, [, score]) => Math.min(least, score), Infinity);
  const unigram = new Unigram({ pieces, leastScore, unknown: unknown ?? undefined, byteTokens: bytes });
  return (piece) => unigram.encode(piece);
}

/** The ids of `<0x00>` to `<0xFF>`, if all are there. */
function listByteTokens(tokens: readonly string[]): readonly number[] | undefined {
  const ids: number[] = [];
  for (const [id, token] of tokens.entries()) {
    const byte = byteOfToken(token);
    if (byte !== undefined) ids[byte] = id;
  }
  return Object.keys(ids).length === 256 ? ids : undefined;
}
