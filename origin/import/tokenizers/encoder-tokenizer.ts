/**
 * The tokenizer of an encoder, from `tokenizer.json` beside its weights. The import loads it with the origin's own tokenizer,
 * so that a model which could not be served is refused here. Does not depend on the weights.
 */
import type { Manifest } from "../../manifest/manifest.ts";
import { WordPieceTokenizer } from "../../tokenize/word-piece.ts";
import { ImportError, shown } from "../../manifest/import-error.ts";
import type { TensorFile } from "../sources/tensor-file.ts";

const TOKENIZER = "tokenizer.json";

/**
 * @param vocabSize - rows of the embedding table
 * @throws {ImportError} `unsupported-tokenizer` for a tokenizer that can't be reproduced exactly, `invalid-file` for one that
 * does not fit the weights
 */
export function readEncoderTokenizer(
  file: TensorFile,
  vocabSize: number,
): { readonly json: string; readonly tokens: Manifest["tokens"] } {
  const json = file.readText(TOKENIZER);
  if (json === undefined) throw new ImportError("unsupported-tokenizer", `${file.path} has no ${TOKENIZER}`);
  let tokenizer: WordPieceTokenizer;
  try {
    tokenizer = new WordPieceTokenizer(JSON.parse(json));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : shown(cause);
    throw new ImportError("unsupported-tokenizer", `${file.path} has an unsupported tokenizer: ${reason}`, {
      cause,
    });
  }
  if (tokenizer.size > vocabSize) {
    throw new ImportError(
      "invalid-file",
      `${file.path} has ${tokenizer.size} tokens, but only ${vocabSize} embeddings`,
    );
  }
  return { json, tokens: { bos: tokenizer.begin, ends: [tokenizer.end], addBos: true } };
}
