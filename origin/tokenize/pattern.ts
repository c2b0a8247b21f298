/**
 * The patterns of `tokenizer.json`: a text as it stands, or an expression in Oniguruma's dialect, which a library
 * rewrites for JavaScript. And the ways of cutting a text where a pattern matches.
 *
 * Source: huggingface/tokenizers, tokenizers/src/tokenizer/normalizer.rs (`split`).
 */
import * as tokenizers from "@huggingface/tokenizers";
import { z } from "zod";

/** What is used of the library: its own types are lost, because they name files without their endings. */
interface Library {
  readonly SplitPreTokenizer: new (config: object) => { readonly pattern: RegExp | null };
}
const { SplitPreTokenizer } = tokenizers as unknown as Library;

export const patternSchema = z.union([z.strictObject({ String: z.string() }), z.strictObject({ Regex: z.string() })]);
export type Pattern = z.infer<typeof patternSchema>;

/**
 * What becomes of the matches: pieces of their own (`Isolated`), each run of them one piece (`Contiguous`), dropped, or
 * joined to a neighbour.
 */
export const behaviorSchema = z.enum(["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]);
export type Behavior = z.infer<typeof behaviorSchema>;

/** @throws a SyntaxError for an expression that JavaScript can't have */
export function compilePattern(pattern: Pattern): RegExp {
  if ("String" in pattern) return new RegExp(pattern.String.replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu");
  const { pattern: compiled } = new SplitPreTokenizer({ type: "Split", pattern, behavior: "Isolated", invert: false });
  if (compiled === null) throw new SyntaxError(`the expression ${pattern.Regex} can't be read`);
  return compiled;
}

/** A stretch of text, and whether it is a match. */
interface Stretch {
  text: string;
  matched: boolean;
}

/** Cuts a text; no piece is empty. */
export function splitText(text: string, regex: RegExp, behavior: Behavior, invert = false): readonly string[] {
  const stretches = findStretches(text, regex, invert);
  const pieces = join(stretches, behavior);
  return pieces.filter((piece) => piece !== "");
}

function findStretches(text: string, regex: RegExp, invert: boolean): readonly Stretch[] {
  const stretches: Stretch[] = [];
  let end = 0;
  for (const match of text.matchAll(regex)) {
    if (match.index > end) stretches.push({ text: text.slice(end, match.index), matched: invert });
    stretches.push({ text: match[0], matched: !invert });
    end = match.index + match[0].length;
  }
  if (end < text.length) stretches.push({ text: text.slice(end), matched: invert });
  return stretches;
}

function join(stretches: readonly Stretch[], behavior: Behavior): readonly string[] {
  switch (behavior) {
    case "Isolated":
      return stretches.map(({ text }) => text);
    case "Removed":
      return stretches.filter(({ matched }) => !matched).map(({ text }) => text);
    case "Contiguous":
      return fold(stretches, (last, next) => last.matched === next.matched);
    case "MergedWithPrevious":
      return fold(stretches, (last, next) => next.matched && !last.matched);
    case "MergedWithNext":
      return foldBack(stretches);
    default:
      return behavior satisfies never;
  }
}

/** Joins a stretch to the one before it, where that is wanted; `last.matched` is that of the stretch before. */
function fold(stretches: readonly Stretch[], joins: (last: Stretch, next: Stretch) => boolean): readonly string[] {
  const pieces: string[] = [];
  let last: Stretch | undefined;
  for (const next of stretches) {
    if (last !== undefined && joins(last, next)) pieces.push((pieces.pop() ?? "") + next.text);
    else pieces.push(next.text);
    last = next;
  }
  return pieces;
}

/** The mirror image: a match joins the stretch behind it, unless that is a match too. */
function foldBack(stretches: readonly Stretch[]): readonly string[] {
  const pieces: string[] = [];
  for (const [i, { text, matched }] of stretches.entries()) {
    const before = stretches[i - 1];
    if (before?.matched === true && !matched) pieces.push((pieces.pop() ?? "") + text);
    else pieces.push(text);
  }
  return pieces;
}
