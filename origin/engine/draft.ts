/**
 * Prompt lookup: guesses the next tokens by finding where the last few have stood before, in prompt or answer. Costs
 * microseconds and is often right where an answer repeats its prompt (summaries, edits, code). How a sequence's guesses
 * have fared is noted here too; whether one is worth its place in a step is the scheduler's to say, running it the
 * engine's.
 *
 * Source: Apoorv Saxena, "Prompt Lookup Decoding", 2023.
 */

/** Tokens at the end that must have stood before: the longer match is tried first, it is right more often. */
const MATCH_TOKENS = [4, 3, 2] as const;

/**
 * What followed the last tokens the latest time that they stood there. Where that reaches the end, the guess goes on as it
 * began: what came round twice may come round again.
 *
 * @param tokens - the newest last
 * @param count - of guessed tokens, at least 1
 * @returns so many, or `undefined` where the last tokens never stood before
 */
export function guessNext(tokens: Int32Array, count: number): Int32Array | undefined {
  for (const length of MATCH_TOKENS) {
    const end = findEarlier(tokens, length);
    if (end === 0) continue;
    const period = tokens.length - end;
    return Int32Array.from({ length: count }, (_, i) => tokens[end + (i % period)] ?? 0);
  }
  return undefined;
}

/** Behind the latest earlier place of the last `length` tokens; 0 when there is none. */
function findEarlier(tokens: Int32Array, length: number): number {
  const start = tokens.length - length;
  const last = tokens[tokens.length - 1];
  for (let end = tokens.length - 1; end >= length; end--) {
    if (tokens[end - 1] === last && matches(tokens, { at: end - length, with: start, length })) return end;
  }
  return 0;
}

function matches(tokens: Int32Array, pair: { readonly at: number; readonly with: number; readonly length: number }) {
  for (let i = 0; i < pair.length; i++) if (tokens[pair.at + i] !== tokens[pair.with + i]) return false;
  return true;
}

/** What earlier guesses are multiplied by at each new one: the last five or so count. */
const MEMORY = 0.8;
/** A step without a guess forgets a little, so that a sequence that was hard to guess is tried again some day. */
const FORGIVING = 0.995;

/** How a sequence's guesses have fared. Begins undecided. */
export class GuessRecord {
  #right = 1;
  #tried = 2;

  /** The probability that the next guessed token is right, if those before it were. */
  get acceptance(): number {
    return this.#right / this.#tried;
  }

  note(isRight: boolean): void {
    this.#right = this.#right * MEMORY + (isRight ? 1 : 0);
    this.#tried = this.#tried * MEMORY + 1;
  }

  /** A step in which nothing was guessed. */
  forgive(): void {
    this.#right = 1 + (this.#right - 1) * FORGIVING;
    this.#tried = 2 + (this.#tried - 2) * FORGIVING;
  }
}
