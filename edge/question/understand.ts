/**
 * What is asked, as far as the lookup needs it: recognized by the body's own text where this isolate read the same before,
 * else parsed, identified and estimated. The question itself is only wanted when nobody knows the answer. Knows no limits.
 */
import type { CompletionPath, Question } from "../../shared/completion-request.ts";
import type { Normalization } from "../../shared/normalize.ts";
import { estimateTokens } from "../admission/admit.ts";
import type { Caller } from "../auth/authenticate.ts";
import type { Call } from "../call/call.ts";
import { identify, type Identity } from "./identify.ts";
import type { Incoming } from "../call/incoming.ts";
import type { IsolateMemory, KnownQuestion } from "../cache/memory.ts";
import type { Models } from "../fleet/models.ts";
import type { Sealer } from "../cache/seal.ts";
import { validate } from "./validate.ts";

export interface UnderstandParts {
  readonly isolate: IsolateMemory;
  readonly models: Models;
  readonly sealer: Sealer;
  readonly config: {
    readonly bodyBytesMax: number;
    readonly answerTokensDefault: number;
    readonly normalize: Normalization;
  };
}

/** A question in full: what the origin is asked. */
export interface ColdQuestion {
  readonly question: Question;
  readonly identity: Identity;
}

/** `cold` is absent where the body was only recognized. */
export interface Understood {
  readonly known: KnownQuestion;
  readonly cold: ColdQuestion | undefined;
}

/** Whether the body is sent as nearly every one is: one that is not is read, and what is wrong with it said, in earnest. */
export function isPlain(request: Incoming): boolean {
  return request.header("content-type") === "application/json" && request.header("content-encoding") === null;
}

/** @returns `undefined` for a body that this isolate has not read for this tenant, or another model would answer now */
export function recognize(
  { isolate, models }: UnderstandParts,
  call: Call,
  { tenant }: Caller,
  text: string,
): KnownQuestion | undefined {
  const known = isolate.question(tenant, call.path, text);
  return known !== undefined && models.digestOf(call, known.modelId) === known.modelDigest ? known : undefined;
}

/** @throws {ColdpathError} what `validate`, `identify`, `estimateTokens` and the list of models throw */
export async function understand(
  parts: UnderstandParts,
  call: Call,
  { caller, path }: { readonly caller: Caller; readonly path: CompletionPath },
): Promise<Understood & { readonly cold: ColdQuestion }> {
  const { isolate, models, sealer, config } = parts;
  const { bodyBytesMax, answerTokensDefault, normalize } = config;
  const { question, form } = await call.step("validate", () =>
    validate(path, call, { bodyBytesMax, defaultModel: () => models.first(call) }),
  );
  return call.step("identify", async () => {
    const model = await models.find(call, question.request.model);
    const mac = await sealer.identityMac();
    const identity = await identify(mac, question, { tenant: caller.tenant, modelDigest: model.digest, normalize });
    const estimate = estimateTokens(question, identity, { model, answerTokensDefault });
    const known = { digest: identity.digest, form, modelId: model.id, modelDigest: model.digest, estimate };
    // `/generate` may leave the model to the list's order, which can change.
    if (path !== "/generate") isolate.keepQuestion(caller.tenant, path, await call.text(bodyBytesMax), known);
    return { known, cold: { question, identity } };
  });
}
