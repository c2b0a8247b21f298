/**
 * Prompt lookup: guesses the next tokens by finding where the last few have stood before, in prompt or answer. Costs
 * microseconds and is often right where an answer repeats its prompt (summaries, edits, code). Whether a guess is worth
 * its place in a step is judged here too, by how the sequence's guesses have fared; running it is the engine's.
 *
 * Source: Apoorv Saxena, "Prompt Lookup Decoding", 2023.
 */

/** Tokens at the end that must have stood before: the longer match is tried first, it is right more often. */
const MATCH_TOKENS = [4, 3, 2] as const;

/**
 * What tends to follow the last tokens.
 *
 * @param tokens - everything the sequence has, the newest last
 * @returns a view of at most `max` tokens, empty when the end is new
 */
export function proposeDraft(tokens: Int32Array, max: number): Int32Array {
  for (const length of MATCH_TOKENS) {
    const end = findEarlier(tokens, length);
    if (end > 0) return tokens.subarray(end, Math.min(end + max, tokens.length));
  }
  return tokens.subarray(0, 0);
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

/** What earlier drafts are multiplied by at each new one: the last five or so count. */
const MEMORY = 0.8;
/** A step without a draft forgets a little, so that a sequence that was hard to guess is tried again some day. */
const FORGIVING = 0.98;

/** How a sequence's guesses have fared: of the tokens that were tried, how many were right. Begins undecided. */
export class DraftRecord {
  #right = 1;
  #tried = 2;

  /** The probability that the next guessed token is right. */
  get acceptance(): number {
    return this.#right / this.#tried;
  }

  /** @param right - how many tokens of a draft were right before the first wrong one */
  note({ right, drafted }: { readonly right: number; readonly drafted: number }): void {
    this.#right = this.#right * MEMORY + right;
    this.#tried = this.#tried * MEMORY + Math.min(right + 1, drafted);
  }

  /** A step in which nothing was drafted. */
  forgive(): void {
    this.#right = 1 + (this.#right - 1) * FORGIVING;
    this.#tried = 2 + (this.#tried - 2) * FORGIVING;
  }
}

export interface DraftCost {
  /** Rows that decode in the same step and gain nothing from a draft. */
  readonly others: number;
  readonly acceptance: number;
  /** Most tokens to draft. */
  readonly max: number;
  /** How long a step with so many drafted tokens takes, in any unit. */
  readonly predict: (drafted: number) => number;
}

/** The length of draft that gives most tokens per time, all rows counted; 0 where none pays. */
export function worthwhileDraft({ others, acceptance, max, predict }: DraftCost): number {
  let best = 0;
  let bestRate = (others + 1) / predict(0);
  let expected = 1;
  let chance = 1;
  for (let drafted = 1; drafted <= max; drafted++) {
    chance *= acceptance;
    expected += chance;
    const rate = (others + expected) / predict(drafted);
    if (rate > bestRate) {
      best = drafted;
      bestRate = rate;
    }
  }
  return best;
}
