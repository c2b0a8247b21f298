/**
 * Log probabilities as the origin sends them, in both routes' forms, and how the pieces of a stream become one again.
 * Knows nothing of what they are good for.
 */
import * as z from "zod";

const tokenLogprob = z.object({ token: z.string(), logprob: z.number(), bytes: z.array(z.int()).nullable() });

const chatLogprobs = z.object({
  content: z.array(z.object({ ...tokenLogprob.shape, top_logprobs: z.array(tokenLogprob) })),
  refusal: z.null(),
});

const completionLogprobs = z.object({
  tokens: z.array(z.string()),
  token_logprobs: z.array(z.number()),
  top_logprobs: z.array(z.record(z.string(), z.number())),
  text_offset: z.array(z.int()),
});

export const logprobsSchema = z.union([chatLogprobs, completionLogprobs]);

export type Logprobs = z.infer<typeof logprobsSchema>;

/** The pieces of one choice's stream as one; all of them have the route's form. */
export function joinLogprobs(pieces: readonly Logprobs[]): Logprobs | undefined {
  if (pieces.length === 0) return undefined;
  const chat = pieces.filter((piece) => "content" in piece);
  if (chat.length > 0) return { content: chat.flatMap(({ content }) => content), refusal: null };
  const text = pieces.filter((piece) => "tokens" in piece);
  return {
    tokens: text.flatMap(({ tokens }) => tokens),
    token_logprobs: text.flatMap(({ token_logprobs: logprobs }) => logprobs),
    top_logprobs: text.flatMap(({ top_logprobs: top }) => top),
    text_offset: text.flatMap(({ text_offset: offsets }) => offsets),
  };
}
