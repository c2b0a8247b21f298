/**
 * Logits to a token, for one row: penalties, logit bias and what is forbidden, then greedy, or temperature, top-k, top-p,
 * min-p and a draw, in this order. Knows nothing of batches, of what a token means, or of when to stop.
 *
 * All of it runs between two steps of the model, for every row, so 49k candidates may be neither sorted (22 ms) nor
 * exponentiated one by one (0.4 ms).
 *
 * - Top-k takes the k best in one pass, which dismisses eight at a time.
 * - Top-p asks for the heaviest, until they have their share of all probability. Nearly all of that is near the best one: only
 *   what is near is weighed, and what all others weigh together is bounded. Where the bounds leave open who the last one is,
 *   which is rare, everything is weighed.
 * - Min-p asks for at least a share of the best one's probability, which is a distance from the best logit.
 * - Those that are near are dropped into buckets by their distance, after the temperature, and only the bucket in which the
 *   last one falls is sorted. Ties go to the lower token id.
 * - A draw from all candidates takes a bucket by an upper bound of its weight, one of its members evenly, and keeps that
 *   one with the probability by which the bound is too high for it, else draws again: exact rejection sampling, 1.03
 *   attempts on average.
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

/** The furthest that can be drawn. */
const REACH_MAX = BUCKETS / BUCKETS_PER_LOGIT;
/** What lies further than this from the best weighs, of 49k candidates, at most 2e-4 together; of 150k 5e-4. The best weighs 1. */
const REACH = 19.5;
/** In what lies no further from the best logit, 49k or 150k tokens have a few percent of their number. */
const NEAR_LOGITS = 12;
const NEAR_BUCKETS = 14 * BUCKETS_PER_LOGIT;
const NOTHING = { least: 0, most: 0 };
/** The most that are taken in one pass, which inserts each into the list of those before. */
const TOP_K_LISTED = 256;

/** From logits to distances. */
interface Scale {
  readonly max: number;
  /** One over the temperature. */
  readonly scale: number;
}

/** Samples rows one after the other; owns the scratch memory for one vocabulary. */
export class Sampler {
  /** Candidates, of which some first ones are kept. */
  readonly #ids: Int32Array;
  /** Of each, its distance from the best logit, divided by the temperature. */
  readonly #distances: Float64Array;
  /** Of each, what it adds to a sum: one, or its weight. */
  readonly #amounts: Float64Array;
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

