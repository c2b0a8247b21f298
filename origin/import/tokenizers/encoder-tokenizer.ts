/**
 * The tokenizer of an encoder, from `tokenizer.json` beside its weights, tried before it is believed by what the origin
 * itself will load. Knows nothing of weights.
 */
import type { Manifest } from "../../manifest/manifest.ts";
import { WordPieceTokenizer } from "../../tokenize/word-piece.ts";
import { ImportError } from "../../manifest/import-error.ts";
import type { TensorFile } from "../sources/tensor-file.ts";

const TOKENIZER = "tokenizer.json";

/**
 * @param vocabSize - the rows of the embedding table
 * @throws {ImportError} `unsupported-tokenizer` for one that is not known exactly, `invalid-file` for one that does not
 * fit the weights
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
    const reason = cause instanceof Error ? cause.message : "it is no JSON";
    throw new ImportError("unsupported-tokenizer", `${file.path} has a tokenizer that can't be read: ${reason}`, {
      cause,
    });
  }
  if (tokenizer.size > vocabSize) {
    throw new ImportError(
      "invalid-file",
      `${file.path} has a tokenizer of ${tokenizer.size} tokens for an embedding table of ${vocabSize} rows`,
    );
  }
  return { json, tokens: { bos: tokenizer.begin, ends: [tokenizer.end], addBos: true } };
}
