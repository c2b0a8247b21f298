/**
 * What every benchmark prints: the machine, tables, and as the last line everything as JSON. Knows no benchmark.
 */
import { cpus, totalmem } from "node:os";

/** One row of a table: a label, then a figure a column. */
export interface Row {
  readonly label: string;
  readonly figures: Readonly<Record<string, number>>;
}

/** The middle value; the mean of the two middle ones for an even count. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** Linear interpolation between closest ranks. `q` from 0 to 1; NaN for no values. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const position = (sorted.length - 1) * q;
  const low = sorted[Math.floor(position)] ?? Number.NaN;
  const high = sorted[Math.ceil(position)] ?? Number.NaN;
  return low + (high - low) * (position - Math.floor(position));
}

/** Medians, column by column, of the same row measured in several rounds. */
export function medianRow(label: string, rounds: readonly Readonly<Record<string, number>>[]): Row {
  const names = Object.keys(rounds[0] ?? {});
  return {
    label,
    figures: Object.fromEntries(names.map((name) => [name, median(rounds.map((r) => r[name] ?? Number.NaN))])),
  };
}

/** The median of the rounds' ratios: rounds that ran side by side are compared with each other. */
export function medianRatio(rates: readonly number[], baseline: readonly number[]): number {
  return median(rates.map((rate, round) => rate / (baseline[round] ?? Number.NaN)));
}

/** A GitHub-flavoured Markdown table. */
export function markdownTable(title: string, rows: readonly Row[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row.figures)))];
  const lines = rows.map((row) => [row.label, ...columns.map((column) => format(row.figures[column]))]);
  return [[title, ...columns], ["---", ...columns.map(() => "---:")], ...lines]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n");
}

/** One line that says where the numbers come from. */
export function machineLine(): string {
  const model = cpus()[0]?.model.trim() ?? "unknown CPU";
  return `${cpus().length} × ${model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.version}`;
}

function format(value: number | undefined): string {
  if (value === undefined || Number.isNaN(value)) return "–";
  if (value >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}
