/**
 * One complete answer, free of the form it came in, and the forms it goes out in: JSON, the same replayed as events,
 * a response, `/generate`'s; vectors as numbers or in base64. The same id, choices, usage and finish reasons in each. Knows nothing of caches.
 */
import * as z from "zod";
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatLogprobs,
  Completion,
  CompletionLogprobs,
  GenerateResponse,
} from "../../shared/completion-response.ts";
import { type EmbeddingList, readVector } from "../../shared/embedding-request.ts";
import { SSE_DONE, SSE_HEADERS, sseData } from "../../shared/sse.ts";
import { Progress, writeEventId } from "./event-id.ts";
import type { Logprobs } from "./logprobs.ts";
import { ResponseEvents } from "./response-form.ts";
import type { ResponseSettings } from "../question/response-settings.ts";
import type { ReplyForm } from "../question/reply-form.ts";

export const usageSchema = z.object({
  prompt_tokens: z.int().min(0),
  completion_tokens: z.int().min(0),
  total_tokens: z.int().min(0),
  prompt_tokens_details: z.object({ cached_tokens: z.int().min(0) }).exactOptional(),
});

/** An entry at rest is this, so see look-up.ts for a change. */
export type Answer = TextAnswer | VectorAnswer;

/** `created` is in Unix seconds; a choice's index is its place. */
export interface TextAnswer {
  /** Which route's wire format it has. */
  readonly type: "chat" | "text";
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly choices: readonly Choice[];
  readonly usage: z.infer<typeof usageSchema>;
}

/** One for each text that was asked for, in base64, which is a third of the numbers' text. */
export interface VectorAnswer {
  readonly type: "vectors";
  readonly model: string;
  readonly vectors: readonly string[];
  readonly usage: EmbeddingList["usage"];
}

interface Choice {
  readonly text: string;
  readonly finishReason: "stop" | "length" | "tool_calls";
  readonly toolCalls?: readonly ToolCall[];
  readonly logprobs?: Logprobs;
}

interface ToolCall {
  readonly id: string;
  readonly type: "function";
  readonly function: { readonly name: string; readonly arguments: string };
}

/** The answer as the body of a response, in the form the client asked for. */
export function renderAnswer(answer: Answer, form: ReplyForm): string {
  if (answer.type === "vectors") return JSON.stringify(embeddingList(answer, form));
  switch (form.type) {
    case "vectors":
      throw new TypeError("a text has no vectors: the question's path is part of its identity");
    case "json":
      return JSON.stringify(answer.type === "chat" ? chatCompletion(answer) : completion(answer));
    case "generate":
      return JSON.stringify({ response: answer.choices[0]?.text ?? "" } satisfies GenerateResponse);
    case "response":
      return renderResponse(answer, form);
    case "sse":
      return renderEvents(answer, form.includeUsage);
    default:
      return form satisfies never;
  }
}

/** At once and in the fewest events, each with the id to go on from. */
function renderEvents(answer: TextAnswer, includeUsage: boolean): string {
  const { id: answerId, choices } = answer;
  const progress = new Progress(choices.length);
  const events = answer.type === "chat" ? chatEvents(answer) : textEvents(answer);
  const written = events.map((event) => {
    for (const choice of event.choices) progress.add(choice);
    return sseData(event, writeEventId({ answerId, positions: progress.positions }));
  });
  const end = writeEventId({ answerId, positions: "end" });
  const usage = includeUsage ? [sseData(usageEvent(answer), end)] : [];
  return [...written, ...usage, sseData(SSE_DONE, end)].join("");
}

function renderResponse(
  answer: TextAnswer,
  { streamed, settings }: { readonly streamed: boolean; readonly settings: ResponseSettings },
): string {
  const events = new ResponseEvents(settings);
  const written = [...chatEvents(answer), { ...chunkHead(answer), choices: [], usage: answer.usage }].map((chunk) =>
    events.take(chunk),
  );
  return streamed ? [...written, events.end()].join("") : JSON.stringify(events.response);
}

