/**
 * What an import cost and what it bought: the model in the chosen format beside the same file in full precision, held to
 * what is promised of int8. Says so in words where a promise is not kept. Knows nothing of how the figures were measured.
 */
import type { Evaluation } from "./evaluate.ts";
import { evaluationTable } from "./report.ts";

/** One of the two models that are compared. */
export interface Side {
  readonly format: string;
  /** The file of weights: matrices, scales, norms, and the positions' rotations. */
  readonly weightBytes: number;
  /** Everything in the folder. */
  readonly folderBytes: number;
  /** Tokens a second of one row, and of a prompt. */
  readonly decodeTokensPerSecond: number;
  readonly promptTokensPerSecond: number;
}

export interface ImportReport {
  readonly model: string;
  /** What was imported, and its SHA-256. */
  readonly source: { readonly name: string; readonly sha256: string };
  readonly machine: string;
  readonly full: Side;
  readonly quantized: Side;
  readonly evaluation: Evaluation;
  readonly promises: readonly Promised[];
}

/** A figure that is promised, and what it is. */
export interface Promised {
  readonly what: string;
  readonly measured: number;
  /** `most`: the figure may not be above the bound; `least`: not below. */
  readonly bound: number;
  readonly side: "most" | "least";
  readonly isKept: boolean;
}

/**
 * What is promised of int8, and what 4 bits are held to as well. "Predicted" counts the tokens that somebody wrote and
 * that the model held for the likeliest; "first choices" those on which both models agree, written or answered.
 */
const PROMISES = [
  { what: "bytes of weights, over fp32's", side: "most", bound: 0.26, of: (r) => ratio(r, (s) => s.weightBytes) },
  {
    what: "tokens a second of one row, over fp32's",
    side: "least",
    bound: 1.4,
    of: (r) => ratio(r, (s) => s.decodeTokensPerSecond),
  },
  {
    what: "perplexity, over fp32's",
    side: "most",
    bound: 1.02,
    of: ({ evaluation: { texts } }) => texts.perplexity / texts.referencePerplexity,
  },
  {
    what: "tokens predicted, over fp32's",
    side: "least",
    bound: 0.98,
    of: ({ evaluation: { texts } }) => texts.accuracy / texts.referenceAccuracy,
  },
  { what: "first choices that are fp32's", side: "least", bound: 0.98, of: ({ evaluation }) => evaluation.all.top1 },
] as const satisfies readonly (Pick<Promised, "what" | "side" | "bound"> & {
  readonly of: (figures: Figures) => number;
})[];

/** What is measured. */
export type Figures = Pick<ImportReport, "full" | "quantized" | "evaluation">;

/** A figure that is no number keeps no promise. */
export function holdToPromises(figures: Figures): readonly Promised[] {
  return PROMISES.map(({ what, side, bound, of }) => {
    const measured = of(figures);
    return { what, measured, bound, side, isKept: side === "most" ? measured <= bound : measured >= bound };
  });
}

function ratio({ full, quantized }: Figures, figure: (side: Side) => number): number {
  return figure(quantized) / figure(full);
}

/** The report as Markdown; the plot stands beside it. */
export function reportMarkdown(report: ImportReport, plotFile: string): string {
  const { model, source, machine, full, quantized, evaluation, promises } = report;
  const sides = [full, quantized].map((side) => [
    side.format,
    mebibytes(side.weightBytes),
    mebibytes(side.folderBytes),
    side.decodeTokensPerSecond.toFixed(1),
    side.promptTokensPerSecond.toFixed(0),
  ]);
  const kept = promises.map(({ what, measured, bound, side, isKept }) => [
    what,
    measured.toFixed(4),
    `at ${side} ${bound}`,
    isKept ? "kept" : "**missed**",
  ]);
  const missed = promises.filter(({ isKept }) => !isKept).map((promise) => `- ${missedSentence(promise)}`);
  return `# ${model} in ${quantized.format}

Imported from ${source.name} (SHA-256 ${source.sha256}), and held to the same file in full precision. ${machine}.

![size, speed and accuracy beside fp32's](${plotFile})

${table(["format", "weights, MiB", "folder, MiB", "tokens/s, one row", "tokens/s, prompt"], sides)}

${table(["promised", "measured", "bound", ""], kept)}

${missed.length === 0 ? "Every promise is kept." : `Not kept by ${quantized.format}:\n\n${missed.join("\n")}`}

Read token by token, and the answers of the model in fp32 to a few questions:

${evaluationTable(evaluation)}
`;
}

/** A promise that is not kept, as a sentence. */
export function missedSentence({ what, measured, bound, side }: Promised): string {
  return `${what}: ${measured.toFixed(4)}, promised is at ${side} ${bound}.`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const rule = head.map((_, column) => (column === 0 ? "---" : "---:"));
  return [head, rule, ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function mebibytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(1);
}
