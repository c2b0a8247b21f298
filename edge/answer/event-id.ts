/**
 * Names how far a stream has come: the answer's id, and for each choice how much of it was sent. Not a count of events:
 * the region keeps an answer and not how it was cut into events, and a replay cuts it in another way than the model did.
 *
 * `chatcmpl-1:12` is twelve UTF-16 units of text; `chatcmpl-1:12.5.30.1_` five log probabilities, thirty units of tool
 * calls and the end of the first of two choices as well, and nothing of the second; `chatcmpl-1:end` everything.
 *
 * Source: WHATWG HTML, section 9.2 "Server-sent events" (`id`, `Last-Event-ID`).
 */

/** How much of one choice was sent. */
export interface Position {
  begun: boolean;
  /** UTF-16 units. */
  text: number;
  /** Tokens. */
  logprobs: number;
  /** One for each call, and the UTF-16 units of its arguments. */
  calls: number;
  finished: boolean;
}

/** As much of a chunk's choice as counts here; both routes' and both sides' shapes fit. */
export interface WireChoice {
  readonly index: number;
  readonly delta?:
    | {
        readonly content?: string | null | undefined;
        readonly tool_calls?: readonly WireCall[] | undefined;
      }
    | undefined;
  readonly text?: string | undefined;
  readonly finish_reason?: string | null | undefined;
  readonly logprobs?: WireLogprobs | null | undefined;
}

export interface WireCall {
  readonly index: number;
  readonly function?: { readonly arguments?: string | undefined } | undefined;
}

export type WireLogprobs = { readonly content: readonly unknown[] } | { readonly tokens: readonly unknown[] };

export interface Delivered {
  readonly answerId: string;
  readonly positions: readonly Readonly<Position>[] | "end";
}

/** A longer header is none of ours: `n` is 128 at most. */
const CHARS_MAX = 8_192;
/** What can stand in a stream's line and in a header as it is. */
const HARMLESS = /^[\w.-]{1,128}$/;

/** Follows a stream chunk by chunk. */
export class Progress {
  readonly positions: Position[] = [];
  /** Per choice, how many tool calls have begun. */
  readonly #calls: number[] = [];

  constructor(choices: number) {
    for (let index = 0; index < choices; index += 1) this.#begin(index);
  }

  /** Takes one choice of a chunk. */
  add({ index, delta, text, logprobs, finish_reason: finished }: WireChoice): void {
    const position = this.#begin(index);
    position.begun = true;
    position.text += (delta?.content ?? text ?? "").length;
    position.logprobs += logprobs == null ? 0 : countLogprobs(logprobs);
    for (const call of delta?.tool_calls ?? []) {
      position.calls += (this.isNew(index, call) ? 1 : 0) + (call.function?.arguments ?? "").length;
      this.#calls[index] = Math.max(this.#calls[index] ?? 0, call.index + 1);
    }
    if (finished != null) position.finished = true;
  }

  /** Whether a piece of a tool call is its first. */
  isNew(index: number, call: WireCall): boolean {
    return call.index >= (this.#calls[index] ?? 0);
  }

  #begin(index: number): Position {
    return (this.positions[index] ??= { begun: false, text: 0, logprobs: 0, calls: 0, finished: false });
  }
}

export function countLogprobs(logprobs: WireLogprobs): number {
  return ("content" in logprobs ? logprobs.content : logprobs.tokens).length;
}

/** @returns `undefined` for an answer whose id can't stand in a line of its own: such a stream is not resumed */
export function writeEventId({ answerId, positions }: Delivered): string | undefined {
  if (!HARMLESS.test(answerId)) return undefined;
  return `${answerId}:${positions === "end" ? positions : positions.map(writePosition).join("_")}`;
}

/** Reads a `Last-Event-ID`; `undefined` for anything that `writeEventId` never wrote. */
export function readEventId(text: string | null): Delivered | undefined {
  if (text === null || text.length > CHARS_MAX) return undefined;
  const [, answerId, said] = /^([\w.-]{1,128}):([\w.]*)$/.exec(text) ?? [];
  if (answerId === undefined || said === undefined) return undefined;
  if (said === "end") return { answerId, positions: said };
  const positions = said.split("_").map(readPosition);
  return positions.every((position) => position !== undefined) ? { answerId, positions } : undefined;
}

function writePosition({ begun, text, logprobs, calls, finished }: Readonly<Position>): string {
  if (!begun) return "";
  return `${text}.${logprobs}.${calls}.${finished ? 1 : 0}`.replace(/(\.0)+$/, "");
}

function readPosition(said: string): Position | undefined {
  if (said !== "" && !/^\d{1,9}(\.\d{1,9}){0,3}$/.test(said)) return undefined;
  const [text = 0, logprobs = 0, calls = 0, finished = 0] = said === "" ? [] : said.split(".").map(Number);
  return { begun: said !== "", text, logprobs, calls, finished: finished > 0 };
}
