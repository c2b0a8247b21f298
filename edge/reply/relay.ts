/**
 * Brings an answer from the origin to the client, event by event or collected, and says once how it ended. Whatever
 * happens on the way, `onEnd` runs exactly once: that is where answers are kept and slots go back.
 */
import { ColdpathError, toColdpathError } from "../../shared/errors.ts";
import { SSE_HEADERS, sseQueued } from "../../shared/sse.ts";
import type { Answer } from "../answer/answer.ts";
import type { Call } from "../call/call.ts";
import { ClientStream } from "./client-stream.ts";
import type { Drafting } from "../answer/draft.ts";
import type { EventWriter } from "../answer/event-writer.ts";
import { ClientGone } from "../call/client-gone.ts";
import type { Upstream } from "../fleet/forward.ts";

/** How an answer ended, with what there is of it. */
export type RelayEnd =
  | { readonly type: "complete"; readonly answer: Answer }
  | { readonly type: "aborted"; readonly answerTokens: number }
  | { readonly type: "broken"; readonly error: ColdpathError };

/** An answer under way. */
export interface RelayParts {
  readonly upstream: Upstream;
  readonly draft: Drafting;
  /** Must not throw. */
  readonly onEnd: (end: RelayEnd) => Promise<void>;
}

interface StreamOptions {
  readonly writer: EventWriter;
  readonly headers: Readonly<Record<string, string>>;
  readonly keepAliveMs: number;
  readonly stallMs: number;
}

/**
 * Collects the whole answer for a client that wants it in one piece.
 *
 * @throws {ColdpathError} where the origin fails
 */
export async function collect({ upstream, draft, onEnd }: RelayParts): Promise<Answer> {
  try {
    for await (const event of upstream.events) {
      if (event.type === "data" && draft.add(event.data) === "done") break;
    }
    const answer = draft.finish();
    await onEnd({ type: "complete", answer });
    return answer;
  } catch (error) {
    await onEnd(endOf(error, draft));
    throw error;
  }
}

/**
 * Streams the answer as it comes. The last word waits until the end is dealt with, so a client that saw it finds the
 * answer in the cache; a stream that breaks ends with an `error` event instead.
 */
export function stream(
  call: Call,
  parts: RelayParts,
  { headers, keepAliveMs, stallMs, writer }: StreamOptions,
): Response {
  const onGone = (): void => parts.upstream.abort(new ClientGone());
  const client = new ClientStream({ keepAliveMs, stallMs, onGone });
  call.continuesIn(pump(parts, client, writer));
  return new Response(client.readable, { headers: { ...headers, ...SSE_HEADERS } });
}

async function pump({ upstream, draft, onEnd }: RelayParts, client: ClientStream, writer: EventWriter): Promise<void> {
  try {
    for await (const event of upstream.events) {
      if (event.type === "queued") {
        await client.write(sseQueued(event.position));
        continue;
      }
      const role = draft.add(event.data);
      if (role === "done") break;
      const written = writer.write(event.data, role, draft.eventId);
      if (written !== undefined) await client.write(written);
    }
    const answer = draft.finish();
    await onEnd({ type: "complete", answer });
    // It was complete, whether or not the client still takes the last word.
    await client.write(writer.end(draft.eventId)).catch(() => undefined);
  } catch (error) {
    const end = endOf(error, draft);
    await onEnd(end);
    if (end.type === "broken") await client.write(writer.break(end.error.envelope)).catch(() => undefined);
  }
  await client.close();
}

/** What a failure means for the answer; `draft` is absent when nothing had come yet. */
export function endOf(error: unknown, draft?: Drafting): RelayEnd {
  if (error instanceof ClientGone) return { type: "aborted", answerTokens: draft?.answerTokens ?? 0 };
  return { type: "broken", error: toColdpathError(error) };
}
