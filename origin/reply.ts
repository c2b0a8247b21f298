/**
 * The shapes an answer takes on the wire, one per route, whole or in chunks. Knows no model and no stream.
 */
import type {
  ChatCompletion,
  ChatCompletionChunk,
  Completion,
  FinishReason,
  GenerateResponse,
  Usage,
} from "../shared/completion-response.ts";

/** A finished answer. */
export interface Answer {
  readonly text: string;
  readonly reason: FinishReason;
  readonly usage: Usage;
}

/** How one answer is written. */
export interface Reply {
  whole(answer: Answer): ChatCompletion | Completion | GenerateResponse;
  /** The chunk before any text, where the route has one. */
  opening(): ChatCompletionChunk | undefined;
  delta(text: string): ChatCompletionChunk | Completion;
  closing(reason: FinishReason): ChatCompletionChunk | Completion;
  /** The chunk after the last choice, for clients that asked for it. */
  usage(usage: Usage): ChatCompletionChunk | Completion;
}

export interface ReplyOptions {
  /** What the answer's id ends with. */
  readonly suffix: string;
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  /** Where it is asked for, every other chunk says `usage: null`, as OpenAI's do. */
  readonly includeUsage: boolean;
}

export function createChatReply({ suffix, created, model, includeUsage }: ReplyOptions): Reply {
  const id = `chatcmpl-${suffix}`;
  const head = { id, object: "chat.completion.chunk", created, model } as const;
  const noUsage = includeUsage ? { usage: null } : {};
  type Choice = ChatCompletionChunk["choices"][number];
  const chunk = (delta: Choice["delta"], reason: FinishReason | null): ChatCompletionChunk => ({
    ...head,
    choices: [{ index: 0, delta, finish_reason: reason, logprobs: null }],
    ...noUsage,
  });
  return {
    whole: ({ text, reason, usage }) => ({
      id,
      object: "chat.completion",
      created,
      model,
      choices: [{ index: 0, message: { role: "assistant", content: text }, finish_reason: reason, logprobs: null }],
      usage,
    }),
    opening: () => chunk({ role: "assistant", content: "" }, null),
    delta: (text) => chunk({ content: text }, null),
    closing: (reason) => chunk({}, reason),
    usage: (usage) => ({ ...head, choices: [], usage }),
  };
}

export function createCompletionReply({ suffix, created, model, includeUsage }: ReplyOptions): Reply {
  const head = { id: `cmpl-${suffix}`, object: "text_completion", created, model } as const;
  const noUsage = includeUsage ? { usage: null } : {};
  return {
    whole: ({ text, reason, usage }) => ({ ...head, choices: completionChoices(text, reason), usage }),
    opening: () => undefined,
    delta: (text) => ({ ...head, choices: completionChoices(text, null), ...noUsage }),
    closing: (reason) => ({ ...head, choices: completionChoices("", reason), ...noUsage }),
    usage: (usage) => ({ ...head, choices: [], usage }),
  };
}

/** `/generate`: the chat's answer without its envelope; it is never streamed. */
export function createGenerateReply(options: ReplyOptions): Reply {
  return { ...createChatReply(options), whole: ({ text }) => ({ response: text }) };
}

function completionChoices(text: string, reason: FinishReason | null): Completion["choices"] {
  return [{ index: 0, text, finish_reason: reason, logprobs: null }];
}
