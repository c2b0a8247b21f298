/** An evaluation as a table, and held to bounds. Knows nothing of how it was made. */
import type { Comparison } from "./compare.ts";
import type { Evaluation } from "./evaluate.ts";

/** What a model may lose before it counts as broken. */
export interface Bounds {
  /** Perplexity on the texts, over the reference's. */
  readonly perplexityRatioMax: number;
  /** Share of the texts' tokens that are predicted, over the reference's. */
  readonly accuracyRatioMin: number;
  /** Mean divergence over everything, in nats. */
  readonly klMax: number;
  /** Share of all tokens at which both models hold the same one for the likeliest. */
  readonly top1Min: number;
}

/** Within 2 % of full precision; the other two are far from what int8 does and far from what 4 bits do. */
export const DEFAULT_BOUNDS: Bounds = {
  perplexityRatioMax: 1.02,
  accuracyRatioMin: 0.98,
  klMax: 0.05,
  top1Min: 0.9,
};

/** The figures that bounds are about. */
function ratiosOf({ texts, all }: Evaluation): Readonly<Record<keyof Bounds, number>> {
  return {
    perplexityRatioMax: texts.perplexity / texts.referencePerplexity,
    accuracyRatioMin: texts.accuracy / texts.referenceAccuracy,
    klMax: all.meanKl,
    top1Min: all.top1,
  };
}

/** One sentence per bound that is not kept. A figure that is no number keeps none. */
export function brokenBounds(evaluation: Evaluation, bounds: Bounds): readonly string[] {
  const ratios = ratiosOf(evaluation);
  const names: Readonly<Record<keyof Bounds, string>> = {
    perplexityRatioMax: "perplexity against fp32",
    accuracyRatioMin: "accuracy against fp32",
    klMax: "mean KL divergence",
    top1Min: "top-1 agreement",
  };
  return (Object.keys(names) as (keyof Bounds)[]).flatMap((key) => {
    const isKept = key.endsWith("Max") ? ratios[key] <= bounds[key] : ratios[key] >= bounds[key];
    const side = key.endsWith("Max") ? "above" : "below";
    return isKept ? [] : [`${names[key]} is ${ratios[key].toFixed(4)}, ${side} the bound of ${bounds[key]}`];
  });
}

/** A Markdown table: a row per part, then all texts, then everything. */
export function evaluationTable({ parts, texts, all, sameGreedyTokens, answerTokens }: Evaluation): string {
  const rows = Object.entries({ ...parts, "all texts": texts, all });
  const lines: (readonly string[])[] = [
    ["", "tokens", "perplexity fp32", "perplexity", "ratio", "accuracy fp32", "accuracy", "mean KL", "p99 KL", "top-1"],
    ["---", ...Array.from({ length: 9 }, () => "---:")],
    ...rows.map(([name, part]) => cells(name, part)),
  ];
  const table = lines.map((line) => `| ${line.join(" | ")} |`).join("\n");
  return `${table}\n\nsame greedy tokens: ${sameGreedyTokens.toFixed(1)} of ${answerTokens.toFixed(1)}`;
}

function cells(name: string, part: Comparison): readonly string[] {
  return [
    name,
    String(part.tokens),
    part.referencePerplexity.toFixed(3),
    part.perplexity.toFixed(3),
    (part.perplexity / part.referencePerplexity).toFixed(4),
    percent(part.referenceAccuracy),
    percent(part.accuracy),
    part.meanKl.toFixed(4),
    part.p99Kl.toFixed(4),
    percent(part.top1),
  ];
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
