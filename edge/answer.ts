/**
 * One complete answer, free of the form it came in, and the forms it goes out in: JSON, the same replayed as events,
 * and `/generate`'s. The same id, text, usage and finish reason in each. Knows nothing of caches.
 */
import * as z from "zod";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  Completion,
  GenerateResponse,
} from "../shared/completion-response.ts";
import { SSE_DONE, SSE_HEADERS, sseData } from "../shared/sse.ts";
import type { ReplyForm } from "./validate.ts";

const answerSchema = z.object({
  type: z.enum(["chat", "text"]),
  id: z.string(),
  created: z.int(),
  model: z.string(),
  text: z.string(),
  finishReason: z.enum(["stop", "length"]),
  usage: z.object({ prompt_tokens: z.int(), completion_tokens: z.int(), total_tokens: z.int() }),
});

/** `type` says which route's wire format it has; `created` is in Unix seconds. */
export type Answer = Readonly<z.infer<typeof answerSchema>>;

/** Reads an answer back from its JSON; `undefined` for anything else. */
export function parseAnswer(text: string): Answer | undefined {
  try {
    return answerSchema.safeParse(JSON.parse(text)).data;
  } catch {
    return undefined;
  }
}

/** The answer as the body of a response, in the form the client asked for. */
export function renderAnswer(answer: Answer, form: ReplyForm): string {
  switch (form.type) {
    case "json":
      return JSON.stringify(answer.type === "chat" ? chatCompletion(answer) : completion(answer));
    case "generate":
      return JSON.stringify({ response: answer.text } satisfies GenerateResponse);
    case "sse": {
      const events = answer.type === "chat" ? chatEvents(answer) : textEvents(answer);
      const usage = form.includeUsage ? [usageEvent(answer)] : [];
      return [...events, ...usage, SSE_DONE].map(sseData).join("");
    }
    default:
      return form satisfies never;
  }
}

/** A rendered body as the response it belongs to. */
export function replyWith(body: string, form: ReplyForm, headers: Readonly<Record<string, string>>): Response {
  return new Response(body, { headers: { ...headers, ...(form.type === "sse" ? SSE_HEADERS : JSON_HEADERS) } });
}

const JSON_HEADERS = { "content-type": "application/json" } as const;

function chatCompletion({ id, created, model, text, finishReason, usage }: Answer): ChatCompletion {
  const message = { role: "assistant", content: text } as const;
  const choice = { index: 0, message, finish_reason: finishReason, logprobs: null } as const;
  return { id, object: "chat.completion", created, model, choices: [choice], usage };
}

function completion({ id, created, model, text, finishReason, usage }: Answer): Completion {
  const choice = { index: 0, text, finish_reason: finishReason, logprobs: null } as const;
  return { id, object: "text_completion", created, model, choices: [choice], usage };
}

function chatEvents(answer: Answer): readonly ChatCompletionChunk[] {
  const event = (
    delta: ChatCompletionChunk["choices"][number]["delta"],
    finishReason: Answer["finishReason"] | null,
  ): ChatCompletionChunk => ({
    ...chunkHead(answer),
    choices: [{ index: 0, delta, finish_reason: finishReason, logprobs: null }],
  });
  return [
    event({ role: "assistant", content: "" }, null),
    event({ content: answer.text }, null),
    event({}, answer.finishReason),
  ];
}

function textEvents(answer: Answer): readonly Completion[] {
  const event = (text: string, finishReason: Answer["finishReason"] | null): Completion => ({
    ...textHead(answer),
    choices: [{ index: 0, text, finish_reason: finishReason, logprobs: null }],
  });
  return [event(answer.text, null), event("", answer.finishReason)];
}

function usageEvent(answer: Answer): ChatCompletionChunk | Completion {
  const head = answer.type === "chat" ? chunkHead(answer) : textHead(answer);
  return { ...head, choices: [], usage: answer.usage };
}

function chunkHead({ id, created, model }: Answer): Omit<ChatCompletionChunk, "choices"> {
  return { id, object: "chat.completion.chunk", created, model };
}

function textHead({ id, created, model }: Answer): Omit<Completion, "choices"> {
  return { id, object: "text_completion", created, model };
}
