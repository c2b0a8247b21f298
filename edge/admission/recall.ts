/**
 * The same request again: known token, known body, known reply, and a permit to give it. Then nothing is parsed, hashed
 * or decrypted, and nothing is waited for but the body. Anything else, also everything unusual, is left to the chain,
 * with what is known of it already.
 */
import type { Authenticate, Caller } from "../auth/authenticate.ts";
import type { Call } from "../call/call.ts";
import { isolateHit, type Hit, type IsolateParts } from "./isolate-hit.ts";
import type { KnownQuestion } from "../cache/memory.ts";
import { isPlain, recognize, type UnderstandParts } from "../question/understand.ts";

export interface RecallParts extends IsolateParts, UnderstandParts {
  readonly authenticate: Authenticate;
}

/** What memory knows of a request: all of it, or only who asks, or nothing. */
export interface Recalled {
  readonly caller: Caller | undefined;
  /** What is asked; looked for only where the caller is known. */
  readonly known: KnownQuestion | undefined;
  /** The reply, which is paid for. */
  readonly hit: Hit | undefined;
}

const NOTHING: Recalled = { caller: undefined, known: undefined, hit: undefined };

/** A body that is read for it stays in the call. */
export async function recall(parts: RecallParts, call: Call): Promise<Recalled> {
  const { request } = call;
  const authorization = request.header("authorization");
  // A stranger's body is not waited for.
  if (parts.authenticate.known(authorization, call.startedMs) === undefined) return NOTHING;
  let text: string | undefined;
  try {
    if (isPlain(request)) text = await call.text(parts.config.bodyBytesMax);
  } catch {
    // Said by who reads it in earnest.
  }
  // Again, because a body that came in slowly must not stretch a token's life.
  const caller = parts.authenticate.known(authorization, call.platform.now());
  if (caller === undefined) return NOTHING;
  const known = text === undefined ? undefined : recognize(parts, call, caller, text);
  // A client's own wishes about caching are the chain's to read.
  const plain = known !== undefined && request.header("cache-control") === null;
  const hit = plain ? isolateHit(parts, call, { caller, digest: known.digest, form: known.form }) : undefined;
  return { caller, known, hit };
}
