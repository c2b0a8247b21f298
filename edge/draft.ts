/**
 * An answer that is still coming in: takes the origin's events one by one and says in the end whether they made a
 * complete answer. Complete means a finish reason, the usage and `[DONE]`; anything less is never an answer.
 */
import * as z from "zod";
import { ColdpathError } from "../shared/errors.ts";
import type { FinishReason, Usage } from "../shared/completion-response.ts";
import { SSE_DONE } from "../shared/sse.ts";
import type { Answer } from "./answer.ts";

const usageSchema = z.object({
  prompt_tokens: z.int().min(0),
  completion_tokens: z.int().min(0),
  total_tokens: z.int().min(0),
});
const finishReason = z.enum(["stop", "length"]).nullish();
const chunkSchema = z.object({
  id: z.string(),
  created: z.int(),
  model: z.string(),
  choices: z
    .array(
      z.object({
        delta: z.object({ content: z.string().nullish() }).optional(),
        text: z.string().optional(),
        finish_reason: finishReason,
      }),
    )
    .max(1),
  usage: usageSchema.nullish(),
});

/** `text` goes to the client as it is, `usage` only to one that asked for it, `done` ends the stream. */
export type EventRole = "text" | "usage" | "done";

export class Draft {
  readonly #type: Answer["type"];
  readonly #bytesMax: number;
  #head: Pick<Answer, "id" | "created" | "model"> | undefined;
  #text = "";
  #textBytes = 0;
  #finishReason: FinishReason | undefined;
  #usage: Usage | undefined;
  #done = false;
  #textEvents = 0;

  constructor({ type, bytesMax }: { readonly type: Answer["type"]; readonly bytesMax: number }) {
    this.#type = type;
    this.#bytesMax = bytesMax;
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
    const choice = chunk.choices[0];
    if (choice === undefined) return "usage";

    this.#finishReason = choice.finish_reason ?? this.#finishReason;
    const text = choice.delta?.content ?? choice.text ?? "";
    if (text !== "") this.#textEvents += 1;
    this.#text += text;
    this.#textBytes += new TextEncoder().encode(text).length;
    if (this.#textBytes > this.#bytesMax) throw broken("the answer is longer than this endpoint collects");
    return "text";
  }

  /** Tokens generated so far: the real number once it is known, else one for each event that had text. */
  get answerTokens(): number {
    return this.#usage?.completion_tokens ?? this.#textEvents;
  }

  /** @throws {ColdpathError} `origin_failed` when something is missing: the stream was cut */
  finish(): Answer {
    if (!this.#done || this.#head === undefined || this.#finishReason === undefined || this.#usage === undefined) {
      throw broken("the model's server broke the answer off");
    }
    return {
      type: this.#type,
      ...this.#head,
      text: this.#text,
      finishReason: this.#finishReason,
      usage: this.#usage,
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
