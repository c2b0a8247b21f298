/**
 * Whether the contenders answer alike, without which a comparison of their speed means little: the same prompts, greedy,
 * token by token until the first difference. transformers.js q8 runs our blocks through our kernel and should agree
 * exactly or nearly; node-llama-cpp runs the file's four bits, where coldpath has eight.
 */
import { loadTokenizer } from "../../../origin/tokenize/tokenizer.ts";
import type { DefaultModel } from "../../setup/default-model.ts";
import type { Row } from "../report.ts";
import type { Contender } from "./contender.ts";
import type { Name } from "./side-by-side.ts";

const QUESTIONS = [
  "What is the capital of France?",
  "Explain photosynthesis to a child.",
  "Write a Python function that reverses a string.",
  "Who wrote Pride and Prejudice, and when?",
  "Why is the sky blue?",
  "Give me a recipe for pancakes.",
] as const;
const TOKENS = 32;

export interface Agreement {
  readonly name: Name;
  /** Leading tokens that are coldpath's too, question by question. */
  readonly prefixes: readonly number[];
  /** Tokens of coldpath's answers, question by question, up to the one that would end it. */
  readonly lengths: readonly number[];
}

export async function measureAgreement(
  { folder, manifest }: DefaultModel,
  contenders: ReadonlyMap<Name, Contender>,
): Promise<readonly Agreement[]> {
  const tokenizer = loadTokenizer(folder, manifest.tokens);
  const prompts = QUESTIONS.map((content) => Array.from(tokenizer.encodeChat([{ role: "user", content }])));
  const answers = new Map<Name, number[][]>();
  for (const [name, contender] of contenders) {
    const of: number[][] = [];
    for (const prompt of prompts)
      of.push([...((await contender.run({ prompts: [prompt], tokens: TOKENS })).tokens[0] ?? [])]);
    answers.set(name, of);
  }
  const ours = answers.get("coldpath") ?? [];
  const ends = new Set(manifest.tokens.ends);
  return [...answers].map(([name, theirs]) => {
    const pairs = ours.map((answer, question) => compare(answer, theirs[question] ?? [], ends));
    return { name, prefixes: pairs.map(({ prefix }) => prefix), lengths: pairs.map(({ length }) => length) };
  });
}

/** Coldpath is kept from ending an answer, the others are not: from where one of them ends there is nothing to compare. */
function compare(ours: readonly number[], theirs: readonly number[], ends: ReadonlySet<number>) {
  const end = theirs.findIndex((token) => ends.has(token));
  const length = end < 0 ? ours.length : end;
  const difference = ours.slice(0, length).findIndex((token, index) => token !== theirs[index]);
  return { prefix: difference < 0 ? length : difference, length };
}

export function agreementRows(agreements: readonly Agreement[]): readonly Row[] {
  return agreements
    .filter(({ name }) => name !== "coldpath")
    .map(({ name, prefixes, lengths }) => ({
      label: name,
      figures: { tokens: sum(prefixes), of: sum(lengths), "%": (100 * sum(prefixes)) / sum(lengths) },
    }));
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
