/**
 * Rebuilds a checkpoint's tokenizer as Hugging Face's `tokenizer.json`, with the chat template and the tokens that end an
 * answer. Only byte-level BPE whose pre-tokenizer is known exactly: one that is nearly right splits rare text otherwise
 * than the model was trained on, and nobody would notice.
 *
 * Source: llama.cpp, src/llama-vocab.cpp (`tokenizer.ggml.pre` and its expressions, end-of-generation tokens);
 * https://github.com/huggingface/tokenizers for the file's format.
 */
import { Template } from "@huggingface/jinja";
import type { Manifest } from "../manifest.ts";
import { ImportError, shown } from "./import-error.ts";
import type { Metadata, TensorFile } from "./sources/tensor-file.ts";

export interface ImportedTokenizer {
  /** The text of `tokenizer.json`. */
  readonly json: string;
  /** A Jinja template over `messages` and `add_generation_prompt`. */
  readonly chatTemplate: string;
  readonly tokens: Manifest["tokens"];
}

/** How a text is cut before BPE sees it. */
interface PreTokenizer {
  /** Applied one after the other, each to the pieces of the one before. */
  readonly splits: readonly string[];
  /** A piece that is a token as it stands is not merged from bytes. */
  readonly ignoreMerges?: boolean;
  /** Unicode normalization of the published tokenizer, which GGUF does not record. */
  readonly normalizer?: "NFC";
  /** Whether a text begins with BOS where the file does not say. */
  readonly addBos?: boolean;
}

const GPT2_WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const LLAMA3_WORDS = llama3Words("{1,3}");
const QWEN2_WORDS = llama3Words("");

/** By `tokenizer.ggml.pre`. */
const PRE_TOKENIZERS: ReadonlyMap<string, PreTokenizer> = new Map<string, PreTokenizer>([
  ["gpt-2", { splits: [GPT2_WORDS] }],
  ["smollm", { splits: [String.raw`\p{N}`, GPT2_WORDS] }],
  ["llama-bpe", { splits: [LLAMA3_WORDS], ignoreMerges: true, addBos: true }],
  ["qwen2", { splits: [QWEN2_WORDS], normalizer: "NFC" }],
]);

/** GGUF's `tokenizer.ggml.token_type`. */
const CONTROL = 3;
const USER_DEFINED = 4;

/** Control tokens that end an answer in some model or other, whichever of them is called EOS. */
const END_TOKENS: ReadonlySet<string> = new Set([
  "<|im_end|>",
  "<|endoftext|>",
  "<|eot_id|>",
  "<|eom_id|>",
  "<|end_of_text|>",
  "<|end|>",
]);

/**
 * Reads the tokenizer of an opened GGUF file.
 *
 * @param vocabSize - the rows of the embedding table
 * @throws {ImportError} `unsupported-tokenizer` for SentencePiece or an unknown pre-tokenizer, `invalid-file` for a
 * vocabulary that contradicts itself, `unsupported-model` without a chat template that can be parsed
 */
export function readTokenizer({ path, metadata }: TensorFile, vocabSize: number): ImportedTokenizer {
  const preTokenizer = findPreTokenizer(path, metadata);
  const vocabulary = readStrings(path, metadata, "tokenizer.ggml.tokens");
  const merges = readStrings(path, metadata, "tokenizer.ggml.merges");
  const types = readNumbers(path, metadata, "tokenizer.ggml.token_type");
  if (vocabulary.length !== vocabSize || types.length !== vocabSize) {
    throw new ImportError(
      "invalid-file",
      `${path} has ${vocabulary.length} tokens of ${types.length} types for an embedding table of ${vocabSize} rows`,
    );
  }
  checkMerges(path, new Set(vocabulary), vocabSize, merges);
  return {
    json: tokenizerJson(vocabulary, types, merges, preTokenizer),
    chatTemplate: readChatTemplate(path, metadata),
    tokens: readTokens(path, metadata, vocabulary, types, preTokenizer.addBos ?? false),
  };
}

