/**
 * The answers of OpenAI's wire format, as the origin writes them and the edge collects and replays them.
 *
 * Source: OpenAI API reference, "The chat completion object", "The chat completion chunk object", "List models".
 */

/** `stop`: the model ended or a stop string was met. `length`: `max_tokens` or the context ran out. */
export type FinishReason = "stop" | "length";

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** `POST /v1/chat/completions`, not streamed. */
export interface ChatCompletion {
  readonly id: string;
  readonly object: "chat.completion";
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  readonly choices: readonly [
    {
      readonly index: 0;
      readonly message: { readonly role: "assistant"; readonly content: string };
      readonly finish_reason: FinishReason;
      readonly logprobs: null;
    },
  ];
  readonly usage: Usage;
}

/** One event of a streamed chat completion. With `include_usage` a last chunk has no choices and the usage. */
export interface ChatCompletionChunk {
  readonly id: string;
  readonly object: "chat.completion.chunk";
  readonly created: number;
  readonly model: string;
  readonly choices: readonly {
    readonly index: 0;
    readonly delta: { readonly role?: "assistant"; readonly content?: string };
    readonly finish_reason: FinishReason | null;
    readonly logprobs: null;
  }[];
  readonly usage?: Usage | null;
}

/** `POST /v1/completions`; a streamed event has the same shape, its `finish_reason` null until the last. */
export interface Completion {
  readonly id: string;
  readonly object: "text_completion";
  readonly created: number;
  readonly model: string;
  readonly choices: readonly {
    readonly index: 0;
    readonly text: string;
    readonly finish_reason: FinishReason | null;
    readonly logprobs: null;
  }[];
  readonly usage?: Usage | null;
}

/** `POST /generate`. */
export interface GenerateResponse {
  readonly response: string;
}

/** One model of `GET /v1/models`: OpenAI's fields, and the two that the edge needs. */
export interface Model {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
  /** SHA-256 over the imported model's files, hex: part of every cached answer's identity. */
  readonly digest: string;
  /** Prompt and answer together, in tokens. */
  readonly context_length: number;
}

export interface ModelList {
  readonly object: "list";
  readonly data: readonly Model[];
}
