/**
 * Logits to a token, for one row: penalties, logit bias and what is forbidden, then greedy, or temperature, top-k, top-p,
 * min-p and a draw, in this order. Knows nothing of batches, of what a token means, or of when to stop.
 *
 * All of it runs between two steps of the model, for every row, so 49k candidates may be neither sorted (22 ms) nor
 * exponentiated one by one where it can be helped (0.4 ms). Each is dropped into a bucket by its distance from the best
 * logit, after the temperature, and most questions are answered by the buckets:
 *
 * - A draw from all candidates takes a bucket by an upper bound of its weight, one of its members evenly, and keeps that
 *   one with the probability by which the bound is too high for it, else draws again: exact rejection sampling, 1.03
 *   attempts on average.
 * - Top-k and top-p ask for "the heaviest, until their sum reaches a target", a sum of ones or of probability. The bucket
 *   in which the target falls is found, and only that one is sorted. Ties go to the lower token id.
 * - Min-p asks for "at least this share of the best one's probability", which is a distance and needs no sum.
 *
 * The last bucket takes what is e^-64 times as likely as the best token or less. In doubles its whole weight vanishes
 * beside 1, so it is left out everywhere.
 */
import type { Random } from "./random.ts";

/** How a sequence chooses its tokens. */
export interface Sampling {
  /** 0 takes the best token. Otherwise logits are divided by it. */
  readonly temperature: number;
  /** Keep only this many of the best tokens; 0 keeps all. */
  readonly topK: number;
  /** Keep only the best tokens that together have this probability, at least one, in [0, 1]; 1 keeps all. */
  readonly topP: number;
  /** Keep only tokens that have at least this share of the best one's probability, in [0, 1]; 0 keeps all. */
  readonly minP: number;
  /**
   * Above 1 discourages every token of the prompt and the answer so far: positive logits are divided by it, negative ones
   * multiplied. 1 changes nothing.
   */
  readonly repetitionPenalty: number;
  /** Subtracted from the logit of every token already generated. */
  readonly presencePenalty: number;
  /** Subtracted once for every time that the token was generated. */
  readonly frequencyPenalty: number;
  /** Token and what is added to its logit. */
  readonly logitBias: readonly (readonly [token: number, bias: number])[];
  /** The model can't end its answer before it has this many tokens. */
  readonly minTokens: number;
  readonly seed: number;
}

/** What a row brings along from its earlier tokens. */
export interface SamplingHistory {
  readonly random: Random;
  /** How often each token was generated; only kept by rows with a penalty for it. */
  readonly counts: ReadonlyMap<number, number>;
  /** Every token of the prompt and the answer; only kept by rows with a repetition penalty. */
  readonly seen: ReadonlySet<number>;
  /** Tokens generated so far. */
  readonly generated: number;
}

/** Below this a division by the temperature overflows before it could change the choice. */
const GREEDY_BELOW = 1e-5;

const BUCKETS_PER_LOGIT = 16;
/** Also the last bucket, of those that can't be drawn. */
const BUCKETS = 64 * BUCKETS_PER_LOGIT;

/** The weight at each bucket's near edge, the highest in it. */
const EDGE_WEIGHTS = Float64Array.from({ length: BUCKETS }, (_, bucket) => Math.exp(-bucket / BUCKETS_PER_LOGIT));

/** Samples rows one after the other; owns the scratch memory for one vocabulary. */
export class Sampler {
  /** Candidates, of which some first ones are kept. */
  readonly #ids: Int32Array;
  /** What each kept candidate adds to a sum: one, or its weight. In the order of `#ids`. */
  readonly #amounts: Float64Array;
  /** Distance from the best logit, divided by the temperature, by token id. */
  readonly #distances: Float64Array;
  readonly #buckets: Uint16Array;
  readonly #sums = new Float64Array(BUCKETS + 1);
  readonly #endTokens: readonly number[];

  constructor({ vocabSize, endTokens }: { readonly vocabSize: number; readonly endTokens: readonly number[] }) {
    this.#endTokens = endTokens;
    this.#ids = new Int32Array(vocabSize);
    this.#amounts = new Float64Array(vocabSize);
    this.#distances = new Float64Array(vocabSize);
    this.#buckets = new Uint16Array(vocabSize);
  }

