/**
 * A list of numbers that were asked for: what was measured, what was to be reached, and whether it is. A number that
 * could not be taken is in the list too, with the reason, and counts as not met.
 */

export interface Goal {
  readonly what: string;
  /** What the number is a ratio of, or its unit. */
  readonly unit: string;
  readonly atLeast?: number;
  readonly atMost?: number;
}

export interface Verdict extends Goal {
  /** NaN where it could not be measured. */
  readonly measured: number;
  readonly met: boolean;
  /** The figures behind a ratio, or why there is none. */
  readonly note: string;
}

export function judge(goal: Goal, measured: number, note: string): Verdict {
  const { atLeast = Number.NEGATIVE_INFINITY, atMost = Number.POSITIVE_INFINITY } = goal;
  return { ...goal, measured, met: measured >= atLeast && measured <= atMost, note };
}

/** A GitHub-flavoured Markdown table of verdicts. */
export function goalTable(title: string, verdicts: readonly Verdict[]): string {
  const lines = verdicts.map(({ what, unit, atLeast, atMost, measured, met, note }) => [
    what,
    atLeast === undefined ? `≤ ${atMost} ${unit}` : `≥ ${atLeast} ${unit}`,
    Number.isNaN(measured) ? "–" : measured.toFixed(2),
    met ? "yes" : "**no**",
    note,
  ]);
  return [[title, "asked", "measured", "met", "figures"], ["---", "---", "---:", "---", "---"], ...lines]
    .map((cells) => `| ${cells.join(" | ")} |`)
    .join("\n");
}
