/**
 * Rebuilds the tokenizer of a GGUF file as Hugging Face's `tokenizer.json`. Knows no way of tokenizing: those are in
 * files of their own.
 *
 * Source: llama.cpp, src/llama-vocab.cpp; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (`tokenizer.ggml.*`).
 */
import type { Manifest } from "../../manifest/manifest.ts";
import { ImportError, shown } from "../../manifest/import-error.ts";
import type { Metadata, TensorFile } from "../sources/tensor-file.ts";
import { rebuildByteLevel } from "./byte-level.ts";
import { END_TOKENS } from "./end-tokens.ts";
import type { ImportedTokenizer } from "./read-tokenizer.ts";
import { rebuildSentencePieceBpe, rebuildUnigram } from "./sentence-piece.ts";

/** `tokenizer.ggml.token_type`. */
export const NORMAL = 1;
export const UNKNOWN = 2;
const CONTROL = 3;
export const USER_DEFINED = 4;
export const BYTE = 6;

/** A GGUF file's vocabulary: tokens and their types by id. */
export interface GgufVocabulary extends Pick<TensorFile, "path" | "metadata"> {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

/** What the chat template calls a token, and GGUF's key for its id. */
const NAMES = ["bos", "eos", "unknown", "padding"] as const;
const TEMPLATE_NAMES = { bos: "bos_token", eos: "eos_token", unknown: "unk_token", padding: "pad_token" } as const;

/**
 * @param vocabSize - the rows of the embedding table
 * @throws {ImportError} `unsupported-tokenizer`, `invalid-file`
 */
export function readGgufTokenizer(file: TensorFile, vocabSize: number): ImportedTokenizer {
  const vocabulary = readVocabulary(file, vocabSize);
  const { body, addBos, spacedWords = false } = rebuild(vocabulary);
  const json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: listAddedTokens(vocabulary, spacedWords),
    // BOS is the manifest's business: a chat template writes its own, so the tokenizer must not add another.
    post_processor: null,
    ...body,
  };
  return {
    json: JSON.stringify(json),
    chatTemplate: readChatTemplate(file),
    tokens: readTokens(vocabulary, addBos),
  };
}

function readVocabulary({ path, metadata }: TensorFile, vocabSize: number): GgufVocabulary {
  const tokens = readStrings(path, metadata, "tokenizer.ggml.tokens");
  const types = readNumbers(path, metadata, "tokenizer.ggml.token_type");
  if (tokens.length !== vocabSize || types.length !== vocabSize) {
    throw new ImportError(
      "invalid-file",
      `${path} has ${tokens.length} tokens of ${types.length} types for an embedding table of ${vocabSize} rows`,
    );
  }
  if (new Set(tokens).size !== vocabSize) throw new ImportError("invalid-file", `${path} lists a token twice`);
  return { path, metadata, tokens, types };
}

/** What the ways of tokenizing tell of a vocabulary. */
interface Rebuilt {
  /** `tokenizer.json` but for its added tokens. */
  readonly body: object;
  /** Whether a text begins with BOS where the file does not say. */
  readonly addBos: boolean;
  /** Words with spaces in them are found in the normalized text. */
  readonly spacedWords?: boolean;
}

function rebuild(vocabulary: GgufVocabulary): Rebuilt {
  const { path, metadata } = vocabulary;
  const model = metadata["tokenizer.ggml.model"];
  switch (model) {
    case "gpt2":
      return rebuildByteLevel(vocabulary, readStrings(path, metadata, "tokenizer.ggml.merges"));
    case "llama":
      return rebuildSentencePieceBpe(vocabulary);
    case "t5":
      return rebuildUnigram(vocabulary);
    default:
      throw new ImportError(
        "unsupported-tokenizer",
        `${path} has the tokenizer ${shown(model)}; only gpt2 (byte-level BPE), llama and t5 (SentencePiece) can be rebuilt`,
      );
  }
}

/** Control tokens, and words that are found before anything is cut. Unused ids and bytes are in the model only. */
function listAddedTokens({ tokens, types }: GgufVocabulary, spacedWords: boolean): readonly object[] {
  return tokens.flatMap((content, id) => {
    const special = types[id] === CONTROL || types[id] === UNKNOWN;
    if ((!special && types[id] !== USER_DEFINED) || content === "") return [];
    const normalized = spacedWords && !special && content.includes(" ");
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized, special }];
  });
}

function readChatTemplate({ path, metadata }: TensorFile): string | undefined {
  const template = metadata["tokenizer.chat_template"];
  if (template === undefined || typeof template === "string") return template;
  throw new ImportError("invalid-file", `${path} has a chat template that is no text`);
}

function readTokens({ path, metadata, tokens, types }: GgufVocabulary, addBosDefault: boolean): Manifest["tokens"] {
  const id = (name: string) => readTokenId(path, metadata, `tokenizer.ggml.${name}_token_id`, tokens.length);
  const known = tokens.flatMap((token, index) => (types[index] === CONTROL && END_TOKENS.has(token) ? [index] : []));
  const ends = new Set([id("eos"), id("eot"), id("eom"), ...known].filter((end) => end !== null));
  if (ends.size === 0) throw new ImportError("invalid-file", `${path} names no token that ends an answer`);
  const bos = id("bos");
  const addBos = metadata["tokenizer.ggml.add_bos_token"] ?? addBosDefault;
  const names = NAMES.flatMap((name): [string, string][] => {
    const token = tokens[id(name) ?? -1];
    return token === undefined ? [] : [[TEMPLATE_NAMES[name], token]];
  });
  return {
    bos,
    ends: [...ends].toSorted((a, b) => a - b),
    addBos: addBos === true && bos !== null,
    names: Object.fromEntries(names),
  };
}

function readTokenId(path: string, metadata: Metadata, key: string, vocabSize: number): number | null {
  const value = metadata[key];
  if (value === undefined) return null;
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < vocabSize) return value;
  throw new ImportError("invalid-file", `${path} says ${key} is ${shown(value)}, which is no token`);
}

function readStrings(path: string, metadata: Metadata, key: string): readonly string[] {
  const value: unknown = metadata[key];
  if (Array.isArray(value) && value.every((element) => typeof element === "string")) return value;
  throw new ImportError("invalid-file", `${path} has no list of strings ${key}`);
}

/** @throws {ImportError} `invalid-file` where there is no such list */
export function readNumbers(path: string, metadata: Metadata, key: string): readonly number[] {
  const value: unknown = metadata[key];
  if (Array.isArray(value) && value.every((element) => typeof element === "number")) return value;
  throw new ImportError("invalid-file", `${path} has no list of numbers ${key}`);
}
