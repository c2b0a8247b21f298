/**
 * Prompt lookup: guesses the next tokens by finding where the last few have stood before, in prompt or answer. Costs
 * microseconds and is often right where an answer repeats its prompt (summaries, edits, code). Whether a guess is worth
 * its place in a step is the scheduler's to say, running it the engine's.
 *
 * How far a sequence's guesses can be trusted is learned without running any: each token that is sampled says whether the
 * guess before it would have been right.
 *
 * Source: Apoorv Saxena, "Prompt Lookup Decoding", 2023.
 */

/** Fewer tokens stand everywhere. */
const MATCH_TOKENS_MIN = 2;
/** A longer match is right no more often. */
const MATCH_TOKENS_MAX = 8;

/** An earlier place where the last tokens stood. */
export interface Match {
  /** Behind its last token: what stands there is the guess. */
  readonly end: number;
  /** How many tokens before it are those at the end, as far as that is looked at. */
  readonly length: number;
}

/**
 * Where most of the last tokens stood before; of several such places the latest.
 *
 * @param tokens - the newest last
 * @returns `undefined` where the last two never stood before
 */
export function findMatch(tokens: Int32Array): Match | undefined {
  const last = tokens[tokens.length - 1];
  if (last === undefined) return undefined;
  let best: Match | undefined;
  for (let at = tokens.lastIndexOf(last, -2); at > 0; at = tokens.lastIndexOf(last, at - 1)) {
    const length = matchedBefore(tokens, at + 1);
    if (length > (best?.length ?? MATCH_TOKENS_MIN - 1)) best = { end: at + 1, length };
    if (length === MATCH_TOKENS_MAX) break;
  }
  return best;
}

function matchedBefore(tokens: Int32Array, end: number): number {
  const most = Math.min(end, MATCH_TOKENS_MAX);
  let length = 1;
  while (length < most && tokens[end - 1 - length] === tokens[tokens.length - 1 - length]) length += 1;
  return length;
}

/**
 * What followed a match. Where that reaches the end, the guess goes on as it began: what came round twice may come round
 * again.
 *
 * @param count - of guessed tokens, at least 1
 */
export function guessNext(tokens: Int32Array, { end }: Match, count: number): Int32Array {
  const period = tokens.length - end;
  return Int32Array.from({ length: count }, (_, i) => tokens[end + (i % period)] ?? 0);
}

/**
 * Matches that fare alike, by their length. Each class begins as if so many of its guesses had been right and seen: what the
 * default model's were in stories, explanations and copies, at temperatures of 0 and 0.8, rather too low (right of all: 0.26
 * to 0.75 behind two tokens, 0.4 to 1 behind three, 0.5 to 0.9 behind four to seven, 0.67 to 0.99 behind more).
 */
const CLASSES = [
  { from: MATCH_TOKENS_MAX, right: 3.2, seen: 4 },
  { from: 4, right: 2.2, seen: 4 },
  { from: 3, right: 1.6, seen: 4 },
  { from: MATCH_TOKENS_MIN, right: 1.2, seen: 4 },
] as const;

/** What earlier guesses of a class are multiplied by at each new one: the last ten or so count. */
const MEMORY = 0.9;

/** How the guesses of one sequence fare. */
export class GuessRecord {
  readonly #classes = CLASSES.map(({ right, seen }) => ({ right, seen }));
  #match: Match | undefined;
  #guess = -1;

  /** What the next guess is made from; `undefined` where there is none. */
  get match(): Match | undefined {
    return this.#match;
  }

  /** The probability that a token guessed behind so long a match is right. */
  acceptance(matched: number): number {
    const { right, seen } = this.#classOf(matched);
    return right / seen;
  }

  /**
   * A token was sampled: says how the guess before it fared, and what can be guessed now.
   *
   * @param tokens - the newest last
   */
  observe(tokens: Int32Array): void {
    if (this.#match !== undefined) {
      const one = this.#classOf(this.#match.length);
      one.right = one.right * MEMORY + (tokens[tokens.length - 1] === this.#guess ? 1 : 0);
      one.seen = one.seen * MEMORY + 1;
    }
    this.#match = findMatch(tokens);
    this.#guess = this.#match === undefined ? -1 : (tokens[this.#match.end] ?? -1);
  }

  #classOf(matched: number): { right: number; seen: number } {
    const index = CLASSES.findIndex(({ from }) => matched >= from);
    const found = this.#classes[index];
    if (found === undefined) throw new RangeError(`a match of ${matched} tokens is none`);
    return found;
  }
}
