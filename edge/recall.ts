/**
 * The same request again: known token, known body, known reply, and a permit to give it. Then nothing is parsed, hashed
 * or decrypted, and nothing is waited for but the body. Anything else, also everything unusual, is left to the chain.
 */
import { isCompletionPath } from "../shared/completion-request.ts";
import type { Authenticate } from "./authenticate.ts";
import type { Call } from "./call.ts";
import { isolateHit, type Hit, type IsolateParts } from "./isolate-hit.ts";
import type { Models } from "./models.ts";
import type { ReplyForm } from "./validate.ts";

export interface RecallParts extends IsolateParts {
  readonly authenticate: Authenticate;
  readonly models: Models;
  readonly config: { readonly bodyBytesMax: number };
}

export interface Recalled {
  readonly hit: Hit;
  readonly form: ReplyForm;
}

/** @returns `undefined` for whatever needs more than memory; a body that was read for it stays in the call */
export async function recall(parts: RecallParts, call: Call): Promise<Recalled | undefined> {
  const { request, path } = call;
  if (request.method !== "POST" || !isCompletionPath(path)) return undefined;
  const { headers } = request;
  const caller = parts.authenticate.known(headers.get("authorization"), call.startedMs);
  // A client's own wishes about caching are the chain's to read, and so is a body of another type.
  if (caller === undefined || headers.has("cache-control")) return undefined;
  if (headers.get("content-type") !== "application/json" || headers.has("content-encoding")) return undefined;

  // Whatever is wrong with the body is wrong for the chain again, which says so.
  const text = await call.text(parts.config.bodyBytesMax).catch(() => undefined);
  const question = text === undefined ? undefined : parts.isolate.question(caller.tenant, path, text);
  if (question === undefined || parts.models.digestOf(call, question.modelId) !== question.modelDigest)
    return undefined;

  const { digest, form, modelId: model } = question;
  const hit = isolateHit(parts, call, { caller, digest, form });
  if (hit === undefined) return undefined;
  Object.assign(call.record, { tenant: caller.tenant, subject: caller.subject, model, cache: "HIT" });
  return { hit, form };
}
