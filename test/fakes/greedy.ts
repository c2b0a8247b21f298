/** The sampling of tests that are about something else: the most likely token, nothing penalized or biased. */
import type { Sampling } from "../../origin/engine/sample.ts";

export const GREEDY: Sampling = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  presencePenalty: 0,
  frequencyPenalty: 0,
  logitBias: [],
  minTokens: 0,
  seed: 0,
};
