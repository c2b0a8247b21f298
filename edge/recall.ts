/**
 * The same request again: known token, known body, known reply, and a permit to give it. Then nothing is parsed, hashed
 * or decrypted, and nothing is waited for but the body. Anything else, also everything unusual, is left to the chain.
 */
import { isCompletionPath } from "../shared/completion-request.ts";
import type { Authenticate } from "./authenticate.ts";
import type { Call } from "./call.ts";
import { isolateHit, type Hit, type IsolateParts } from "./isolate-hit.ts";
import { recognize, type UnderstandParts } from "./understand.ts";
import type { ReplyForm } from "./validate.ts";

export interface RecallParts extends IsolateParts, UnderstandParts {
  readonly authenticate: Authenticate;
}

export interface Recalled {
  readonly hit: Hit;
  readonly form: ReplyForm;
}

/** @returns `undefined` for whatever needs more than memory; a body that was read for it stays in the call */
export async function recall(parts: RecallParts, call: Call): Promise<Recalled | undefined> {
  const { request, path } = call;
  if (request.method !== "POST" || !isCompletionPath(path)) return undefined;
  const caller = parts.authenticate.known(request.headers.get("authorization"), call.startedMs);
  // A client's own wishes about caching are the chain's to read.
  if (caller === undefined || request.headers.has("cache-control")) return undefined;

  const known = await recognize(parts, call, caller);
  if (known === undefined) return undefined;
  const { digest, form, modelId: model } = known;
  const hit = isolateHit(parts, call, { caller, digest, form });
  if (hit === undefined) return undefined;
  Object.assign(call.record, { tenant: caller.tenant, subject: caller.subject, model });
  return { hit, form };
}
