/**
 * A GGUF file's vocabulary, as every way of tokenizing needs it. Depends on no way of tokenizing.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (`tokenizer.ggml.*`).
 */
import { ImportError } from "../../manifest/import-error.ts";
import type { Metadata, TensorFile } from "../sources/tensor-file.ts";

/** Values of `tokenizer.ggml.token_type`. */
export const NORMAL = 1;
export const UNKNOWN = 2;
export const CONTROL = 3;
export const USER_DEFINED = 4;
export const BYTE = 6;

/** Tokens and their types, both by id. */
export interface GgufVocabulary extends Pick<TensorFile, "path" | "metadata"> {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
}

/** The parts of a tokenizer that depend on its way of tokenizing. */
export interface TokenizerParts {
  /** The content of `tokenizer.json` without its added tokens. */
  readonly body: object;
  /** Whether a text begins with BOS if the file does not say. */
  readonly addBos: boolean;
  /** Whether tokens with spaces in them are matched against the normalized text. Default false. */
  readonly spacedWords?: boolean;
}

/**
 * Reads the vocabulary.
 *
 * @param vocabSize - rows of the embedding table
 * @throws {ImportError} `invalid-file`
 */
export function readVocabulary({ path, metadata }: TensorFile, vocabSize: number): GgufVocabulary {
  const tokens = readStrings(path, metadata, "tokenizer.ggml.tokens");
  const types = readNumbers(path, metadata, "tokenizer.ggml.token_type");
  if (tokens.length !== vocabSize || types.length !== vocabSize) {
    throw new ImportError(
      "invalid-file",
      `${path} has ${tokens.length} tokens and ${types.length} token types, but ${vocabSize} embeddings`,
    );
  }
  if (new Set(tokens).size !== vocabSize) throw new ImportError("invalid-file", `${path} has a duplicate token`);
  return { path, metadata, tokens, types };
}

/** @throws {ImportError} `invalid-file` if the metadata has no such list */
export function readStrings(path: string, metadata: Metadata, key: string): readonly string[] {
  const value: unknown = metadata[key];
  if (Array.isArray(value) && value.every((element) => typeof element === "string")) return value;
  throw new ImportError("invalid-file", `${path} has no list of strings ${key}`);
}

/** @throws {ImportError} `invalid-file` if the metadata has no such list */
export function readNumbers(path: string, metadata: Metadata, key: string): readonly number[] {
  const value: unknown = metadata[key];
  if (Array.isArray(value) && value.every((element) => typeof element === "number")) return value;
  throw new ImportError("invalid-file", `${path} has no list of numbers ${key}`);
}
