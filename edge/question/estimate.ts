/** An upper bound of what an answer may cost, made before the answer is. Knows no limits. */
import { countPrompts, type Question } from "../../shared/completion-request.ts";
import type { Model } from "../../shared/completion-response.ts";
import { ColdpathError } from "../../shared/errors.ts";

/** What an answer may cost before it is known. */
export interface TokenEstimate {
  readonly promptTokens: number;
  readonly answerTokensMax: number;
}

/** UTF-8 bytes of a question that count as one token: above English prose and below Chinese. */
const BYTES_PER_TOKEN = 3;

/**
 * Bounds what the answer may cost. The prompt is estimated from its length; real usage replaces the estimate afterwards.
 *
 * @param canonical - the question's canonical text (`identify.ts`)
 * @throws {ColdpathError} `context_length_exceeded` where the request asks for more than the model can ever hold
 */
export function estimateTokens(
  { path, request }: Question,
  canonical: string,
  { model, answerTokensDefault }: { readonly model: Model; readonly answerTokensDefault: number },
): TokenEstimate {
  // Every text has a context of its own.
  const texts = path === "/v1/embeddings" ? request.input.length : countPrompts(request);
  const room = texts * model.context_length;
  const bytes = new TextEncoder().encode(canonical).length;
  const promptTokens = Math.min(Math.ceil(bytes / BYTES_PER_TOKEN), room);
  if (path === "/v1/embeddings") return { promptTokens, answerTokensMax: 0 };
  const [param, maximum] =
    typeof request.max_completion_tokens === "number"
      ? ["max_completion_tokens", request.max_completion_tokens]
      : ["max_tokens", request.max_tokens ?? undefined];
  if (maximum !== undefined && maximum > model.context_length) {
    const message = `${param} is ${maximum}, but the context of "${model.id}" is ${model.context_length} tokens long`;
    throw new ColdpathError("context_length_exceeded", message, { param });
  }
  const longest = Math.min(texts * (maximum ?? answerTokensDefault), room - promptTokens);
  return { promptTokens, answerTokensMax: (request.n ?? 1) * longest };
}