/** What a body in this form is sent with. */
export function formHeaders(form: ReplyForm): Readonly<Record<string, string>> {
  return form.type === "sse" || (form.type === "response" && form.streamed) ? SSE_HEADERS : JSON_HEADERS;
}

const JSON_HEADERS = { "content-type": "application/json" } as const;

function embeddingList({ model, vectors, usage }: VectorAnswer, form: ReplyForm): EmbeddingList {
  const isBase64 = form.type === "vectors" && form.encoding === "base64";
  const data = vectors.map((vector, index) => {
    const embedding = isBase64 ? vector : readVector(vector);
    return { object: "embedding" as const, index, embedding };
  });
  return { object: "list", data, model, usage };
}

function chatCompletion({ id, created, model, choices, usage }: TextAnswer): ChatCompletion {
  const rendered = choices.map((choice, index) => ({
    index,
    message: { role: "assistant", ...said(choice) } as const,
    finish_reason: choice.finishReason,
    logprobs: chatLogprobs(choice),
  }));
  return { id, object: "chat.completion", created, model, choices: rendered, usage };
}

function said({
  text,
  toolCalls,
}: Choice): Pick<ChatCompletion["choices"][number]["message"], "content" | "tool_calls"> {
  if (toolCalls === undefined) return { content: text };
  return { content: text === "" ? null : text, tool_calls: toolCalls };
}

function completion({ id, created, model, choices, usage }: TextAnswer): Completion {
  const rendered = choices.map((choice, index) => ({
    index,
    text: choice.text,
    finish_reason: choice.finishReason,
    logprobs: completionLogprobs(choice),
  }));
  return { id, object: "text_completion", created, model, choices: rendered, usage };
}

function chatEvents(answer: TextAnswer): readonly ChatCompletionChunk[] {
  type ChunkChoice = ChatCompletionChunk["choices"][number];
  const event = (choice: Omit<ChunkChoice, "logprobs"> & Partial<Pick<ChunkChoice, "logprobs">>) => ({
    ...chunkHead(answer),
    choices: [{ logprobs: null, ...choice }],
  });
  return answer.choices.flatMap((choice, index) => {
    const { text, toolCalls, finishReason } = choice;
    const logprobs = chatLogprobs(choice);
    const calls = toolCalls?.map(({ id, type, function: called }, place) => ({
      index: place,
      id,
      type,
      function: called,
    }));
    return [
      event({ index, delta: { role: "assistant", content: "" }, finish_reason: null }),
      ...(text === "" && logprobs === null && calls !== undefined
        ? []
        : [event({ index, delta: { content: text }, finish_reason: null, logprobs })]),
      ...(calls === undefined ? [] : [event({ index, delta: { tool_calls: calls }, finish_reason: null })]),
      event({ index, delta: {}, finish_reason: finishReason }),
    ];
  });
}

function textEvents(answer: TextAnswer): readonly Completion[] {
  const event = (choice: Completion["choices"][number]): Completion => ({ ...textHead(answer), choices: [choice] });
  return answer.choices.flatMap((choice, index) => [
    event({ index, text: choice.text, finish_reason: null, logprobs: completionLogprobs(choice) }),
    event({ index, text: "", finish_reason: choice.finishReason, logprobs: null }),
  ]);
}

function chatLogprobs({ logprobs }: Choice): ChatLogprobs | null {
  return logprobs !== undefined && "content" in logprobs ? logprobs : null;
}

function completionLogprobs({ logprobs }: Choice): CompletionLogprobs | null {
  return logprobs !== undefined && "tokens" in logprobs ? logprobs : null;
}

function usageEvent(answer: TextAnswer): ChatCompletionChunk | Completion {
  const head = answer.type === "chat" ? chunkHead(answer) : textHead(answer);
  return { ...head, choices: [], usage: answer.usage };
}

function chunkHead({ id, created, model }: TextAnswer): Omit<ChatCompletionChunk, "choices"> {
  return { id, object: "chat.completion.chunk", created, model };
}

function textHead({ id, created, model }: TextAnswer): Omit<Completion, "choices"> {
  return { id, object: "text_completion", created, model };
}