  /**
   * Chooses one row's next token.
   *
   * @param logits - `[vocabSize]`; biased and penalised in place, because the runtime overwrites it anyway
   * @param mask - a bit for every token, the lowest of the first word first; a token without its bit is not chosen
   * @returns the token, or `undefined` when the logits hold a NaN or no finite maximum
   */
  sample(logits: Float32Array, sampling: Sampling, history: SamplingHistory, mask?: Int32Array): number | undefined {
    adjust(logits, sampling, history);
    if (history.generated < sampling.minTokens) for (const end of this.#endTokens) logits[end] = -Infinity;
    if (mask !== undefined) forbid(logits, mask);
    const best = findBest(logits);
    if (best === undefined || sampling.temperature < GREEDY_BELOW) return best;

    this.#spread(logits, { max: logits[best] ?? 0, scale: 1 / sampling.temperature });
    const { topK, topP, minP } = sampling;
    const farthest = -Math.log(minP);
    if (topK === 0 && topP === 1) {
      if (minP === 0) return this.#drawFromAll(history.random);
      return this.#drawFromKept(this.#keepAllNear(farthest), history.random);
    }

    let kept = this.#keepAll();
    if (topK > 0) {
      for (let i = 0; i < kept; i++) this.#amounts[i] = 1;
      kept = this.#keepHeaviest(kept, topK);
    }
    if (topP < 1) kept = this.#keepHeaviest(kept, topP * this.#weigh(kept));
    if (minP > 0) kept = this.#keepNear(kept, farthest);
    return this.#drawFromKept(kept, history.random);
  }

  #spread(logits: Float32Array, { max, scale }: { readonly max: number; readonly scale: number }): void {
    const distances = this.#distances;
    const buckets = this.#buckets;
    for (let id = 0; id < logits.length; id++) {
      const distance = (max - (logits[id] ?? 0)) * scale;
      const bucket = distance * BUCKETS_PER_LOGIT;
      distances[id] = distance;
      buckets[id] = bucket < BUCKETS ? Math.trunc(bucket) : BUCKETS;
    }
  }

  #keepAll(): number {
    for (let id = 0; id < this.#ids.length; id++) this.#ids[id] = id;
    return this.#ids.length;
  }

  #keepAllNear(farthest: number): number {
    let kept = 0;
    for (let id = 0; id < this.#distances.length; id++) {
      if ((this.#distances[id] ?? Infinity) <= farthest) this.#ids[kept++] = id;
    }
    return kept;
  }

  #keepNear(kept: number, farthest: number): number {
    let inside = 0;
    for (let i = 0; i < kept; i++) {
      const id = this.#ids[i] ?? 0;
      if ((this.#distances[id] ?? Infinity) <= farthest) this.#ids[inside++] = id;
    }
    return inside;
  }

  /** Makes the kept candidates' weights their amounts; returns the sum. */
  #weigh(kept: number): number {
    let total = 0;
    for (let i = 0; i < kept; i++) {
      const id = this.#ids[i] ?? 0;
      const weight = decay(this.#distances[id] ?? 0);
      this.#amounts[i] = weight;
      total += weight;
    }
    return total;
  }

  /** Narrows the candidates to the heaviest, at least one, the last of which lets the sum of their amounts reach the target. */
  #keepHeaviest(kept: number, target: number): number {
    const ids = this.#ids;
    const sums = this.#sums.fill(0);
    for (let i = 0; i < kept; i++) {
      const bucket = this.#buckets[ids[i] ?? 0] ?? 0;
      sums[bucket] = (sums[bucket] ?? 0) + (this.#amounts[i] ?? 0);
    }
    let sum = 0;
    let rim = 0;
    while (rim < BUCKETS && sum + (sums[rim] ?? 0) < target) sum += sums[rim++] ?? 0;

    let inside = 0;
    const onRim: { readonly id: number; readonly amount: number; readonly distance: number }[] = [];
    for (let i = 0; i < kept; i++) {
      const id = ids[i] ?? 0;
      const bucket = this.#buckets[id] ?? 0;
      if (bucket < rim) ids[inside++] = id;
      else if (bucket === rim && rim < BUCKETS) {
        onRim.push({ id, amount: this.#amounts[i] ?? 0, distance: this.#distances[id] ?? 0 });
      }
    }
    onRim.sort((a, b) => a.distance - b.distance || a.id - b.id);
    for (const { id, amount } of onRim) {
      if (sum >= target && inside > 0) break;
      ids[inside++] = id;
      sum += amount;
    }
    return inside;
  }

  #drawFromKept(kept: number, random: Random): number {
    let left = random() * this.#weigh(kept);
    let last = 0;
    for (let i = 0; i < kept; i++) {
      const weight = this.#amounts[i] ?? 0;
      if (weight > 0) last = this.#ids[i] ?? 0;
      left -= weight;
      if (left < 0) break;
    }
    // The last one also where rounding used up the whole line.
    return last;
  }

  #drawFromAll(random: Random): number {
    const counts = this.#sums.fill(0);
    const buckets = this.#buckets;
    for (let id = 0; id < buckets.length; id++) {
      const bucket = buckets[id] ?? 0;
      counts[bucket] = (counts[bucket] ?? 0) + 1;
    }
    let total = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) total += (counts[bucket] ?? 0) * (EDGE_WEIGHTS[bucket] ?? 0);

    for (;;) {
      const bucket = this.#drawBucket(counts, random() * total);
      const id = this.#findMember(bucket, Math.floor(random() * (counts[bucket] ?? 0)));
      const excess = (this.#distances[id] ?? 0) - bucket / BUCKETS_PER_LOGIT;
      if (random() < expNegative(excess)) return id;
    }
  }

  /** The bucket at a point of the line that all buckets' bounds make up. */
  #drawBucket(counts: Float64Array, at: number): number {
    let left = at;
    let last = 0;
    for (let bucket = 0; bucket < BUCKETS; bucket++) {
      const count = counts[bucket] ?? 0;
      if (count === 0) continue;
      left -= count * (EDGE_WEIGHTS[bucket] ?? 0);
      last = bucket;
      if (left < 0) break;
    }
    return last;
  }

  /** The n-th member of a bucket that has more than n. */
  #findMember(bucket: number, n: number): number {
    let id = this.#buckets.indexOf(bucket);
    for (let i = 0; i < n; i++) id = this.#buckets.indexOf(bucket, id + 1);
    return id;
  }
}

