/**
 * Time to the first token behind a long system prompt, the first time and again. Cold, every token of it is multiplied
 * by every weight; when its keys and values are still there, only the question behind it has to be.
 */
import { exactly, type OriginUnderTest } from "./origin-under-test.ts";
import type { Prompts } from "./prompts.ts";

/** Words of the system prompt, one token each; the template adds a few. */
const SYSTEM_WORDS = 1_000;
const QUESTION_WORDS = 12;

export interface FirstTokenRound {
  readonly coldMs: number;
  readonly seenMs: number;
  /** Prompt tokens of the second request, and how many of them the origin says it did not compute. */
  readonly promptTokens: number;
  readonly cachedTokens: number;
}

export async function measureFirstToken(
  origin: OriginUnderTest,
  { model, endTokens, prompts }: { readonly model: string; readonly endTokens: readonly number[]; prompts: Prompts },
): Promise<FirstTokenRound> {
  const system = prompts.words(SYSTEM_WORDS);
  const ask = async () => {
    const messages = [
      { role: "system", content: system },
      { role: "user", content: prompts.words(QUESTION_WORDS) },
    ];
    const answer = await origin.stream("/v1/chat/completions", { model, messages, ...exactly(4, endTokens) });
    return { firstMs: (answer.textAtMs[0] ?? Number.NaN) - answer.sentAtMs, usage: answer.usage };
  };
  const cold = await ask();
  const seen = await ask();
  return {
    coldMs: cold.firstMs,
    seenMs: seen.firstMs,
    promptTokens: seen.usage?.prompt_tokens ?? Number.NaN,
    cachedTokens: seen.usage?.prompt_tokens_details?.cached_tokens ?? 0,
  };
}
