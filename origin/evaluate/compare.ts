/**
 * How far one model's predictions are from another's, from their logits alone. Knows neither models nor texts.
 *
 * Source: llama.cpp, tools/perplexity (its `--kl-divergence` compares a quantized model with the original in this way).
 */

/** What two models said before one token. Logarithms are natural. */
export interface TokenComparison {
  /** Kullback-Leibler divergence of the candidate's distribution from the reference's, in nats. */
  readonly kl: number;
  /** -log of the probability that the reference gave the token that came. */
  readonly referenceSurprise: number;
  readonly surprise: number;
  /** Whether the reference held the token that came for the likeliest. */
  readonly isReferenceRight: boolean;
  readonly isRight: boolean;
  /** Whether both hold the same token for the likeliest. */
  readonly isAgreed: boolean;
}

/** What two models said about a run of tokens. */
export interface Comparison {
  readonly tokens: number;
  /** e to the mean surprise. */
  readonly referencePerplexity: number;
  readonly perplexity: number;
  /** Share of tokens that the model held for the likeliest. */
  readonly referenceAccuracy: number;
  readonly accuracy: number;
  readonly meanKl: number;
  /** The divergence that 99 % of the tokens do not exceed. */
  readonly p99Kl: number;
  /** Share of tokens at which both models hold the same one for the likeliest. */
  readonly top1: number;
}

/**
 * Compares what two models say before one token.
 *
 * @param reference - logits, `[vocabSize]`
 * @param candidate - logits, `[vocabSize]`
 * @param next - the token that came
 * @throws {RangeError} when the vocabularies differ or do not have the token
 */
export function compareToken(reference: Float32Array, candidate: Float32Array, next: number): TokenComparison {
  if (reference.length !== candidate.length) throw new RangeError("the models have different vocabularies");
  const [expected, actual] = [reference[next], candidate[next]];
  if (expected === undefined || actual === undefined) throw new RangeError(`there is no token ${next}`);
  const [referenceTop, top] = [argmax(reference), argmax(candidate)];
  const [referenceLogSum, logSum] = [logSumExp(reference), logSumExp(candidate)];
  let kl = 0;
  for (let id = 0; id < reference.length; id++) {
    const logP = reference[id]! - referenceLogSum;
    kl += Math.exp(logP) * (logP - (candidate[id]! - logSum));
  }
  return {
    kl,
    referenceSurprise: referenceLogSum - expected,
    surprise: logSum - actual,
    isReferenceRight: referenceTop === next,
    isRight: top === next,
    isAgreed: top === referenceTop,
  };
}

/** Means over tokens; NaN for none. */
export function summarize(tokens: readonly TokenComparison[]): Comparison {
  const mean = (value: (token: TokenComparison) => number | boolean) =>
    tokens.reduce((sum, token) => sum + Number(value(token)), 0) / tokens.length;
  const divergences = tokens.map(({ kl }) => kl).toSorted((a, b) => a - b);
  return {
    tokens: tokens.length,
    referencePerplexity: Math.exp(mean(({ referenceSurprise }) => referenceSurprise)),
    perplexity: Math.exp(mean(({ surprise }) => surprise)),
    referenceAccuracy: mean(({ isReferenceRight }) => isReferenceRight),
    accuracy: mean(({ isRight }) => isRight),
    meanKl: mean(({ kl }) => kl),
    p99Kl: divergences[Math.ceil(divergences.length * 0.99) - 1] ?? Number.NaN,
    top1: mean(({ isAgreed }) => isAgreed),
  };
}

/** The first of the largest. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

function logSumExp(logits: Float32Array): number {
  const max = logits[argmax(logits)] ?? 0;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return max + Math.log(sum);
}
