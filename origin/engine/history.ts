/**
 * What one sequence remembers of its tokens for sampling: its random stream, and the counts and sets that its penalties
 * ask for and nothing more. Knows no formula.
 */
import { type Random, createRandom } from "./random.ts";
import type { Sampling, SamplingHistory } from "./sample.ts";

export class TokenHistory implements SamplingHistory {
  readonly random: Random;
  readonly counts = new Map<number, number>();
  readonly seen: Set<number>;
  readonly #counting: boolean;
  readonly #seeing: boolean;
  #generated = 0;

  constructor(sampling: Sampling, prompt: Iterable<number>) {
    this.random = createRandom(sampling.seed);
    this.#counting = sampling.presencePenalty !== 0 || sampling.frequencyPenalty !== 0;
    this.#seeing = sampling.repetitionPenalty !== 1;
    this.seen = new Set(this.#seeing ? prompt : []);
  }

  get generated(): number {
    return this.#generated;
  }

  /** Takes the token that was chosen. */
  note(token: number): void {
    this.#generated += 1;
    if (this.#counting) this.counts.set(token, (this.counts.get(token) ?? 0) + 1);
    if (this.#seeing) this.seen.add(token);
  }
}
