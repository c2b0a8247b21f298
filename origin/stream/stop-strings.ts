/**
 * Cuts an answer's text at the first stop string, wherever the tokens' boundaries fall. Lives on the text's side of the
 * engine, which knows ids only.
 */

export interface StopCut {
  /** Text that is safe to send: no stop string can begin in it. */
  readonly text: string;
  /** True from the piece on in which a stop string was completed; neither it nor what follows is ever sent. */
  readonly stopped: boolean;
}

export class StopFilter {
  readonly #stops: readonly string[];
  /** The end of the text so far, as far as it could be the beginning of a stop string. */
  #held = "";

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /** Takes the next piece of text. */
  push(piece: string): StopCut {
    // Most requests have none, and this runs for every token of every stream.
    if (this.#stops.length === 0) return { text: piece, stopped: false };
    const text = this.#held + piece;
    const cut = this.#findCut(text);
    if (cut !== undefined) {
      this.#held = "";
      return { text: text.slice(0, cut), stopped: true };
    }
    const held = Math.max(0, ...this.#stops.map((stop) => overlap(text, stop)));
    this.#held = text.slice(text.length - held);
    return { text: text.slice(0, text.length - held), stopped: false };
  }

  /** The text has ended without a stop string: what was held back. */
  flush(): string {
    return this.#held;
  }

  /**
   * Where the stop string that is completed first begins; of two completed at once, the longer. So the result does not
   * depend on how the text was cut into pieces.
   */
  #findCut(text: string): number | undefined {
    const hits = this.#stops
      .map((stop) => ({ start: text.indexOf(stop), length: stop.length }))
      .filter(({ start }) => start >= 0)
      .toSorted((a, b) => a.start + a.length - (b.start + b.length) || a.start - b.start);
    return hits[0]?.start;
  }
}

/** Length of the longest end of `text` that is a proper beginning of `stop`. */
export function overlap(text: string, stop: string): number {
  for (let length = Math.min(text.length, stop.length - 1); length > 0; length--) {
    if (text.endsWith(stop.slice(0, length))) return length;
  }
  return 0;
}