/**
 * The repetition penalty on what the model said, as Hugging Face's `RepetitionPenaltyLogitsProcessor` defines it; then
 * OpenAI's formula: logit + bias − count · frequency − [count > 0] · presence, over generated tokens only.
 */
function adjust(logits: Float32Array, sampling: Sampling, { counts, seen }: SamplingHistory): void {
  const { repetitionPenalty, presencePenalty, frequencyPenalty } = sampling;
  if (repetitionPenalty !== 1) {
    for (const token of seen) {
      const logit = logits[token] ?? 0;
      logits[token] = logit > 0 ? logit / repetitionPenalty : logit * repetitionPenalty;
    }
  }
  for (const [token, bias] of sampling.logitBias) logits[token] = (logits[token] ?? 0) + bias;
  if (presencePenalty === 0 && frequencyPenalty === 0) return;
  for (const [token, count] of counts) {
    logits[token] = (logits[token] ?? 0) - count * frequencyPenalty - presencePenalty;
  }
}

/** Makes every token without its bit impossible. A NaN stays: it must be found. */
function forbid(logits: Float32Array, mask: Int32Array): void {
  for (let id = 0; id < logits.length; id++) {
    const word = mask[id >>> 5] ?? 0;
    if (word === -1) id |= 31;
    else if (((word >>> (id & 31)) & 1) === 0 && !Number.isNaN(logits[id])) logits[id] = -Infinity;
  }
}

/** How many logits are dismissed by one branch. */
const LOGITS_AT_ONCE = 8;

/**
 * The best token, the lowest id among equals; `undefined` when the logits can't be trusted. Read for every token, and
 * nearly all of them are below the best one so far: eight are dismissed at a time, and only a block with a better one, or
 * with a NaN, is looked at again. 34 us for 49k logits; one by one, each asked whether it is a NaN, took 54.
 */
function findBest(logits: Float32Array): number | undefined {
  let best = 0;
  let max = -Infinity;
  // What lies behind the end reads as NaN, which no comparison dismisses.
  const at = (id: number): number => logits[id] ?? NaN;
  for (let first = 0; first < logits.length; first += LOGITS_AT_ONCE) {
    if (
      at(first) <= max &&
      at(first + 1) <= max &&
      at(first + 2) <= max &&
      at(first + 3) <= max &&
      at(first + 4) <= max &&
      at(first + 5) <= max &&
      at(first + 6) <= max &&
      at(first + 7) <= max
    ) {
      continue;
    }
    const end = Math.min(first + LOGITS_AT_ONCE, logits.length);
    for (let id = first; id < end; id++) {
      const logit = at(id);
      if (logit > max) {
        max = logit;
        best = id;
      } else if (Number.isNaN(logit)) return undefined;
    }
  }
  return Number.isFinite(max) ? best : undefined;
}

/**
 * A candidate's weight: its probability, but for a common factor; nothing for those that can't be drawn.
 *
 * @param distance - from the best logit, 0 or more
 * @returns e^-distance to 6e-15 of itself
 */
export function decay(distance: number): number {
  const position = distance * BUCKETS_PER_LOGIT;
  if (!(position < BUCKETS)) return 0;
  const bucket = Math.trunc(position);
  return (EDGE_WEIGHTS[bucket] ?? 0) * expNegative(distance - bucket / BUCKETS_PER_LOGIT);
}

/** e^-x for x in [0, 1/16], by Taylor's series to 6e-15; with the table above twice as fast as `Math.exp`. */
function expNegative(x: number): number {
  return 1 - x * (1 - (x / 2) * (1 - (x / 3) * (1 - (x / 4) * (1 - (x / 5) * (1 - (x / 6) * (1 - x / 7))))));
}
