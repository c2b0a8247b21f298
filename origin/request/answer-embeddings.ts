/** One embedding request from parsed body to response: check → compute → shorten and normalise → write. */
import { type EmbeddingList, type EmbeddingRequest, readVector, writeVector } from "../../shared/embedding-request.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { listTexts } from "../../shared/text-input.ts";
import type { Manifest } from "../manifest/manifest.ts";
import type { Exchange } from "./exchange.ts";
import type { Embedder } from "../embed/embedder.ts";

/** A model that makes vectors. */
export interface ServedEncoder {
  readonly id: string;
  readonly digest: string;
  /** Unix seconds. */
  readonly created: number;
  readonly contextLength: number;
  readonly hiddenSize: number;
  readonly embedding: NonNullable<Manifest["embedding"]>;
}

export interface EmbedOptions {
  readonly model: ServedEncoder;
  readonly embedder: Pick<Embedder, "embed">;
  readonly exchange: Pick<Exchange, "notePrompt">;
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal;
}

/** @throws {ColdpathError} `invalid_request`, `unsupported_parameter`, and what the embedder throws */
export async function answerEmbeddings(
  request: EmbeddingRequest,
  { model, embedder, exchange, signal }: EmbedOptions,
): Promise<EmbeddingList> {
  const dimensions = checkDimensions(request.dimensions ?? model.hiddenSize, model);
  const { vectors, tokens } = await embedder.embed(listTexts(request.input), signal);
  exchange.notePrompt(tokens);
  const { normalized } = model.embedding;
  const data = vectors.map((vector, index) => {
    const shortened = vector.subarray(0, dimensions);
    // A shorter vector is trained to be one of length 1, whatever the whole one is.
    const written = writeVector(normalized || dimensions < vector.length ? normalize(shortened) : shortened);
    const embedding = request.encoding_format === "base64" ? written : readVector(written);
    return { object: "embedding" as const, index, embedding };
  });
  return { object: "list", data, model: model.id, usage: { prompt_tokens: tokens, total_tokens: tokens } };
}

function checkDimensions(asked: number, { id, hiddenSize, embedding: { dimensions } }: ServedEncoder): number {
  if (asked > hiddenSize) {
    const message = `dimensions: the vectors of "${id}" have ${hiddenSize} numbers`;
    throw new ColdpathError("invalid_request", message, { param: "dimensions" });
  }
  if (asked === hiddenSize || dimensions === "any" || dimensions.includes(asked)) return asked;
  const message = `the vectors of "${id}" can't be shortened to ${asked}: it was not trained for that`;
  throw new ColdpathError("unsupported_parameter", message, { param: "dimensions" });
}

/** To length 1; a vector of nothing stays one. */
function normalize(vector: Float32Array): Float32Array {
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  return length === 0 ? vector : vector.map((value) => value / length);
}
