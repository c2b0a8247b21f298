/**
 * An answer that is still coming in: takes the origin's events one by one and says in the end whether they made a
 * complete answer. Complete means a finish reason for every choice, the usage and `[DONE]`; anything less is never an
 * answer.
 */
import * as z from "zod";
import { ColdpathError } from "../../shared/errors.ts";
import type { FinishReason, ToolCall, Usage } from "../../shared/completion-response.ts";
import { SSE_DONE } from "../../shared/sse.ts";
import { type TextAnswer, usageSchema, type Answer } from "./answer.ts";
import { Progress, writeEventId } from "./event-id.ts";
import { type Logprobs, joinLogprobs, logprobsSchema } from "./logprobs.ts";

const toolCallDelta = z.object({
  index: z.int().min(0),
  id: z.string().optional(),
  function: z.object({ name: z.string().optional(), arguments: z.string().optional() }).optional(),
});
const choiceSchema = z.object({
  index: z.int().min(0),
  delta: z.object({ content: z.string().nullish(), tool_calls: z.array(toolCallDelta).optional() }).optional(),
  text: z.string().optional(),
  finish_reason: z.enum(["stop", "length", "tool_calls"]).nullish(),
  logprobs: logprobsSchema.nullish(),
});
const chunkSchema = z.object({
  id: z.string(),
  created: z.int(),
  model: z.string(),
  choices: z.array(choiceSchema),
  usage: usageSchema.nullish(),
});

type ChunkChoice = z.infer<typeof choiceSchema>;

/** `text` goes to the client as it is, `usage` only to one that asked for it, `done` ends the stream. */
export type EventRole = "text" | "usage" | "done";

/** What takes an answer in, whatever kind it is. */
export interface Drafting {
  /** @throws {ColdpathError} `origin_failed` for what is no part of such an answer */
  add(data: string): EventRole;
  readonly eventId: string | undefined;
  readonly answerTokens: number;
  /** @throws {ColdpathError} `origin_failed` when something is missing */
  finish(): Answer;
}

export interface DraftOptions {
  readonly type: TextAnswer["type"];
  /** How many choices were asked for. */
  readonly choices: number;
  /** Largest answer in bytes: text, tool calls and the events of log probabilities. */
  readonly bytesMax: number;
}

export class Draft implements Drafting {
  readonly #type: TextAnswer["type"];
  readonly #bytesMax: number;
  readonly #choices: readonly DraftChoice[];
  readonly #progress: Progress;
  #head: Pick<TextAnswer, "id" | "created" | "model"> | undefined;
  #bytes = 0;
  #usage: Usage | undefined;
  /** Whether the event with the usage came, after which there is only `[DONE]`. */
  #told = false;
  #done = false;
  #textEvents = 0;

  constructor({ type, choices, bytesMax }: DraftOptions) {
    this.#type = type;
    this.#bytesMax = bytesMax;
    this.#choices = Array.from({ length: choices }, () => new DraftChoice());
    this.#progress = new Progress(choices);
  }

  /**
   * Takes one event's data.
   *
   * @throws {ColdpathError} `origin_failed` for data that is no chunk, or more text than is allowed
   */
  add(data: string): EventRole {
    if (data === SSE_DONE) {
      this.#done = true;
      return "done";
    }
    const chunk = parseChunk(data);
    this.#head ??= { id: chunk.id, created: chunk.created, model: chunk.model };
    this.#usage = chunk.usage ?? this.#usage;
    if (chunk.choices.length === 0) {
      this.#told = true;
      return "usage";
    }
    for (const choice of chunk.choices) this.#take(choice, data.length);
    return "text";
  }

  /** Names everything up to the last event taken, for a client that loses the stream after it. */
  get eventId(): string | undefined {
    if (this.#head === undefined) return undefined;
    const positions = this.#told ? "end" : this.#progress.positions;
    return writeEventId({ answerId: this.#head.id, positions });
  }

  /** Tokens generated so far: the real number once it is known, else one for each event that had text. */
  get answerTokens(): number {
    return this.#usage?.completion_tokens ?? this.#textEvents;
  }

  /** @throws {ColdpathError} `origin_failed` when something is missing: the stream was cut */
  finish(): TextAnswer {
    const choices = this.#choices.map((choice) => choice.finish()).filter((choice) => choice !== undefined);
    const whole = choices.length === this.#choices.length;
    if (!this.#done || !whole || this.#head === undefined || this.#usage === undefined) {
      throw broken("the model's server broke the answer off");
    }
    return { type: this.#type, ...this.#head, choices, usage: this.#usage };
  }

  #take(choice: ChunkChoice, eventChars: number): void {
    const draft = this.#choices[choice.index];
    if (draft === undefined) throw broken("the model's server sent more answers than were asked for");
    const said = draft.take(choice);
    this.#progress.add(choice);
    if (said !== "") this.#textEvents += 1;
    this.#bytes += new TextEncoder().encode(said).length + (choice.logprobs == null ? 0 : eventChars);
    if (this.#bytes > this.#bytesMax) throw broken("the answer is longer than this endpoint collects");
  }
}

/** One choice's pieces. */
class DraftChoice {
  readonly #logprobs: Logprobs[] = [];
  readonly #toolCalls: { id: string; name: string; arguments: string }[] = [];
  #text = "";
  #finishReason: FinishReason | undefined;

  /** @returns what was said with this piece, in text or in a tool call */
  take({ delta, text, logprobs, finish_reason: finishReason }: ChunkChoice): string {
    const piece = delta?.content ?? text ?? "";
    this.#text += piece;
    if (logprobs != null) this.#logprobs.push(logprobs);
    this.#finishReason = finishReason ?? this.#finishReason;
    const called = (delta?.tool_calls ?? []).map(({ index, id, function: part }) => {
      if (index > this.#toolCalls.length) throw broken("the model's server skipped a tool call");
      const call = (this.#toolCalls[index] ??= { id: "", name: "", arguments: "" });
      call.id ||= id ?? "";
      call.name ||= part?.name ?? "";
      call.arguments += part?.arguments ?? "";
      return part?.arguments ?? "";
    });
    return piece + called.join("");
  }

  /** `undefined` while it is not complete. */
  finish(): TextAnswer["choices"][number] | undefined {
    if (this.#finishReason === undefined) return undefined;
    const logprobs = joinLogprobs(this.#logprobs);
    const toolCalls = this.#toolCalls.map(({ id, name, arguments: text }): ToolCall => ({
      id,
      type: "function",
      function: { name, arguments: text },
    }));
    return {
      text: this.#text,
      finishReason: this.#finishReason,
      ...(toolCalls.length === 0 ? {} : { toolCalls }),
      ...(logprobs === undefined ? {} : { logprobs }),
    };
  }
}

function parseChunk(data: string): z.infer<typeof chunkSchema> {
  try {
    return chunkSchema.parse(JSON.parse(data));
  } catch (cause) {
    throw broken("the model's server sent what is no part of an answer", cause);
  }
}

function broken(message: string, cause?: unknown): ColdpathError {
  return new ColdpathError("origin_failed", message, { cause });
}
