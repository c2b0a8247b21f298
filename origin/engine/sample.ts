/**
 * Logits to a token, for one row: logit bias and penalties, then greedy, or temperature, top-k, top-p and a draw. Knows
 * nothing of batches, of what a token means, or of when to stop.
 *
 * The candidates are never sorted as a whole. Top-k and top-p both ask for "the heaviest, until their sum reaches a
 * target" (a sum of ones, or of probability), so one pass drops every candidate into a bucket by its distance from the
 * best logit, the bucket in which the target falls is found, and only that bucket is sorted. The result is exact; ties
 * go to the lower token id. (A full sort of 49k logits takes 22 ms, three steps of the whole model.)
 */
import type { Random } from "./random.ts";

/** How a sequence chooses its tokens. */
export interface Sampling {
  /** 0 takes the best token. Otherwise logits are divided by it. */
  readonly temperature: number;
  /** Keep only this many of the best tokens; 0 keeps all. */
  readonly topK: number;
  /** Keep only the best tokens that together have this probability, in (0, 1]; 1 keeps all. */
  readonly topP: number;
  /** Subtracted from the logit of every token already generated. */
  readonly presencePenalty: number;
  /** Subtracted once for every time that the token was generated. */
  readonly frequencyPenalty: number;
  /** Token and what is added to its logit. */
  readonly logitBias: readonly (readonly [token: number, bias: number])[];
  readonly seed: number;
}

/** What a row brings along from its earlier tokens. */
export interface SamplingHistory {
  readonly random: Random;
  /** How often each token was generated; only kept by rows with a penalty. */
  readonly counts: ReadonlyMap<number, number>;
}

/** Below this a division by the temperature overflows before it could change the choice. */
const GREEDY_BELOW = 1e-5;

/** Buckets of 1/16 logit each, so that 64 logits below the best are told apart; the last bucket takes the rest. */
const BUCKETS = 1024;
const BUCKETS_PER_LOGIT = 16;

/** Samples rows one after the other; owns the scratch memory for one vocabulary. */
export class Sampler {
  readonly #ids: Int32Array;
  readonly #weights: Float64Array;
  readonly #sums = new Float64Array(BUCKETS);

  constructor(vocabSize: number) {
    this.#ids = new Int32Array(vocabSize);
    this.#weights = new Float64Array(vocabSize);
  }

  /**
   * Chooses one row's next token.
   *
   * @param logits - `[vocabSize]`; biased and penalised in place, because the runtime overwrites it anyway
   * @returns the token, or `undefined` when the logits hold a NaN or no finite maximum
   */
  sample(logits: Float32Array, sampling: Sampling, history: SamplingHistory): number | undefined {
    adjust(logits, sampling, history.counts);
    const best = findBest(logits);
    if (best === undefined || sampling.temperature < GREEDY_BELOW) return best;

    const scale = 1 / sampling.temperature;
    const max = logits[best] ?? 0;
    let kept = this.#keepAll();
    if (sampling.topK > 0 && sampling.topK < kept) {
      kept = this.#keepHeaviest(logits, { kept, max, target: sampling.topK, by: "count" });
    }
    let total = this.#weigh(logits, { kept, max, scale });
    if (sampling.topP < 1) {
      kept = this.#keepHeaviest(logits, { kept, max, target: sampling.topP * total, by: "weight" });
      total = this.#sum(kept);
    }
    return this.#draw(kept, history.random() * total);
  }

  #keepAll(): number {
    for (let id = 0; id < this.#ids.length; id++) this.#ids[id] = id;
    return this.#ids.length;
  }

  /** Fills the weights of the kept candidates: their probabilities, but for a common factor. */
  #weigh(logits: Float32Array, { kept, max, scale }: { kept: number; max: number; scale: number }): number {
    let total = 0;
    for (let i = 0; i < kept; i++) {
      const id = this.#ids[i] ?? 0;
      const weight = Math.exp(((logits[id] ?? 0) - max) * scale);
      this.#weights[id] = weight;
      total += weight;
    }
    return total;
  }

  /** Narrows the candidates to the heaviest, the last of which lets their sum reach the target. */
  #keepHeaviest(
    logits: Float32Array,
    { kept, max, target, by }: { kept: number; max: number; target: number; by: "count" | "weight" },
  ): number {
    const ids = this.#ids;
    const sums = this.#sums.fill(0);
    const counting = by === "count";
    for (let i = 0; i < kept; i++) {
      const id = ids[i] ?? 0;
      const bucket = bucketOf(max - (logits[id] ?? 0));
      sums[bucket] = (sums[bucket] ?? 0) + (counting ? 1 : (this.#weights[id] ?? 0));
    }
    let sum = 0;
    let rim = 0;
    while (rim < BUCKETS - 1 && sum + (sums[rim] ?? 0) < target) sum += sums[rim++] ?? 0;

    let inside = 0;
    const onRim: number[] = [];
    for (let i = 0; i < kept; i++) {
      const id = ids[i] ?? 0;
      const bucket = bucketOf(max - (logits[id] ?? 0));
      if (bucket < rim) ids[inside++] = id;
      else if (bucket === rim) onRim.push(id);
    }
    onRim.sort((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0) || a - b);
    for (const id of onRim) {
      if (sum >= target) break;
      ids[inside++] = id;
      sum += counting ? 1 : (this.#weights[id] ?? 0);
    }
    return inside;
  }

  #sum(kept: number): number {
    let total = 0;
    for (let i = 0; i < kept; i++) total += this.#weights[this.#ids[i] ?? 0] ?? 0;
    return total;
  }

  #draw(kept: number, at: number): number {
    let left = at;
    let last = this.#ids[0] ?? 0;
    for (let i = 0; i < kept; i++) {
      const id = this.#ids[i] ?? 0;
      const weight = this.#weights[id] ?? 0;
      if (weight > 0) last = id;
      left -= weight;
      if (left < 0) return id;
    }
    // Rounding used up the whole line: the last candidate that could have been drawn.
    return last;
  }
}

/** OpenAI's formula: logit + bias − count · frequency − [count > 0] · presence, over generated tokens only. */
function adjust(logits: Float32Array, sampling: Sampling, counts: ReadonlyMap<number, number>): void {
  for (const [token, bias] of sampling.logitBias) logits[token] = (logits[token] ?? 0) + bias;
  if (sampling.presencePenalty === 0 && sampling.frequencyPenalty === 0) return;
  for (const [token, count] of counts) {
    logits[token] = (logits[token] ?? 0) - count * sampling.frequencyPenalty - sampling.presencePenalty;
  }
}

/** The best token, the lowest id among equals; `undefined` when the logits can't be trusted. */
function findBest(logits: Float32Array): number | undefined {
  let best = 0;
  let max = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] ?? NaN;
    if (logit > max) {
      max = logit;
      best = id;
    } else if (Number.isNaN(logit)) return undefined;
  }
  return Number.isFinite(max) ? best : undefined;
}

function bucketOf(distance: number): number {
  const bucket = distance * BUCKETS_PER_LOGIT;
  return bucket < BUCKETS ? Math.floor(bucket) : BUCKETS - 1;
}
