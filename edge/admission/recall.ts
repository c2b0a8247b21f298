/**
 * The same request again: known token, known body, known reply, and a permit to give it. Then nothing is parsed, hashed
 * or decrypted, and the body is all there is to wait for. Everything else, also every unusual request, is left to the
 * chain, together with what memory knows already.
 */
import type { CompletionPath } from "../../shared/completion-request.ts";
import type { Authenticate, Caller } from "../auth/authenticate.ts";
import type { IsolateMemory } from "../cache/memory.ts";
import type { Call } from "../call/call.ts";
import type { Incoming } from "../call/incoming.ts";
import type { KnownQuestion } from "../question/known-question.ts";
import { isolateHit, type Hit, type IsolateParts } from "./isolate-hit.ts";

export interface RecallParts extends IsolateParts {
  readonly authenticate: Authenticate;
  readonly models: {
    /** The digest of a model as far as this isolate knows it, without waiting for anything. */
    digestOf(call: Call, id: string): string | undefined;
  };
  readonly config: { readonly bodyBytesMax: number };
}

/** What memory knows of a request: everything, or only the caller, or nothing. */
export interface Recollection {
  readonly caller: Caller | undefined;
  /** Looked up only where the caller is known. */
  readonly known: KnownQuestion | undefined;
  /** The reply; its permit is spent. */
  readonly hit: Hit | undefined;
}

const NOTHING: Recollection = { caller: undefined, known: undefined, hit: undefined };

/** Reads the body only for a caller that is known; it stays in the call. */
export async function recall(parts: RecallParts, call: Call): Promise<Recollection> {
  const { request } = call;
  const authorization = request.header("authorization");
  // An unknown caller's body is not waited for.
  if (parts.authenticate.known(authorization, call.startedMs) === undefined) return NOTHING;
  let text: string | undefined;
  try {
    if (isPlain(request)) text = await call.text(parts.config.bodyBytesMax);
  } catch {
    // Ignored here: `validate` reads the body again and reports the error.
  }
  // Looked up again, because a body that came in slowly must not extend a token's life.
  const caller = parts.authenticate.known(authorization, call.platform.now());
  if (caller === undefined) return NOTHING;
  const known = text === undefined ? undefined : recognize(parts, call, caller, text);
  // The chain reads the client's `cache-control`.
  const plain = known !== undefined && request.header("cache-control") === null;
  const hit = plain ? isolateHit(parts, call, { caller, digest: known.digest, form: known.form }) : undefined;
  return { caller, known, hit };
}

/** Keeps what a call's body was found to ask, so that `recall` recognizes the same body. */
export function memorize(
  isolate: IsolateMemory,
  call: Call,
  { caller, path, known }: { readonly caller: Caller; readonly path: CompletionPath; readonly known: KnownQuestion },
): void {
  // `/generate` may name no model; then it means the first of the list, which can change.
  if (path === "/generate" || call.body === undefined) return;
  isolate.keepQuestion(caller.tenant, path, call.body, known);
}

/** Whether the body is sent as nearly every body is. `validate` reads any other one, and reports what is wrong with it. */
function isPlain(request: Incoming): boolean {
  return request.header("content-type") === "application/json" && request.header("content-encoding") === null;
}

/** @returns `undefined` for a body that this isolate has not read for this tenant, or if another model would answer now */
function recognize(
  { isolate, models }: RecallParts,
  call: Call,
  { tenant }: Caller,
  text: string,
): KnownQuestion | undefined {
  const known = isolate.question(tenant, call.path, text);
  return known !== undefined && models.digestOf(call, known.modelId) === known.modelDigest ? known : undefined;
}
