/**
 * Prompts of a given length in tokens that share no beginning with each other, so that nothing can be reused by
 * accident. Drawn from a seed, so that every run and every contender reads the same ones.
 */
import { createRandom, type Random } from "../../../origin/engine/random.ts";

/** Each is one token with its space in front, in the vocabularies of GPT-2's kind. */
const WORDS = (
  "time year people way day man thing woman life child world school state family student group country problem hand " +
  "part place case week company system program question work government number night point home water room mother " +
  "area money story fact month lot right study book eye job word business issue side kind head house service friend"
).split(" ");

/** Ids of ordinary tokens: GPT-2's kind of vocabulary begins with control tokens and single bytes. */
const FIRST_ORDINARY_TOKEN = 300;

export class Prompts {
  readonly #random: Random;
  readonly #vocabSize: number;

  constructor({ seed, vocabSize }: { readonly seed: number; readonly vocabSize: number }) {
    this.#random = createRandom(seed);
    this.#vocabSize = vocabSize;
  }

  /** `tokens` random ids: what a token costs does not depend on which it is. */
  ids(tokens: number): number[] {
    const ordinary = this.#vocabSize - FIRST_ORDINARY_TOKEN;
    return Array.from({ length: tokens }, () => FIRST_ORDINARY_TOKEN + Math.floor(this.#random() * ordinary));
  }

  /** Random words, about one token each. */
  words(count: number): string {
    return Array.from({ length: count }, () => WORDS[Math.floor(this.#random() * WORDS.length)] ?? "").join(" ");
  }
}
