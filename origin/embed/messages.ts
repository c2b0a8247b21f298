/** What the main thread and an encoder's thread say to each other. Knows neither side. */
import type { ErrorCode } from "../../shared/errors.ts";
import type { EncoderOptions } from "./encoder.ts";

/** What the thread is started with. */
export interface EncoderThreadOptions extends EncoderOptions {
  readonly batchTokensMax: number;
  readonly contextLength: number;
  readonly vocabSize: number;
}

/** A text, or its token ids. */
export type EmbeddingInput = string | readonly number[];

export type ToEncoderThread =
  | { readonly type: "embed"; readonly id: number; readonly inputs: readonly EmbeddingInput[] }
  /** Nobody wants it any more. */
  | { readonly type: "cancel"; readonly id: number };

/** `refused`: the texts are at fault. `failed`: something is that must not be; the thread goes on. */
export type FromEncoderThread =
  | { readonly type: "ready" }
  | {
      readonly type: "embedded";
      readonly id: number;
      readonly vectors: readonly Float32Array[];
      readonly tokens: number;
    }
  | {
      readonly type: "refused";
      readonly id: number;
      readonly code: ErrorCode;
      readonly message: string;
      readonly param: string | null;
    }
  | { readonly type: "failed"; readonly id: number; readonly message: string };
