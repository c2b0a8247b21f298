/**
 * Brings an answer from the origin to the client, event by event or collected, and says once how it ended. Whatever
 * happens on the way, `onEnd` runs exactly once: that is where answers are kept and slots go back.
 */
import { ColdpathError, toColdpathError } from "../shared/errors.ts";
import { SSE_DONE, SSE_HEADERS, sseData, sseError } from "../shared/sse.ts";
import type { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import type { Draft } from "./draft.ts";
import { ClientGone, type Upstream } from "./forward.ts";

/** How an answer ended, with what there is of it. */
export type RelayEnd =
  | { readonly type: "complete"; readonly answer: Answer }
  | { readonly type: "aborted"; readonly answerTokens: number }
  | { readonly type: "broken"; readonly error: ColdpathError };

interface RelayParts {
  readonly upstream: Upstream;
  readonly draft: Draft;
  /** Must not throw. */
  readonly onEnd: (end: RelayEnd) => Promise<void>;
}

/**
 * Collects the whole answer for a client that wants it in one piece.
 *
 * @throws {ColdpathError} where the origin fails
 */
export async function collect({ upstream, draft, onEnd }: RelayParts): Promise<Answer> {
  try {
    for await (const data of upstream.events) {
      if (draft.add(data) === "done") break;
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
 * Streams the answer as it comes. `[DONE]` waits until the end is dealt with, so a client that saw it finds the answer
 * in the cache; a stream that breaks ends with an `error` event and without `[DONE]`.
 */
export function stream(
  call: Call,
  parts: RelayParts,
  { includeUsage, headers }: { readonly includeUsage: boolean; readonly headers: Readonly<Record<string, string>> },
): Response {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  call.continuesIn(pump(parts, writable.getWriter(), includeUsage));
  return new Response(readable, { headers: { ...headers, ...SSE_HEADERS } });
}

async function pump(
  { upstream, draft, onEnd }: RelayParts,
  writer: WritableStreamDefaultWriter<Uint8Array>,
  includeUsage: boolean,
): Promise<void> {
  const encoder = new TextEncoder();
  // Hears that the client is gone also while the model is silent.
  writer.closed.catch(() => upstream.abort(new ClientGone()));
  const write = async (text: string): Promise<void> => {
    try {
      await writer.write(encoder.encode(text));
    } catch (cause) {
      throw new ClientGone("the client closed the connection", { cause });
    }
  };

  try {
    for await (const data of upstream.events) {
      const role = draft.add(data);
      if (role === "done") break;
      if (role === "text" || includeUsage) await write(sseData(data));
    }
    const answer = draft.finish();
    await onEnd({ type: "complete", answer });
    await writer.write(encoder.encode(sseData(SSE_DONE))).catch(() => undefined); // It was complete all the same.
  } catch (error) {
    const end = endOf(error, draft);
    await onEnd(end);
    if (end.type === "broken") await write(sseError(end.error.envelope)).catch(() => undefined);
  }
  // A client that is gone can't be told the end either.
  await writer.close().catch(() => undefined);
}

/** What a failure means for the answer; `draft` is absent when nothing had come yet. */
export function endOf(error: unknown, draft?: Draft): RelayEnd {
  if (error instanceof ClientGone) return { type: "aborted", answerTokens: draft?.answerTokens ?? 0 };
  return { type: "broken", error: toColdpathError(error) };
}
