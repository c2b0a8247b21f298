/**
 * What a reader of a running stream feels while somebody else's long prompt is computed. Each step that carries a chunk
 * of the prompt takes as long as the chunk is large; the sum is the same however it is cut, so a small gap for the one
 * is a late first token for the other.
 */
import { quantile } from "../report.ts";
import { exactly, type OriginUnderTest } from "./origin-under-test.ts";
import type { Prompts } from "./prompts.ts";

const PROMPT_WORDS = 1_000;
const UNDISTURBED_TOKENS = 120;
/** Enough for the running stream to outlast the prompt. */
const TOKENS = 900;

export interface GapRound {
  /** 99th percentile of the running stream's gaps while it is alone. */
  readonly undisturbedMs: number;
  /** Its longest gap between the prompt's sending and its first token. */
  readonly worstMs: number;
  /** The prompt's time to first token. */
  readonly firstTokenMs: number;
}

export async function measureGap(
  origin: OriginUnderTest,
  { model, endTokens, prompts }: { readonly model: string; readonly endTokens: readonly number[]; prompts: Prompts },
): Promise<GapRound> {
  const ask = (words: number, tokens: number) => ({
    model,
    prompt: prompts.words(words),
    ...exactly(tokens, endTokens),
  });
  let arriving: ReturnType<OriginUnderTest["stream"]> | undefined;
  const running = await origin.stream("/v1/completions", ask(64, TOKENS), {
    onText: (count) => {
      if (count === UNDISTURBED_TOKENS) arriving = origin.stream("/v1/completions", ask(PROMPT_WORDS, 1));
    },
  });
  const prompt = await arriving;
  if (prompt === undefined) throw new Error("the running stream ended before the prompt was sent");
  const firstAtMs = prompt.textAtMs[0] ?? Number.NaN;
  const times = running.textAtMs;
  if (!((times.at(-1) ?? 0) >= firstAtMs)) throw new Error("the running stream ended before the prompt was computed");
  const gaps = times.slice(1).map((to, index) => ({ from: times[index] ?? Number.NaN, to }));
  const lengths = (some: typeof gaps) => some.map(({ from, to }) => to - from);
  const during = gaps.filter(({ from, to }) => to > prompt.sentAtMs && from < firstAtMs);
  return {
    undisturbedMs: quantile(lengths(gaps.filter(({ to }) => to <= prompt.sentAtMs)), 0.99),
    worstMs: Math.max(...lengths(during)),
    firstTokenMs: firstAtMs - prompt.sentAtMs,
  };
}