    const scale = { max: logits[best] ?? 0, scale: 1 / sampling.temperature };
    const { topK, topP, minP } = sampling;
    if (topK === 0 && topP === 1 && minP === 0) return this.#drawFromAll(logits, scale, history.random);
    return this.#drawFromKept(this.#keep(logits, scale, { topK, topP, minP }), history.random);
  }

  #keep(logits: Float32Array, scale: Scale, { topK, topP, minP }: Pick<Sampling, "topK" | "topP" | "minP">): number {
    const farthest = Math.min(-Math.log(minP), REACH_MAX);
    if (topK === 0 && topP === 1) return this.#takeNear(logits, scale, farthest);
    let kept = topK > 0 ? this.#takeBest(logits, scale, topK) : this.#takeShare(logits, scale, topP);
    if (topK > 0 && topP < 1) kept = this.#keepShare(kept, topP).kept;
    return minP > 0 ? this.#keepNear(kept, farthest) : kept;
  }

  /** Makes the heaviest that have a share of all probability the candidates, at least one. */
  #takeShare(logits: Float32Array, scale: Scale, share: number): number {
    // Of a low temperature few are near, and all others together weigh next to nothing.
    if (REACH <= NEAR_LOGITS * scale.scale) {
      const near = this.#takeNear(logits, scale, REACH);
      const narrowed = this.#keepShare(near, share, { least: 0, most: (logits.length - near) * decay(REACH) });
      if (narrowed.certain) return narrowed.kept;
    }
    // Else what the others weigh is bounded by the buckets they are in.
    const counts = this.#spread(logits, scale);
    const beyond = { least: 0, most: 0 };
    for (let bucket = NEAR_BUCKETS; bucket < BUCKETS; bucket++) {
      beyond.least += (counts[bucket] ?? 0) * (EDGE_WEIGHTS[bucket + 1] ?? 0);
      beyond.most += (counts[bucket] ?? 0) * (EDGE_WEIGHTS[bucket] ?? 0);
    }
    let near = 0;
    for (let id = 0; id < logits.length; id++) {
      if ((this.#buckets[id] ?? 0) >= NEAR_BUCKETS) continue;
      this.#ids[near] = id;
      this.#distances[near++] = this.#distances[id] ?? 0;
    }
    const narrowed = this.#keepShare(near, share, beyond);
    if (narrowed.certain) return narrowed.kept;
    return this.#keepShare(this.#takeAll(logits, scale), share).kept;
  }

  /** Makes those within a distance the candidates, in the order of their ids. */
  #takeNear(logits: Float32Array, { max, scale }: Scale, reach: number): number {
    // A little further, for what rounding does: the distance itself decides.
    const least = max - (reach / scale) * (1 + 1e-6) - 1e-6;
    let taken = 0;
    for (let id = findFrom(logits, 0, least); id < logits.length; id = findFrom(logits, id + 1, least)) {
      const distance = (max - (logits[id] ?? 0)) * scale;
      if (!(distance <= reach)) continue;
      this.#ids[taken] = id;
      this.#distances[taken++] = distance;
    }
    return taken;
  }

  /** Makes all that can be drawn the candidates, in the order of their ids. */
  #takeAll(logits: Float32Array, { max, scale }: Scale): number {
    let taken = 0;
    for (let id = 0; id < logits.length; id++) {
      const distance = (max - (logits[id] ?? 0)) * scale;
      if (!(distance < REACH_MAX)) continue;
      this.#ids[taken] = id;
      this.#distances[taken++] = distance;
    }
    return taken;
  }

  /** Makes the best the candidates, so many of them. */
  #takeBest(logits: Float32Array, scale: Scale, count: number): number {
    if (count <= TOP_K_LISTED) return this.#listBest(logits, scale, count);
    const all = this.#takeAll(logits, scale);
    this.#amounts.fill(1, 0, all);
    return this.#keepHeaviest(all, count).kept;
  }

  #listBest(logits: Float32Array, { max, scale }: Scale, count: number): number {
    const ids = this.#ids;
    const distances = this.#distances;
    let taken = 0;
    let least = max - REACH_MAX / scale;
    for (let id = findFrom(logits, 0, least); id < logits.length; id = findFrom(logits, id + 1, least)) {
      const distance = (max - (logits[id] ?? 0)) * scale;
      if (!(distance < (taken < count ? REACH_MAX : (distances[count - 1] ?? 0)))) continue;
      let place = taken < count ? taken++ : count - 1;
      for (; place > 0 && (distances[place - 1] ?? 0) > distance; place--) {
        ids[place] = ids[place - 1] ?? 0;
        distances[place] = distances[place - 1] ?? 0;
      }
      ids[place] = id;
      distances[place] = distance;
      if (taken === count) least = logits[ids[count - 1] ?? 0] ?? 0;
    }
    return taken;
  }

  /**
   * Narrows the candidates to the heaviest that have a share of all probability, at least one.
   *
   * @param beyond - the bounds of what all others weigh together
   * @returns `certain` unless it depends on what exactly they weigh
   */
  #keepShare(taken: number, share: number, beyond = NOTHING): { readonly kept: number; readonly certain: boolean } {
    const weight = this.#weigh(taken);
    const { kept, sum } = this.#keepHeaviest(taken, share * (weight + beyond.least));
    return { kept, certain: beyond.most === 0 || sum >= share * (weight + beyond.most) };
  }

  /** Makes the candidates' weights their amounts; returns the sum. */
  #weigh(taken: number): number {
    let total = 0;
    for (let i = 0; i < taken; i++) {
      const weight = decay(this.#distances[i] ?? 0);
      this.#amounts[i] = weight;
      total += weight;
    }
    return total;
  }

  /**
   * Narrows the candidates to the heaviest, at least one, the last of which lets the sum of their amounts reach the target.
   * Amounts are the same for all, or fall with the distance.
   */
  #keepHeaviest(taken: number, target: number): { readonly kept: number; readonly sum: number } {
    const ids = this.#ids;
    const distances = this.#distances;
    const amounts = this.#amounts;
    const sums = this.#sums.fill(0);
    for (let i = 0; i < taken; i++) {
      const bucket = Math.trunc((distances[i] ?? 0) * BUCKETS_PER_LOGIT);
      sums[bucket] = (sums[bucket] ?? 0) + (amounts[i] ?? 0);
    }
    let sum = 0;
    let rim = 0;
    while (rim < BUCKETS && sum + (sums[rim] ?? 0) < target) sum += sums[rim++] ?? 0;

    let kept = 0;
    const onRim: { readonly id: number; readonly amount: number; readonly distance: number }[] = [];
    for (let i = 0; i < taken; i++) {
      const id = ids[i] ?? 0;
      const distance = distances[i] ?? 0;
      const bucket = Math.trunc(distance * BUCKETS_PER_LOGIT);
      if (bucket < rim) {
        ids[kept] = id;
        distances[kept++] = distance;
      } else if (bucket === rim) onRim.push({ id, amount: amounts[i] ?? 0, distance });
    }
    onRim.sort((a, b) => a.distance - b.distance || a.id - b.id);
    for (const { id, amount, distance } of onRim) {
      if (sum >= target && kept > 0) break;
      ids[kept] = id;
      distances[kept++] = distance;
      sum += amount;
    }
    return { kept, sum };
  }

  #keepNear(taken: number, farthest: number): number {
    let kept = 0;
    for (let i = 0; i < taken; i++) {
      const distance = this.#distances[i] ?? Infinity;
      if (distance > farthest) continue;
      this.#ids[kept] = this.#ids[i] ?? 0;
      this.#distances[kept++] = distance;
    }
    return kept;
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

  /** Distances and buckets of all tokens, by id. @returns how many there are in each bucket */
  #spread(logits: Float32Array, { max, scale }: Scale): Float64Array {
    const counts = this.#sums.fill(0);
    const distances = this.#distances;
    const buckets = this.#buckets;
    for (let id = 0; id < logits.length; id++) {
      const distance = (max - (logits[id] ?? 0)) * scale;
      const position = distance * BUCKETS_PER_LOGIT;
      const bucket = position < BUCKETS ? Math.trunc(position) : BUCKETS;
      distances[id] = distance;
      buckets[id] = bucket;
      counts[bucket] = (counts[bucket] ?? 0) + 1;
    }
    return counts;
  }

  #drawFromAll(logits: Float32Array, scale: Scale, random: Random): number {
    const counts = this.#spread(logits, scale);
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

/** The first token from one on whose logit is not below another, or the end. */
function findFrom(logits: Float32Array, from: number, least: number): number {
  let id = from;
  const below = (at: number): boolean => (logits[at] ?? 0) < least;
  for (const last = logits.length - LOGITS_AT_ONCE; id <= last; id += LOGITS_AT_ONCE) {
    if (
      !(
        below(id) &&
        below(id + 1) &&
        below(id + 2) &&
        below(id + 3) &&
        below(id + 4) &&
        below(id + 5) &&
        below(id + 6) &&
        below(id + 7)
      )
    ) {
      break;
    }
  }
  while (id < logits.length && below(id)) id += 1;
  return id;
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
