/**
 * Goes on with a stream where its client lost it: leaves out of an answer's events what `Last-Event-ID` says was sent,
 * down to the middle of an event. Only the very answer goes on; another one, made anew, begins at its beginning, and its
 * own id says so. Knows neither where the events come from nor where they go.
 */
import { SSE_DONE, sseData } from "../../shared/sse.ts";
import {
  countLogprobs,
  type Delivered,
  type Position,
  Progress,
  readEventId,
  type WireCall,
  type WireChoice,
  type WireLogprobs,
} from "./event-id.ts";

/** A chunk's choice as it is written, whatever else it holds. */
type Choice = WireChoice & { readonly delta?: { readonly role?: string } };

interface Chunk {
  readonly id: string;
  readonly choices: readonly Choice[];
}

const EVERYTHING: Position = { begun: true, text: Infinity, logprobs: Infinity, calls: Infinity, finished: true };

export class Resumption {
  readonly #delivered: Delivered;
  readonly #progress = new Progress(0);
  /** From here on everything is news. */
  #caughtUp = false;

  constructor(delivered: Delivered) {
    this.#delivered = delivered;
  }

  /**
   * What the client has not got of one event's data, the events given from the answer's first on.
   *
   * @returns `undefined` where it has got all of it
   */
  rest(data: string): string | undefined {
    if (this.#caughtUp || data === SSE_DONE) return data;
    const chunk = JSON.parse(data) as Chunk;
    const { answerId, positions } = this.#delivered;
    if (chunk.id !== answerId) {
      this.#caughtUp = true;
      return data;
    }
    if (chunk.choices.length === 0) return positions === "end" ? undefined : data;
    const choices = chunk.choices.map((choice) => this.#restOf(choice)).filter((choice) => choice !== undefined);
    return choices.length === 0 ? undefined : JSON.stringify({ ...chunk, choices });
  }

  #restOf(choice: Choice): Choice | undefined {
    const { positions } = this.#delivered;
    const had = positions === "end" ? EVERYTHING : positions[choice.index];
    const progress = this.#progress;
    const before = { ...(progress.positions[choice.index] ?? NOTHING) };
    const calls = cutCalls(choice, (call) => progress.isNew(choice.index, call), (had?.calls ?? 0) - before.calls);
    progress.add(choice);
    const now = progress.positions[choice.index];
    if (had === undefined || now === undefined || !had.begun || covers(before, had)) return choice;
    if (covers(had, now)) return undefined;
    return cut(choice, { text: had.text - before.text, logprobs: had.logprobs - before.logprobs, calls });
  }
}

/** A replay's body from where its client lost it. */
export function resumeReplay(body: string, lastEventId: string | null): string {
  const delivered = readEventId(lastEventId);
  if (delivered === undefined) return body;
  const resumption = new Resumption(delivered);
  const blocks = body.split("\n\n").filter((block) => block !== "");
  return blocks
    .map((block) => {
      // Not a dot: to an expression U+2028 ends a line, to an event stream it does not.
      const [, id, data = ""] = /^(?:id: ([^\n]*)\n)?data: ([^\n]*)$/.exec(block) ?? [];
      const rest = resumption.rest(data);
      return rest === undefined ? "" : sseData(rest, id);
    })
    .join("");
}

const NOTHING: Position = { begun: false, text: 0, logprobs: 0, calls: 0, finished: false };

/** Whether who has come as far as `one` has got all of `other`. */
function covers(one: Readonly<Position>, other: Readonly<Position>): boolean {
  const numbers = one.text >= other.text && one.logprobs >= other.logprobs && one.calls >= other.calls;
  return numbers && (one.begun || !other.begun) && (one.finished || !other.finished);
}

interface Surplus {
  /** What of them the client has already. */
  readonly text: number;
  readonly logprobs: number;
  /** What is left of them. */
  readonly calls: readonly WireCall[] | undefined;
}

/** A choice without its beginning; it begins in the middle, so it says no role. */
function cut({ delta, text, logprobs, ...choice }: Choice, surplus: Surplus): Choice {
  const from = Math.max(surplus.text, 0);
  const said = delta?.content == null ? {} : { content: delta.content.slice(from) };
  const called = surplus.calls === undefined ? {} : { tool_calls: surplus.calls };
  return {
    ...choice,
    ...(delta === undefined ? {} : { delta: { ...said, ...called } }),
    ...(text === undefined ? {} : { text: text.slice(from) }),
    ...(logprobs === undefined ? {} : { logprobs: cutLogprobs(logprobs, Math.max(surplus.logprobs, 0)) }),
  };
}

/** @returns `null` where nothing is left */
function cutLogprobs(logprobs: WireLogprobs | null, from: number): WireLogprobs | null {
  if (logprobs === null || countLogprobs(logprobs) <= from) return null;
  const entries = Object.entries(logprobs).map(([field, list]: [string, unknown]) => [
    field,
    Array.isArray(list) ? list.slice(from) : list,
  ]);
  return Object.fromEntries(entries) as WireLogprobs;
}

/** @returns what is left of the pieces without the first `surplus` units; `undefined` where there are none */
function cutCalls(
  { delta }: Choice,
  isNew: (call: WireCall) => boolean,
  surplus: number,
): readonly WireCall[] | undefined {
  let over = Math.max(surplus, 0);
  const left = (delta?.tool_calls ?? []).flatMap((call): readonly WireCall[] => {
    const text = call.function?.arguments ?? "";
    const head = isNew(call) ? 1 : 0;
    const had = Math.min(over, head + text.length);
    over -= had;
    if (had === 0) return [call];
    return had === head + text.length ? [] : [{ index: call.index, function: { arguments: text.slice(had - head) } }];
  });
  return left.length === 0 ? undefined : left;
}
