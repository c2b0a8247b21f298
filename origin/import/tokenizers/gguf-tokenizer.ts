/**
 * Rebuilds the tokenizer of a GGUF file as Hugging Face's `tokenizer.json`. Each way of tokenizing is in a file of its own.
 *
 * Source: llama.cpp, src/llama-vocab.cpp; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (`tokenizer.ggml.*`).
 */
import { ImportError, shown } from "../../manifest/import-error.ts";
import type { Manifest } from "../../manifest/manifest.ts";
import type { Metadata, TensorFile } from "../sources/tensor-file.ts";
import { rebuildByteLevel } from "./byte-level.ts";
import {
  CONTROL,
  type GgufVocabulary,
  readStrings,
  readVocabulary,
  type TokenizerParts,
  UNKNOWN,
  USER_DEFINED,
} from "./gguf-vocabulary.ts";
import { END_TOKENS, type ImportedTokenizer } from "./imported-tokenizer.ts";
import { rebuildSentencePieceBpe, rebuildUnigram } from "./sentence-piece.ts";

/** Control tokens by their name in chat templates; `tokenizer.ggml.<name>_token_id` is GGUF's key for the id. */
const NAMES = ["bos", "eos", "unknown", "padding"] as const;
const TEMPLATE_NAMES = { bos: "bos_token", eos: "eos_token", unknown: "unk_token", padding: "pad_token" } as const;

/**
 * @param vocabSize - rows of the embedding table
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
    // No step that adds BOS: the manifest says whether a text begins with it, and a chat template writes its own.
    post_processor: null,
    ...body,
  };
  return {
    json: JSON.stringify(json),
    chatTemplate: readChatTemplate(file),
    tokens: readTokens(vocabulary, addBos),
  };
}

function rebuild(vocabulary: GgufVocabulary): TokenizerParts {
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
        `${path} has the tokenizer ${shown(model)}; supported are gpt2 (byte-level BPE), llama and t5 (SentencePiece)`,
      );
  }
}

/** Control tokens, and user-defined words, which are found before the text is split. Unused ids and bytes are left out. */
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
  throw new ImportError("invalid-file", `${path} has a chat template that is not a string`);
}

function readTokens({ path, metadata, tokens, types }: GgufVocabulary, addBosDefault: boolean): Manifest["tokens"] {
  const id = (name: string) => readTokenId(path, metadata, `tokenizer.ggml.${name}_token_id`, tokens.length);
  const known = tokens.flatMap((token, index) => (types[index] === CONTROL && END_TOKENS.has(token) ? [index] : []));
  const ends = new Set([id("eos"), id("eot"), id("eom"), ...known].filter((end) => end !== null));
  if (ends.size === 0) throw new ImportError("invalid-file", `${path} has no token that ends an answer`);
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
  throw new ImportError("invalid-file", `${path}: ${key} is ${shown(value)}, which is not a token id`);
}
