/**
 * SentencePiece models as GGUF describes them: a vocabulary with scores. BPE (`tokenizer.ggml.model` is `llama`) always joins
 * the two neighbours whose joined token has the highest score. Its merges are therefore all ways to split a token in two,
 * ordered by the score of the token. Unigram (`t5`) needs only the scores.
 *
 * Source: google/sentencepiece, src/bpe_model.cc and src/normalizer.cc; llama.cpp, src/llama-vocab.cpp (`add_space_prefix`).
 */
import { ImportError } from "../../manifest/import-error.ts";
import {
  BYTE,
  type GgufVocabulary,
  NORMAL,
  readNumbers,
  type TokenizerParts,
  UNKNOWN,
  USER_DEFINED,
} from "./gguf-vocabulary.ts";

/** Stands for a space inside tokens. */
const SPACE = "▁";
/** Upper bound of a token's UTF-16 units, because a token has about as many splits. The longest known tokens have 31. */
const TOKEN_LENGTH_MAX = 1024;

/** @throws {ImportError} `invalid-file` */
export function rebuildSentencePieceBpe(vocabulary: GgufVocabulary): TokenizerParts {
  const { path, metadata, tokens, types } = vocabulary;
  const scores = readScores(vocabulary);
  const unknown = tokens.find((_, id) => types[id] === UNKNOWN);
  const hasBytes = countBytes(vocabulary) === 256;
  if (!hasBytes && unknown === undefined) {
    throw new ImportError("invalid-file", `${path} has neither a token for each byte nor one for unknown characters`);
  }
  const prefix = metadata["tokenizer.ggml.add_space_prefix"] !== false;
  return {
    addBos: true,
    // Gemma has tokens of several spaces. They are matched in the normalized text, where a literal `▁` is a space too. With
    // a prefix that is impossible: normalization would prepend it to each of them.
    spacedWords: !prefix,
    body: {
      // As in llama.cpp: a space before every text between two control tokens.
      normalizer: { type: "Sequence", normalizers: spaceSteps(prefix) },
      pre_tokenizer: null,
      decoder: decoder(prefix),
      model: {
        type: "BPE",
        dropout: null,
        unk_token: unknown ?? null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: true,
        byte_fallback: hasBytes,
        ignore_merges: false,
        vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
        merges: listMerges(vocabulary, scores),
      },
    },
  };
}

/** @throws {ImportError} `invalid-file` */
export function rebuildUnigram(vocabulary: GgufVocabulary): TokenizerParts {
  const { path, metadata, tokens, types } = vocabulary;
  const scores = readScores(vocabulary);
  const unknown = types.indexOf(UNKNOWN);
  if (unknown < 0) throw new ImportError("invalid-file", `${path} has no token for unknown characters`);
  const prefix = metadata["tokenizer.ggml.add_space_prefix"] !== false;
  const collapse = metadata["tokenizer.ggml.remove_extra_whitespaces"] === true;
  // Only spaces: SentencePiece keeps newlines. At the end of the text, `▁` counts as a space.
  const outside = { type: "Replace", pattern: { Regex: String.raw`\A +|[ ▁]+\z` }, content: "" };
  const inside = { type: "Replace", pattern: { Regex: " {2,}" }, content: " " };
  const normalizers = [charsmap(vocabulary), ...(collapse ? [outside, inside] : []), ...spaceSteps(prefix)];
  const hasBytes = countBytes(vocabulary) === 256;
  return {
    addBos: false,
    body: {
      normalizer: { type: "Sequence", normalizers },
      pre_tokenizer: null,
      decoder: decoder(prefix),
      model: {
        type: "Unigram",
        unk_id: unknown,
        byte_fallback: hasBytes,
        vocab: tokens.map((token, id) => [token, scores[id] ?? 0]),
      },
    },
  };
}

function spaceSteps(prefix: boolean): readonly object[] {
  const respace = { type: "Replace", pattern: { String: " " }, content: SPACE };
  return prefix ? [{ type: "Prepend", prepend: SPACE }, respace] : [respace];
}

function decoder(prefix: boolean): object {
  const steps = [
    { type: "Replace", pattern: { String: SPACE }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
    ...(prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : []),
  ];
  return { type: "Sequence", decoders: steps };
}

function countBytes({ types }: GgufVocabulary): number {
  return types.reduce((count, type) => count + (type === BYTE ? 1 : 0), 0);
}

function readScores({ path, metadata, tokens }: GgufVocabulary): readonly number[] {
  const scores = readNumbers(path, metadata, "tokenizer.ggml.scores");
  if (scores.length === tokens.length) return scores;
  throw new ImportError("invalid-file", `${path} has ${tokens.length} tokens and ${scores.length} scores`);
}

/** All ways to split a token into two tokens, ordered by the score of the token. */
function listMerges({ path, tokens, types }: GgufVocabulary, scores: readonly number[]): readonly [string, string][] {
  const isText = (id: number) => types[id] === NORMAL || types[id] === USER_DEFINED;
  const ids = new Map(tokens.flatMap((token, id): [string, number][] => (isText(id) ? [[token, id]] : [])));
  const joined = [...ids.values()].toSorted((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b);
  return joined.flatMap((id) => {
    const token = tokens[id] ?? "";
    if (token.length > TOKEN_LENGTH_MAX) {
      throw new ImportError(
        "invalid-file",
        `${path} has a token of ${token.length} characters; the limit is ${TOKEN_LENGTH_MAX}`,
      );
    }
    return splitsOf(token)
      .filter(([left, right]) => ids.has(left) && ids.has(right))
      .toSorted(([a, c], [b, d]) => (ids.get(a) ?? 0) - (ids.get(b) ?? 0) || (ids.get(c) ?? 0) - (ids.get(d) ?? 0));
  });
}

function splitsOf(token: string): readonly [string, string][] {
  const letters = Array.from(token);
  let left = "";
  return letters.slice(0, -1).map((letter): [string, string] => {
    left += letter;
    return [left, token.slice(left.length)];
  });
}

function charsmap({ path, metadata }: GgufVocabulary): object {
  const bytes = metadata["tokenizer.ggml.precompiled_charsmap"];
  if (bytes === undefined) return { type: "Precompiled", precompiled_charsmap: null };
  const list = readNumbers(path, metadata, "tokenizer.ggml.precompiled_charsmap");
  return { type: "Precompiled", precompiled_charsmap: Buffer.from(Uint8Array.from(list)).toString("base64") };
}
