/**
 * What HTTP costs: sixteen clients of an origin, and the same sixteen prompts given to the same engine in a process that
 * has everything but HTTP and text. The client's own work is on the same cores and counts as HTTP's.
 */
import type { Contender } from "./contender.ts";
import { exactly, type OriginUnderTest } from "./origin-under-test.ts";
import type { Prompts } from "./prompts.ts";

const CLIENTS = 16;
const PROMPT_WORDS = 48;
const TOKENS = 96;

export interface OverHttpOptions {
  readonly origin: OriginUnderTest;
  readonly engine: Contender;
  readonly model: string;
  readonly endTokens: readonly number[];
  readonly prompts: Prompts;
  readonly encode: (text: string) => Int32Array;
}

export interface OverHttpRound {
  /** Tokens a second, prompts included in the time. */
  readonly overHttp: number;
  readonly alone: number;
}

export async function measureOverHttp(options: OverHttpOptions): Promise<OverHttpRound> {
  const { prompts } = options;
  const draw = () => Array.from({ length: CLIENTS }, () => prompts.words(PROMPT_WORDS));
  // Different prompts of the same length, so that neither finds the other's in a cache.
  return { overHttp: await rateOverHttp(options, draw()), alone: await rateAlone(options, draw()) };
}

async function rateOverHttp({ origin, model, endTokens }: OverHttpOptions, texts: readonly string[]): Promise<number> {
  const answers = await Promise.all(
    texts.map((prompt) => origin.stream("/v1/completions", { model, prompt, ...exactly(TOKENS, endTokens) })),
  );
  const tokens = answers.reduce((sum, { usage }) => sum + (usage?.completion_tokens ?? Number.NaN), 0);
  const from = Math.min(...answers.map(({ sentAtMs }) => sentAtMs));
  const to = Math.max(...answers.map(({ textAtMs }) => textAtMs.at(-1) ?? Number.NaN));
  return (tokens / (to - from)) * 1000;
}

async function rateAlone({ engine, encode }: OverHttpOptions, texts: readonly string[]): Promise<number> {
  const { arrivals } = await engine.run({ prompts: texts.map((text) => [...encode(text)]), tokens: TOKENS });
  const to = Math.max(...arrivals.map((times) => times.at(-1) ?? Number.NaN));
  return (arrivals.flat().length / to) * 1000;
}
