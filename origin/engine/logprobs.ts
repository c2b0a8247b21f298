/**
 * How likely the model itself found the chosen token and the best alternatives: the natural logarithm of the softmax of
 * its logits, before temperature, penalties, bias and grammar, which are the caller's wishes and no opinion of the
 * model's. vLLM's default and llama.cpp's `logprobs` mean the same. Knows nothing of text.
 *
 * Only rows that ask pay: one pass for the sum, and one over the logits for the best few.
 */
import { decay } from "./sample.ts";

/** A token's and its best alternatives' log probabilities, the likeliest first; the token itself may be among them. */
export interface TokenLogprobs {
  readonly logprob: number;
  readonly top: readonly { readonly token: number; readonly logprob: number }[];
}

/** OpenAI's limit; also what keeps the insertion below short. */
const TOP_LOGPROBS_MAX = 20;

/** What can't be generated at all; JSON has no minus infinity. OpenAI's number for the same. */
const IMPOSSIBLE = -9999;

/** Observes one row at a time, before the sampler changes its logits; owns the scratch memory for one vocabulary. */
export class LogprobReader {
  readonly #logits: Float32Array;
  readonly #topIds = new Int32Array(TOP_LOGPROBS_MAX);
  readonly #topLogits = new Float64Array(TOP_LOGPROBS_MAX);
  #top = 0;
  /** The logarithm of the softmax's denominator. */
  #logSum = 0;

  constructor(vocabSize: number) {
    this.#logits = new Float32Array(vocabSize);
  }

  /**
   * Takes one row's logits as the model gave them.
   *
   * @param count - how many of the best tokens are asked for, 0 to `TOP_LOGPROBS_MAX`
   */
  observe(logits: Float32Array, count: number): void {
    this.#logits.set(logits);
    this.#findBest(Math.max(count, 1));
    this.#top = count;
    const max = this.#topLogits[0] ?? 0;
    let sum = 0;
    for (let id = 0; id < logits.length; id++) sum += decay(max - (logits[id] ?? 0));
    this.#logSum = max + Math.log(sum);
  }

  /** What was observed, for the token that was chosen then. */
  read(token: number): TokenLogprobs {
    const top = Array.from(this.#topIds.subarray(0, this.#top), (id) => ({ token: id, logprob: this.#logprob(id) }));
    return { logprob: this.#logprob(token), top };
  }

  #logprob(token: number): number {
    return Math.max((this.#logits[token] ?? -Infinity) - this.#logSum, IMPOSSIBLE);
  }

  /** Keeps a sorted list by insertion: almost every logit is below its last and costs one comparison. */
  #findBest(count: number): void {
    const ids = this.#topIds;
    const best = this.#topLogits.fill(-Infinity);
    for (let id = 0; id < this.#logits.length; id++) {
      const logit = this.#logits[id] ?? 0;
      if (logit <= (best[count - 1] ?? 0)) continue;
      let place = count - 1;
      for (; place > 0 && (best[place - 1] ?? 0) < logit; place--) {
        best[place] = best[place - 1] ?? 0;
        ids[place] = ids[place - 1] ?? 0;
      }
      best[place] = logit;
      ids[place] = id;
    }
  }
}
