/**
 * Token ids to text, and text to a body: the way of an answer out of the engine. Knows nothing of the request or of
 * what sends the body.
 */
import type { FinishReason, ToolCallDelta } from "../../shared/completion-response.ts";
import type { GenerationEvent } from "../engine/client.ts";
import { StopFilter } from "./stop-strings.ts";
import { type TextToken, TokenLedger } from "./token-ledger.ts";
import type { Detokenizer } from "../tokenize/tokenizer.ts";

/** `generated` counts every token behind the text so far, an end token included. */
export type TextEvent =
  | {
      readonly type: "text";
      readonly text: string;
      /** Those that begin in the text; `undefined` where no log probabilities were asked for. */
      readonly tokens: readonly TextToken[] | undefined;
      /** Calls of tools, or more of one. */
      readonly calls?: readonly ToolCallDelta[];
      readonly generated: number;
    }
  | { readonly type: "finish"; readonly reason: FinishReason; readonly generated: number };

/** Reads one sequence's tokens as text: whole characters only, cut at the first stop string. */
export class TextReader {
  readonly #detokenizer: Detokenizer;
  readonly #filter: StopFilter;
  #ledger: TokenLedger | undefined;
  #generated = 0;

  constructor({ detokenizer, stops }: { readonly detokenizer: Detokenizer; readonly stops: readonly string[] }) {
    this.#detokenizer = detokenizer;
    this.#filter = new StopFilter(stops);
  }

  /** What an event brings. After `finish` nothing more is wanted, even where the sequence would go on. */
  read(event: Extract<GenerationEvent, { readonly type: "token" | "finish" }>): readonly TextEvent[] {
    if (event.type === "finish") return this.#end(event.reason, event.generated);

    this.#generated += 1;
    const generated = this.#generated;
    const piece = this.#detokenizer.push(event.token);
    if (event.logprobs !== undefined) (this.#ledger ??= new TokenLedger()).add(event.token, event.logprobs, piece);
    const { text, stopped } = this.#filter.push(piece);
    const said = { type: "text", text, tokens: this.#ledger?.release(text), generated } as const;
    return stopped ? [said, { type: "finish", reason: "stop", generated }] : [said];
  }

  #end(reason: "stop" | "length", generated: number): readonly TextEvent[] {
    const rest = this.#filter.push(this.#detokenizer.flush());
    const text = rest.stopped ? rest.text : rest.text + this.#filter.flush();
    const tokens = this.#ledger?.release(text).concat(rest.stopped ? [] : this.#ledger.rest());
    return [
      { type: "text", text, tokens, generated },
      { type: "finish", reason: rest.stopped ? "stop" : reason, generated },
    ];
  }
}

/** What a stream's body is made from. */
export interface EventStreamSource {
  readonly first: StreamPiece;
  /** Waits until there is more to send, and never throws. */
  readonly next: () => Promise<StreamPiece>;
  /** The client went away: nothing more is wanted. */
  readonly cancel: () => void;
  /** Called once, whichever way the stream has ended. */
  readonly closed: () => void;
  /** A client that takes nothing for this long, in milliseconds, counts as gone. */
  readonly stallMs: number;
}

/** Text to send, possibly none; `last` with the end of it. */
export interface StreamPiece {
  readonly text: string;
  readonly last: boolean;
}

/**
 * A body that is made as fast as the client takes it: what a slow one has not taken yet stays in the answer, which all
 * its readers share, and is not copied for each of them.
 */
export function createEventStream(source: EventStreamSource): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let upcoming: StreamPiece | undefined = source.first;
  // One timer for all pieces, wound up again for each: a new one for every token costs a twentieth of the token's time.
  let stall: NodeJS.Timeout | undefined;
  /** While a piece lies there and the client has not asked for the next. */
  let waitsForClient = false;
  let open = true;
  const close = (): void => {
    open = false;
    clearTimeout(stall);
    source.closed();
  };
  return new ReadableStream({
    async pull(controller) {
      waitsForClient = false;
      // A piece without text is none: nobody would ask for the next.
      let piece = upcoming ?? (await source.next());
      upcoming = undefined;
      while (piece.text === "" && !piece.last) piece = await source.next();
      if (!open) return;
      controller.enqueue(encoder.encode(piece.text));
      if (piece.last) {
        controller.close();
        return close();
      }
      waitsForClient = true;
      const giveUp = () => {
        if (!waitsForClient) return;
        source.cancel();
        close();
        controller.error(new Error("the client takes nothing"));
      };
      if (stall === undefined) stall = setTimeout(giveUp, source.stallMs);
      else stall.refresh();
    },
    cancel() {
      source.cancel();
      close();
    },
  });
}
