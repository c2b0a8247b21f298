/**
 * A checkpoint's tokenizer, as Hugging Face's `tokenizer.json`, with its chat template and the tokens that begin and end:
 * taken from beside a safetensors checkpoint, or rebuilt from a GGUF file's metadata. It is tried before it is believed,
 * by what the origin itself will load. Knows nothing of weights.
 */
import type { Manifest } from "../../manifest/manifest.ts";
import { Vocabulary } from "../../tokenize/vocabulary.ts";
import { Tokenizer } from "../../tokenize/tokenizer.ts";
import { ImportError, shown } from "../../manifest/import-error.ts";
import type { TensorFile } from "../sources/tensor-file.ts";
import { readGgufTokenizer } from "./gguf-tokenizer.ts";
import { readHubTokenizer } from "./hub-tokenizer.ts";

export interface ImportedTokenizer {
  /** The text of `tokenizer.json`. */
  readonly json: string;
  /** A Jinja template over `messages`, `tools` and `add_generation_prompt`; a base model has none. */
  readonly chatTemplate: string | undefined;
  readonly tokens: Manifest["tokens"];
}

/**
 * Reads the tokenizer of an opened checkpoint.
 *
 * @param vocabSize - the rows of the embedding table
 * @throws {ImportError} `unsupported-tokenizer` for one that is not known exactly, `invalid-file` for one that contradicts
 * itself or the weights, `unsupported-model` for a chat template that can't be rendered
 */
export function readTokenizer(file: TensorFile, vocabSize: number): ImportedTokenizer {
  const read = file.format === "gguf" ? readGgufTokenizer(file, vocabSize) : readHubTokenizer(file);
  const { tokens, chatTemplate } = read;
  const tokenizerJson = JSON.parse(read.json) as unknown;
  const vocabulary = attempt(
    () => new Vocabulary(tokenizerJson),
    (reason) => new ImportError("unsupported-tokenizer", `${file.path} has a tokenizer that can't be read: ${reason}`),
  );
  const { size } = vocabulary;
  if (size > vocabSize) {
    throw new ImportError(
      "invalid-file",
      `${file.path} has a tokenizer of ${size} tokens for an embedding table of ${vocabSize} rows`,
    );
  }
  const stray = [...tokens.ends, tokens.bos ?? 0].find((id) => id >= vocabSize);
  if (stray !== undefined) {
    throw new ImportError("invalid-file", `${file.path} begins or ends texts with ${stray}, which is no token`);
  }
  attempt(
    () => new Tokenizer({ tokenizerJson, chatTemplate, tokens }, vocabulary),
    (reason) =>
      new ImportError("unsupported-model", `${file.path} has a chat template that can't be rendered: ${reason}`),
  );
  return read;
}

function attempt<Result>(work: () => Result, refuse: (reason: string) => ImportError): Result {
  try {
    return work();
  } catch (cause) {
    const refusal = refuse(cause instanceof Error ? cause.message : shown(cause));
    refusal.cause = cause;
    throw refusal;
  }
}
