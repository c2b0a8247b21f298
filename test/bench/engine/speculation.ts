/**
 * What guessed tokens buy: the same prompts with and without them, one stream. A step reads every weight for one token or
 * for four, and hardly takes longer; so a guess that is right is a token nearly for nothing, and a wrong one costs the
 * little it takes longer. Where an answer repeats its prompt most are right, in a story few; the answers are the same
 * tokens either way, which is checked.
 */
import { loadTokenizer } from "../../../origin/tokenize/tokenizer.ts";
import type { DefaultModel } from "../../setup/default-model.ts";
import { type Goal, judge, type Verdict } from "../goals.ts";
import { median, medianRatio, medianRow, type Row } from "../report.ts";
import { streamFigures } from "../streams.ts";
import { type Contender, startContender } from "./contender.ts";

const CODE = `function addItem(cart, item) {
  const found = cart.items.find((one) => one.id === item.id);
  if (found) found.count += item.count;
  else cart.items.push(item);
  cart.total += item.price * item.count;
  return cart;
}`;
const QUESTIONS = {
  "an answer that copies": `Add a comment to this function and change nothing else:\n\n${CODE}`,
  "a story": "Tell me a story about a fox who wanted to be a baker.",
} as const;
type Kind = keyof typeof QUESTIONS;
const KINDS = Object.keys(QUESTIONS) as Kind[];
/** The copy is 70 long, then the model goes on as it likes. */
const TOKENS = 64;

/** Tokens a second, round by round, by the most tokens guessed at once. */
export type SpeculationRates = Readonly<Record<Kind, ReadonlyMap<number, number[]>>>;

export interface SpeculationOptions {
  readonly model: DefaultModel;
  readonly rounds: number;
  readonly say: (line: string) => void;
  /** Values of `COLDPATH_SPECULATION_TOKENS`, the first of which the others are compared with. */
  readonly guessed: readonly number[];
}

/** @throws an Error when an answer shows whether its tokens were guessed */
export async function measureSpeculation(options: SpeculationOptions): Promise<SpeculationRates> {
  const { model, rounds, say, guessed } = options;
  await using held = new AsyncDisposableStack();
  const contenders = new Map<number, Contender>();
  for (const count of guessed) {
    const env = { COLDPATH_SPECULATION_TOKENS: String(count) };
    const contender = await startContender("coldpath-process.ts", [model.folder], env);
    held.defer(() => contender.stop());
    contenders.set(count, contender);
  }
  const tokenizer = loadTokenizer(model.folder, model.manifest.tokens);
  const empty = () => new Map(guessed.map((count) => [count, [] as number[]]));
  const rates = { "an answer that copies": empty(), "a story": empty() };
  for (let round = 0; round <= rounds; round++) {
    say(`guessed tokens, round ${round} of ${rounds}`);
    for (const kind of KINDS) {
      const prompt = [...tokenizer.encodeChat([{ role: "user", content: QUESTIONS[kind] }])];
      let plain: string | undefined;
      for (const [count, contender] of contenders) {
        const result = await contender.run({ prompts: [prompt], tokens: TOKENS });
        plain ??= String(result.tokens);
        if (String(result.tokens) !== plain) throw new Error(`${kind} is another one with ${count} tokens guessed`);
        if (round > 0) rates[kind].get(count)?.push(streamFigures(result)["tokens/s"]);
      }
    }
  }
  return rates;
}

/** The default against no guesses. */
export function judgeSpeculation(rates: SpeculationRates): Verdict[] {
  const asked: Readonly<Record<Kind, number>> = { "an answer that copies": 1.5, "a story": 1 };
  return KINDS.map((kind) => {
    const goal: Goal = { what: `guessed tokens: ${kind}`, unit: "× none guessed", atLeast: asked[kind] };
    const [none = [], ...others] = rates[kind].values();
    const most = others.at(-1) ?? [];
    return judge(goal, medianRatio(most, none), `${median(most).toFixed(1)} : ${median(none).toFixed(1)} tokens/s`);
  });
}

export function speculationRows(rates: SpeculationRates): readonly Row[] {
  return KINDS.map((kind) => {
    const rounds = rates[kind].values().next().value?.length ?? 0;
    const figures = Array.from({ length: rounds }, (_, round) =>
      Object.fromEntries([...rates[kind]].map(([count, of]) => [`${count} guessed`, of[round] ?? Number.NaN])),
    );
    return medianRow(kind, figures);
  });
}
