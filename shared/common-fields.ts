/**
 * The fields that requests for text have in all of their forms, under one name and with one meaning. `null` means absent,
 * as OpenAI's clients send it.
 */
import * as z from "zod";

export const commonFields = {
  model: z.string().min(1).describe("The name of a model that GET /v1/models lists."),
  temperature: z
    .number()
    .min(0)
    .max(2)
    .nullish()
    .describe(
      "0 always takes the likeliest token, more draws from more of them; without it what the model's makers advise, else 1.",
    ),
  top_p: z
    .number()
    .min(0)
    .max(1)
    .nullish()
    .describe(
      "Draws from the likeliest tokens that have this share together, at least from one; without it what the model's makers advise, else 1, all of them.",
    ),
  stream: z.boolean().nullish().describe("The answer comes as events while it is made; false without it."),
  user: z.string().nullish().describe("Of no influence: neither on the answer nor on the cache."),
  metadata: z.record(z.string(), z.unknown()).nullish().describe("Of no influence, like user."),
};

/** Of the forms that are conversations. */
export const conversationFields = {
  ...commonFields,
  parallel_tool_calls: z
    .boolean()
    .nullish()
    .describe("Whether one answer may call several functions; true without it."),
  top_logprobs: z
    .int()
    .min(0)
    .max(20)
    .nullish()
    .describe("With log probabilities: so many of the likeliest tokens at each place, too; 0 without it."),
};
