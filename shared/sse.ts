/**
 * Server-sent events as OpenAI's clients expect them: `data:` lines of JSON, `[DONE]` last. Reading uses
 * `eventsource-parser`; this is only the writing side and the words both sides share.
 *
 * Source: WHATWG HTML, section 9.2 "Server-sent events".
 */
import type { ErrorEnvelope } from "./errors.ts";

/** Headers of every event stream. `x-accel-buffering` keeps nginx from collecting it. */
export const SSE_HEADERS = {
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-store",
  "x-accel-buffering": "no",
} as const;

/** The data of the event that ends a complete stream. */
export const SSE_DONE = "[DONE]";

/**
 * One event. JSON has no raw line breaks, so one `data:` line is enough.
 *
 * @param id - what a client that lost the stream says in `Last-Event-ID`; one line
 */
export function sseData(data: unknown, id?: string): string {
  const text = typeof data === "string" ? data : JSON.stringify(data);
  return id === undefined ? `data: ${text}\n\n` : `id: ${id}\ndata: ${text}\n\n`;
}

/** A comment, which every reader of events skips: the answer waits for its turn, as the first, second, … in line. */
export function sseQueued(position: number): string {
  return `: queue position ${position}\n\n`;
}

/** Reads that comment's text; `undefined` for any other. */
export function parseQueued(comment: string): number | undefined {
  const position = /^queue position (\d{1,6})$/.exec(comment.trim())?.[1];
  return position === undefined ? undefined : Number(position);
}

/** The event that ends a broken stream; no `[DONE]` follows it. */
export function sseError(envelope: ErrorEnvelope): string {
  return `event: error\ndata: ${JSON.stringify(envelope)}\n\n`;
}
