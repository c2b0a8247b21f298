/**
 * Byte-level BPE as GGUF describes it (`tokenizer.ggml.model` is `gpt2`): a vocabulary, merges, and the name of a
 * pre-tokenizer. Only names with exactly known expressions are accepted: an approximate one would split rare text differently
 * from the training data, without any visible error.
 *
 * Source: llama.cpp, src/llama-vocab.cpp (`tokenizer.ggml.pre` and its expressions); the published `tokenizer.json` of each.
 */
import { ImportError, shown } from "../../manifest/import-error.ts";
import type { GgufVocabulary, TokenizerParts } from "./gguf-vocabulary.ts";

/** How text is split into pieces before BPE. */
interface PreTokenizer {
  /** Regular expressions, applied in order: each one splits the pieces that the one before left. */
  readonly splits: readonly string[];
  /** Whether a piece that is itself a token is taken whole instead of merged from bytes. */
  readonly ignoreMerges?: boolean;
  /** Unicode normalization of the published tokenizer, which GGUF does not record. */
  readonly normalizer?: "NFC";
  /** Whether a text begins with BOS if the file does not say. */
  readonly addBos?: boolean;
}

const GPT2_WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const LLAMA3_WORDS = llama3Words("{1,3}");
const QWEN2_WORDS = llama3Words("");

const TEKKEN_UPPER = String.raw`[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`;
const TEKKEN_LOWER = String.raw`[\p{Ll}\p{Lm}\p{Lo}\p{M}]`;
const TEKKEN_WORDS = [
  String.raw`[^\r\n\p{L}\p{N}]?${TEKKEN_UPPER}*${TEKKEN_LOWER}+`,
  String.raw`[^\r\n\p{L}\p{N}]?${TEKKEN_UPPER}+${TEKKEN_LOWER}*`,
  String.raw`\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
].join("|");

const DEEPSEEK_3_WORDS = [
  "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
  String.raw`[^` + "\r\n" + String.raw`\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+`,
  String.raw` ?[\p{P}\p{S}]+[` + "\r\n" + String.raw`]*|\s*[` + "\r\n" + String.raw`]+|\s+(?!\S)|\s+`,
].join("|");

const LLAMA_3: PreTokenizer = { splits: [LLAMA3_WORDS], ignoreMerges: true, addBos: true };
const SINGLE_DIGITS: PreTokenizer = { splits: [String.raw`\p{N}`, GPT2_WORDS] };

/** Pre-tokenizers by the value of `tokenizer.ggml.pre`. */
const PRE_TOKENIZERS: ReadonlyMap<string, PreTokenizer> = new Map<string, PreTokenizer>([
  ["gpt-2", { splits: [GPT2_WORDS] }],
  ["smollm", SINGLE_DIGITS],
  ["starcoder", SINGLE_DIGITS],
  ["llama-bpe", LLAMA_3],
  ["llama3", LLAMA_3],
  ["llama-v3", LLAMA_3],
  ["qwen2", { splits: [QWEN2_WORDS], normalizer: "NFC" }],
  ["tekken", { splits: [TEKKEN_WORDS], ignoreMerges: true, addBos: true }],
  ["deepseek-v3", { splits: [String.raw`\p{N}{1,3}`, "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_3_WORDS], addBos: true }],
]);

/** The expression of Llama 3 and of Qwen 2. They differ only in `digits`, the number of digits that stay together. */
function llama3Words(digits: string): string {
  const contractions = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)`;
  const words = String.raw`[^\r\n\p{L}\p{N}]?\p{L}+`;
  const symbols = String.raw` ?[^\s\p{L}\p{N}]+[\r\n]*`;
  return `${contractions}|${words}|\\p{N}${digits}|${symbols}|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`;
}

/**
 * Rebuilds the parts of `tokenizer.json`.
 *
 * @throws {ImportError} `unsupported-tokenizer` for an unknown pre-tokenizer, `invalid-file` for inconsistent merges
 */
export function rebuildByteLevel(
  { path, metadata, tokens }: GgufVocabulary,
  merges: readonly string[],
): TokenizerParts {
  const { splits, ignoreMerges = false, normalizer, addBos = false } = findPreTokenizer(path, metadata);
  checkMerges(path, new Set(tokens), merges);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };
  return {
    addBos,
    body: {
      normalizer: normalizer === undefined ? null : { type: normalizer },
      pre_tokenizer: { type: "Sequence", pretokenizers: [...splits.map(split), byteLevel] },
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
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: merges.map((merge) => merge.split(" ")),
      },
    },
  };
}

function findPreTokenizer(path: string, metadata: GgufVocabulary["metadata"]): PreTokenizer {
  const name = metadata["tokenizer.ggml.pre"];
  const preTokenizer = PRE_TOKENIZERS.get(String(name));
  if (preTokenizer !== undefined) return preTokenizer;
  const known = [...PRE_TOKENIZERS.keys()].join(", ");
  throw new ImportError(
    "unsupported-tokenizer",
    `${path} has the unknown pre-tokenizer ${shown(name)} (known: ${known}); import the model's safetensors checkpoint instead`,
  );
}

function checkMerges(path: string, vocabulary: ReadonlySet<string>, merges: readonly string[]): void {
  const stray = merges.find((merge) => {
    const parts = merge.split(" ");
    return parts.length !== 2 || ![...parts, parts.join("")].every((token) => vocabulary.has(token));
  });
  if (stray === undefined) return;
  throw new ImportError(
    "invalid-file",
    `${path} has the merge ${shown(stray)}, which does not join two tokens into a third`,
  );
}

function split(pattern: string): object {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}
