/**
 * The answers of OpenAI's wire format, as the origin writes them and the edge collects and replays them.
 *
 * Source: OpenAI API reference, "The chat completion object", "The chat completion chunk object", "The completion
 * object", "List models".
 */

/**
 * `stop`: the model ended or a stop string was met. `length`: `max_tokens` or the context ran out. `tool_calls`: the
 * model ended after calling tools.
 */
export type FinishReason = "stop" | "length" | "tool_calls";

export interface Usage {
  readonly prompt_tokens: number;
  /** Of all choices together. */
  readonly completion_tokens: number;
  readonly total_tokens: number;
  /** How much of the prompt did not have to be computed. */
  readonly prompt_tokens_details?: { readonly cached_tokens: number };
}

/** A function that the model wants to have called. */
export interface ToolCall {
  readonly id: string;
  readonly type: "function";
  /** `arguments` is JSON, as text. */
  readonly function: { readonly name: string; readonly arguments: string };
}

/** A piece of a tool call: the first has all fields, later ones more of the arguments. */
export interface ToolCallDelta {
  /** Which of the choice's calls. */
  readonly index: number;
  readonly id?: string;
  readonly type?: "function";
  readonly function: { readonly name?: string; readonly arguments: string };
}

/**
 * A token and the natural logarithm of the probability that the model gave it. `bytes` is null for a control token;
 * where they are no whole characters, `token` spells them out (`\xe4\xbd`).
 */
export interface TokenLogprob {
  readonly token: string;
  readonly logprob: number;
  readonly bytes: readonly number[] | null;
}

/** Of the answer's tokens in order, each with the likeliest ones in its place. */
export interface ChatLogprobs {
  readonly content: readonly (TokenLogprob & { readonly top_logprobs: readonly TokenLogprob[] })[];
  readonly refusal: null;
}

/** The older form: lists with one element for each token. */
export interface CompletionLogprobs {
  readonly tokens: readonly string[];
  readonly token_logprobs: readonly number[];
  /** The likeliest tokens, and the chosen one whether it is among them or not. */
  readonly top_logprobs: readonly Readonly<Record<string, number>>[];
  /** Where each token begins in the choice's text, in characters (Unicode code points). */
  readonly text_offset: readonly number[];
}

/** `POST /v1/chat/completions`, not streamed. */
export interface ChatCompletion {
  readonly id: string;
  readonly object: "chat.completion";
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  readonly choices: readonly {
    readonly index: number;
    readonly message: {
      readonly role: "assistant";
      /** Null where the model called tools and said nothing. */
      readonly content: string | null;
      readonly tool_calls?: readonly ToolCall[];
    };
    readonly finish_reason: FinishReason;
    readonly logprobs: ChatLogprobs | null;
  }[];
  readonly usage: Usage;
}

/** One event of a streamed chat completion. With `include_usage` a last chunk has no choices and the usage. */
export interface ChatCompletionChunk {
  readonly id: string;
  readonly object: "chat.completion.chunk";
  readonly created: number;
  readonly model: string;
  readonly choices: readonly {
    readonly index: number;
    readonly delta: {
      readonly role?: "assistant";
      readonly content?: string;
      readonly tool_calls?: readonly ToolCallDelta[];
    };
    readonly finish_reason: FinishReason | null;
    readonly logprobs: ChatLogprobs | null;
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
    readonly index: number;
    readonly text: string;
    readonly finish_reason: FinishReason | null;
    readonly logprobs: CompletionLogprobs | null;
  }[];
  readonly usage?: Usage | null;
}

/** `POST /generate`. */
export interface GenerateResponse {
  readonly response: string;
}

/** One model of `GET /v1/models`: OpenAI's fields, and those that the edge needs. */
export interface Model {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
  /** SHA-256 over the imported model's files, hex: part of every cached answer's identity. */
  readonly digest: string;
  /** Prompt and answer together, in tokens. */
  readonly context_length: number;
  /** Whether it makes text or vectors; vLLM's words. */
  readonly task: "generate" | "embed";
}

export interface ModelList {
  readonly object: "list";
  readonly data: readonly Model[];
}
