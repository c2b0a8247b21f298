/**
 * Reads what is asked, as far as a lookup needs it: validates the body, finds the model, identifies the question and
 * estimates its cost. Knows no memory and no limits.
 */
import type { CompletionPath, Question } from "../../shared/completion-request.ts";
import type { Model } from "../../shared/completion-response.ts";
import type { Normalization } from "../../shared/normalize.ts";
import type { Caller } from "../auth/authenticate.ts";
import type { Call } from "../call/call.ts";
import type { Mac } from "../platform/platform.ts";
import { estimateTokens } from "./estimate.ts";
import { identify } from "./identify.ts";
import type { KnownQuestion } from "./known-question.ts";
import { validate } from "./validate.ts";

/** The served models, as far as a question depends on them. */
interface ModelLookup {
  /** The id that a request means if it names no model. */
  first(call: Call): Promise<string>;
  /** @throws {ColdpathError} `model_not_found`, `origin_unavailable` */
  find(call: Call, id: string): Promise<Model>;
}

export interface UnderstandParts {
  readonly models: ModelLookup;
  readonly sealer: { identityMac(): Promise<Mac> };
  readonly config: {
    readonly bodyBytesMax: number;
    readonly answerTokensDefault: number;
    readonly normalize: Normalization;
  };
}

/** A question in full: what a lookup needs, and what the origin is asked. */
export interface ParsedQuestion {
  readonly known: KnownQuestion;
  readonly question: Question;
  /** The question in canonical JSON (`identify.ts`). */
  readonly canonical: string;
}

/** @throws {ColdpathError} what `validate`, `identify`, `estimateTokens` and the model lookup throw */
export async function understand(
  { models, sealer, config }: UnderstandParts,
  call: Call,
  { caller, path }: { readonly caller: Caller; readonly path: CompletionPath },
): Promise<ParsedQuestion> {
  const { bodyBytesMax, answerTokensDefault, normalize } = config;
  const { question, form } = await call.step("validate", () =>
    validate(path, call, { bodyBytesMax, defaultModel: () => models.first(call) }),
  );
  return call.step("identify", async () => {
    const model = await models.find(call, question.request.model);
    const mac = await sealer.identityMac();
    const scope = { tenant: caller.tenant, modelDigest: model.digest, normalize };
    const { digest, canonical } = await identify(mac, question, scope);
    const estimate = estimateTokens(question, canonical, { model, answerTokensDefault });
    return { known: { digest, form, modelId: model.id, modelDigest: model.digest, estimate }, question, canonical };
  });
}
