/**
 * A decoder's tokenizer, as Hugging Face's `tokenizer.json`, with its chat template and the tokens that begin a text and end
 * an answer. It is read beside a safetensors checkpoint, or rebuilt from a GGUF file's metadata. The import loads it with the
 * origin's own tokenizer, so that a model which could not be served is refused here. Does not depend on the weights.
 */
import { Vocabulary } from "../../tokenize/vocabulary.ts";
import { Tokenizer } from "../../tokenize/tokenizer.ts";
import { ImportError, shown } from "../../manifest/import-error.ts";
import type { TensorFile } from "../sources/tensor-file.ts";
import { readGgufTokenizer } from "./gguf-tokenizer.ts";
import { readHubTokenizer } from "./hub-tokenizer.ts";
import type { ImportedTokenizer } from "./imported-tokenizer.ts";

/**
 * Reads the tokenizer of an opened checkpoint.
 *
 * @param vocabSize - rows of the embedding table
 * @throws {ImportError} `unsupported-tokenizer` for a tokenizer that can't be reproduced exactly, `invalid-file` for one that
 * contradicts itself or the weights, `unsupported-model` for a chat template that can't be rendered
 */
export function readTokenizer(file: TensorFile, vocabSize: number): ImportedTokenizer {
  const read = file.format === "gguf" ? readGgufTokenizer(file, vocabSize) : readHubTokenizer(file);
  const { tokens, chatTemplate } = read;
  const tokenizerJson = JSON.parse(read.json) as unknown;
  const vocabulary = attempt(
    () => new Vocabulary(tokenizerJson),
    (reason) => new ImportError("unsupported-tokenizer", `${file.path} has an unsupported tokenizer: ${reason}`),
  );
  const { size } = vocabulary;
  if (size > vocabSize) {
    throw new ImportError("invalid-file", `${file.path} has ${size} tokens, but only ${vocabSize} embeddings`);
  }
  const stray = [...tokens.ends, tokens.bos ?? 0].find((id) => id >= vocabSize);
  if (stray !== undefined) {
    throw new ImportError("invalid-file", `${file.path} begins or ends texts with ${stray}, which is not a token id`);
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
