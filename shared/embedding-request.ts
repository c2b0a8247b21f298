/**
 * `POST /v1/embeddings` of OpenAI's wire format: what is asked, and how vectors are written. Objects are loose, as all
 * requests' are.
 *
 * Source: OpenAI API reference, "Create embeddings", "The embedding object".
 */
import { decodeBase64, encodeBase64 } from "hono/utils/encode";
import * as z from "zod";
import { textInput } from "./text-input.ts";

/** Texts of one request, as OpenAI allows. */
const INPUTS_MAX = 2048;

export const embeddingRequest = z.looseObject({
  model: z.string().min(1).describe("The name of a model that GET /v1/models lists."),
  input: textInput(INPUTS_MAX).describe("A text, token ids, or a list of up to 2048 of either."),
  encoding_format: z
    .enum(["float", "base64"])
    .nullish()
    .describe("How a vector is written: numbers, or their 32-bit floats in base64; float without it."),
  dimensions: z
    .int()
    .min(1)
    .nullish()
    .describe(
      "Numbers of each vector, where the model was trained to be shortened to so many; all of them without it.",
    ),
  user: z.string().nullish().describe("Of no influence: neither on the vectors nor on the cache."),
});

export type EmbeddingRequest = z.infer<typeof embeddingRequest>;
/** As it is identified and sent on: its input is a list, whichever way it came, and how vectors are written is not its business. */
export interface VectorQuestion {
  readonly path: "/v1/embeddings";
  readonly request: EmbeddingRequest & { readonly input: string[] | number[][] };
}
export type EncodingFormat = "float" | "base64";

/** The answer; `embedding` is numbers, or their bytes in base64. */
export interface EmbeddingList {
  readonly object: "list";
  readonly data: readonly {
    readonly object: "embedding";
    readonly index: number;
    readonly embedding: readonly number[] | string;
  }[];
  readonly model: string;
  readonly usage: { readonly prompt_tokens: number; readonly total_tokens: number };
}

/** A vector's numbers as 32-bit floats, little-endian, in base64. */
export function writeVector(vector: Float32Array): string {
  const bytes = new DataView(new ArrayBuffer(vector.length * 4));
  for (const [i, value] of vector.entries()) bytes.setFloat32(i * 4, value, true);
  return encodeBase64(bytes.buffer);
}

/** The numbers again, in no more digits than tell a 32-bit float from its neighbours. */
export function readVector(base64: string): readonly number[] {
  const bytes = new DataView(decodeBase64(base64).buffer);
  return Array.from({ length: bytes.byteLength / 4 }, (_, i) => Number(bytes.getFloat32(i * 4, true).toPrecision(9)));
}
