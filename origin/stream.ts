/**
 * Token ids to text, and text to a body: the way of an answer out of the engine. Knows nothing of the request or of
 * what sends the body.
 */
import type { ColdpathError } from "../shared/errors.ts";
import { SSE_DONE, sseData, sseError } from "../shared/sse.ts";
import type { Generation } from "./engine/client.ts";
import { StopFilter } from "./stop-strings.ts";
import { type TextToken, TokenLedger } from "./token-ledger.ts";
import type { Detokenizer } from "./tokenize.ts";

/** `generated` counts every token behind the text so far, an end token included. */
export type TextEvent =
  | {
      readonly type: "text";
      readonly text: string;
      /** Those that begin in the text; `undefined` where no log probabilities were asked for. */
      readonly tokens: readonly TextToken[] | undefined;
      readonly generated: number;
    }
  | { readonly type: "finish"; readonly reason: "stop" | "length"; readonly generated: number };

/**
 * Reads a generation as text: whole characters only, cut at the first stop string. Leaving the loop, by a stop string
 * or otherwise, cancels the generation.
 */
export async function* readText(
  generation: Generation,
  { detokenizer, stops }: { readonly detokenizer: Detokenizer; readonly stops: readonly string[] },
): AsyncGenerator<TextEvent, void, void> {
  const filter = new StopFilter(stops);
  let ledger: TokenLedger | undefined;
  let generated = 0;
  for await (const event of generation) {
    if (event.type === "finish") {
      const rest = filter.push(detokenizer.flush());
      const text = rest.stopped ? rest.text : rest.text + filter.flush();
      const tokens = ledger?.release(text).concat(rest.stopped ? [] : ledger.rest());
      yield { type: "text", text, tokens, generated: event.generated };
      yield { type: "finish", reason: rest.stopped ? "stop" : event.reason, generated: event.generated };
      return;
    }
    let text = "";
    for (const [i, token] of event.tokens.entries()) {
      generated += 1;
      const piece = detokenizer.push(token);
      const logprobs = event.logprobs[i];
      if (logprobs !== undefined) (ledger ??= new TokenLedger()).add(token, logprobs, piece);
      const cut = filter.push(piece);
      text += cut.text;
      if (!cut.stopped) continue;
      yield { type: "text", text, tokens: ledger?.release(text), generated };
      yield { type: "finish", reason: "stop", generated };
      return;
    }
    yield { type: "text", text, tokens: ledger?.release(text), generated };
  }
}

/** What a stream's body is made from. */
export interface EventStreamSource {
  /** Each becomes one event. */
  readonly chunks: AsyncIterable<unknown>;
  /** The client went away: stop making chunks. */
  readonly cancel: () => void;
  /** What the client is told of whatever broke the stream. */
  readonly explain: (thrown: unknown) => ColdpathError;
}

/**
 * A body of server-sent events. It is written as the chunks come, not as the client reads: a slow reader must not hold
 * a row, and what waits for it is one answer at most. A stream that breaks ends with an `error` event, never `[DONE]`.
 */
export function createEventStream({ chunks, cancel, explain }: EventStreamSource): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let open = true;
  async function write(controller: ReadableStreamDefaultController<Uint8Array>): Promise<void> {
    const send = (text: string) => open && controller.enqueue(encoder.encode(text));
    try {
      for await (const chunk of chunks) send(sseData(chunk));
      send(sseData(SSE_DONE));
    } catch (thrown) {
      send(sseError(explain(thrown).envelope));
    }
    if (open) controller.close();
  }
  return new ReadableStream({
    start(controller) {
      void write(controller);
    },
    cancel() {
      open = false;
      cancel();
    },
  });
}