/** Llama 3's expression, and Qwen 2's, which differs only in how many digits stay together (`digits`). */
function llama3Words(digits: string): string {
  const contractions = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)`;
  const words = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
  const symbols = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*`;
  return `${contractions}|${words}|\\p{N}${digits}|${symbols}|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
}

function findPreTokenizer(path: string, metadata: Metadata): PreTokenizer {
  const model = metadata["tokenizer.ggml.model"];
  if (model !== "gpt2") {
    throw new ImportError(
      "unsupported-tokenizer",
      `${path} has the tokenizer ${shown(model)}; only byte-level BPE (gpt2) can be rebuilt, not SentencePiece`,
    );
  }
  const name = metadata["tokenizer.ggml.pre"];
  const preTokenizer = PRE_TOKENIZERS.get(String(name));
  if (preTokenizer !== undefined) return preTokenizer;
  const known = [...PRE_TOKENIZERS.keys()].join(", ");
  throw new ImportError("unsupported-tokenizer", `${path} splits text the way of ${shown(name)}; known are ${known}`);
}

function checkMerges(
  path: string,
  vocabulary: ReadonlySet<string>,
  vocabSize: number,
  merges: readonly string[],
): void {
  if (vocabulary.size !== vocabSize) throw new ImportError("invalid-file", `${path} lists a token twice`);
  const stray = merges.find((merge) => {
    const parts = merge.split(" ");
    return parts.length !== 2 || ![...parts, parts.join("")].every((token) => vocabulary.has(token));
  });
  if (stray === undefined) return;
  throw new ImportError("invalid-file", `${path} merges "${stray}", which are not two tokens that make a third`);
}

function tokenizerJson(
  vocabulary: readonly string[],
  types: readonly number[],
  merges: readonly string[],
  { splits, ignoreMerges = false, normalizer }: PreTokenizer,
): string {
  const added = vocabulary.flatMap((content, id) => {
    const special = types[id] === CONTROL;
    if (!special && types[id] !== USER_DEFINED) return [];
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special }];
  });
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  return JSON.stringify({
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: normalizer === undefined ? null : { type: normalizer },
    pre_tokenizer: { type: "Sequence", pretokenizers: [...splits.map(split), byteLevel] },
    // BOS is the manifest's business: a chat template writes its own, so the tokenizer must not add another.
    post_processor: null,
    decoder: byteLevel,
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: ignoreMerges,
      vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
      merges: merges.map((merge) => merge.split(" ")),
    },
  });
}

function split(pattern: string): object {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

function readChatTemplate(path: string, metadata: Metadata): string {
  const template = metadata["tokenizer.chat_template"];
  if (typeof template !== "string") {
    throw new ImportError("unsupported-model", `${path} has no chat template: it is not a chat model`);
  }
  try {
    void new Template(template);
  } catch (cause) {
    throw new ImportError("unsupported-model", `${path} has a chat template that can't be parsed: ${String(cause)}`, {
      cause,
    });
  }
  return template;
}

function readTokens(
  path: string,
  metadata: Metadata,
  vocabulary: readonly string[],
  types: readonly number[],
  addBosDefault: boolean,
): Manifest["tokens"] {
  const id = (name: string) => readTokenId(path, metadata, `tokenizer.ggml.${name}_token_id`, vocabulary.length);
  const named = vocabulary.flatMap((token, index) =>
    types[index] === CONTROL && END_TOKENS.has(token) ? [index] : [],
  );
  const ends = new Set([id("eos"), id("eot"), id("eom"), ...named].filter((end) => end !== null));
  if (ends.size === 0) throw new ImportError("invalid-file", `${path} names no token that ends an answer`);
  const bos = id("bos");
  const addBos = metadata["tokenizer.ggml.add_bos_token"] ?? addBosDefault;
  return { bos, ends: [...ends].toSorted((a, b) => a - b), addBos: addBos === true && bos !== null };
}

function readTokenId(path: string, metadata: Metadata, key: string, vocabSize: number): number | null {
  const value = metadata[key];
  if (value === undefined) return null;
  if (typeof value === "number" && value >= 0 && value < vocabSize) return value;
  throw new ImportError("invalid-file", `${path} says ${key} is ${shown(value)}, which is no token`);
}

function readStrings(path: string, metadata: Metadata, key: string): readonly string[] {
  const value: unknown = metadata[key];
  if (Array.isArray(value) && value.every((element) => typeof element === "string")) return value;
  throw new ImportError("invalid-file", `${path} has no list of strings ${key}`);
}

function readNumbers(path: string, metadata: Metadata, key: string): readonly number[] {
  const value: unknown = metadata[key];
  if (Array.isArray(value) && value.every((element) => typeof element === "number")) return value;
  throw new ImportError("invalid-file", `${path} has no list of numbers ${key}`);
}
