/**
 * Keeps an answer's tokens in step with its text: a stop string that could begin holds text back, and a token is told of
 * only with the text that it begins in. Only answers with log probabilities have one. Knows no wire format.
 */
import type { TokenLogprobs } from "../engine/logprobs.ts";

/** A token of the answer. */
export interface TextToken extends TokenLogprobs {
  readonly id: number;
  /** Where its first character begins in the answer's text, in Unicode code points. */
  readonly start: number;
}

export class TokenLedger {
  #waiting: TextToken[] = [];
  #decoded = 0;
  #released = 0;

  /** @param piece - the text that became whole with this token */
  add(id: number, logprobs: TokenLogprobs, piece: string): void {
    this.#waiting.push({ ...logprobs, id, start: this.#decoded });
    this.#decoded += countCharacters(piece);
  }

  /** The tokens that begin in the text up to the end of this piece of it. */
  release(text: string): readonly TextToken[] {
    this.#released += countCharacters(text);
    const first = this.#waiting.findIndex(({ start }) => start >= this.#released);
    return this.#waiting.splice(0, first < 0 ? this.#waiting.length : first);
  }

  /** The answer is over, and not by a stop string: what is left, tokens without text too. */
  rest(): readonly TextToken[] {
    return this.#waiting.splice(0);
  }
}

function countCharacters(text: string): number {
  return Array.from(text).length;
}
