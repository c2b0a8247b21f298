/**
 * May it, now, and is the answer known? One call to the regional store decides both. Without the store the outcome has
 * a name and a knob: it goes on unlimited and uncached, or is refused. Knows no origin.
 */
import type { Model } from "../shared/completion-response.ts";
import { ColdpathError } from "../shared/errors.ts";
import type { Answer } from "./answer.ts";
import type { Caller } from "./authenticate.ts";
import { readCacheWish, type CacheWish } from "./cache-control.ts";
import type { Call } from "./call.ts";
import type { Identity } from "./identify.ts";
import { openEntry, type EntryPlace } from "./look-up.ts";
import { rateLimitHeaders } from "./rate-limit-headers.ts";
import {
  StoreUnavailable,
  type Admission,
  type AdmitOutcome,
  type LimitScope,
  type RegionalStore,
  type Reservation,
} from "./regional/regional-store.ts";
import type { Sealer } from "./seal.ts";
import type { Question } from "./validate.ts";

/** What an answer may cost before it is known. */
export interface TokenEstimate {
  readonly promptTokens: number;
  readonly answerTokensMax: number;
}

export type Admitted =
  | {
      readonly type: "hit";
      readonly answer: Answer;
      readonly ageSeconds: number;
      readonly headers: Readonly<Record<string, string>>;
    }
  | {
      readonly type: "forward";
      /** `undefined` when the limiter could not be asked. */
      readonly reservation: Reservation | undefined;
      /** Where to keep the answer; `undefined` when it is not to be kept. */
      readonly keepAt: EntryPlace | undefined;
      readonly cache: "MISS" | "BYPASS";
      /** Whether the answer may be shared with those who ask the same meanwhile. */
      readonly shared: boolean;
      readonly headers: Readonly<Record<string, string>>;
    };

interface AdmitParts {
  readonly store: RegionalStore;
  readonly sealer: Sealer;
  readonly limiterFails: "open" | "closed";
  /** How long a stream slot is leased. */
  readonly leaseMs: number;
}

/** A slot may come back at any moment: the soonest whole second is the honest advice. */
const SLOT_RETRY_SECONDS = 1;
/** The store is asked again by the next request. */
const STORE_RETRY_SECONDS = 1;

/**
 * Admits one request and looks its answer up.
 *
 * @throws {ColdpathError} `request_limit_exceeded`, `token_limit_exceeded`, `stream_limit_exceeded`, `not_cached`,
 * `limiter_unavailable`
 */
export async function admit(
  call: Call,
  { store, sealer, limiterFails, leaseMs }: AdmitParts,
  {
    caller,
    identity,
    estimate,
  }: { readonly caller: Caller; readonly identity: Identity; readonly estimate: TokenEstimate },
): Promise<Admitted> {
  const wish = readCacheWish(call.request.headers.get("cache-control"));
  const place: EntryPlace = { tenant: caller.tenant, digest: identity.digest };
  const admission: Admission = {
    tenant: caller.tenant,
    scopes: limitScopes(caller),
    lookUp: wish.read ? { digest: identity.digest, ageMaxSeconds: wish.ageMaxSeconds } : undefined,
    otherwise: wish.onlyIfCached ? "report" : "reserve",
    requests: 1,
    tokens: estimate.promptTokens + estimate.answerTokensMax,
    leaseId: call.platform.randomId(),
    leaseMs,
  };
  try {
    let outcome = await store.admit(admission);
    if (outcome.type === "hit") {
      const answer = await openEntry(sealer, place, outcome.entry);
      if (answer !== undefined) return hit(call, answer, outcome);
      // The entry does not open: as if there were none. The request is paid for already.
      outcome = await store.admit({ ...admission, lookUp: undefined, requests: 0 });
    }
    return forward(outcome, wish, wish.keep ? place : undefined);
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    return withoutStore(call, error, limiterFails, wish);
  }
}

/**
 * Bounds what the answer may cost.
 *
 * The prompt is estimated at a token for three bytes of the question: above English prose and below Chinese; real usage
 * replaces it afterwards.
 *
 * @throws {ColdpathError} `context_length_exceeded` where the request asks for more than the model can ever hold
 */
export function estimateTokens(
  { request }: Question,
  { canonical }: Identity,
  { model, answerTokensDefault }: { readonly model: Model; readonly answerTokensDefault: number },
): TokenEstimate {
  const [param, asked] =
    typeof request.max_completion_tokens === "number"
      ? ["max_completion_tokens", request.max_completion_tokens]
      : ["max_tokens", request.max_tokens ?? undefined];
  if (asked !== undefined && asked > model.context_length) {
    const message = `${param} is ${asked}, but the context of "${model.id}" is ${model.context_length} tokens long`;
    throw new ColdpathError("context_length_exceeded", message, { param });
  }
  const promptTokens = Math.min(Math.ceil(new TextEncoder().encode(canonical).length / 3), model.context_length);
  return {
    promptTokens,
    answerTokensMax: Math.min(asked ?? answerTokensDefault, model.context_length - promptTokens),
  };
}

function limitScopes({ subject, plan }: Caller): readonly LimitScope[] {
  const own: LimitScope = { name: "subject", id: subject, limits: plan };
  return plan.tenant === undefined ? [own] : [own, { name: "tenant", id: "", limits: plan.tenant }];
}

function hit(call: Call, answer: Answer, outcome: AdmitOutcome & { readonly type: "hit" }): Admitted {
  const ageSeconds = Math.max(Math.floor(call.platform.now() / 1000) - outcome.entry.storedAt, 0);
  return { type: "hit", answer, ageSeconds, headers: rateLimitHeaders(outcome.balances) };
}

function forward(outcome: AdmitOutcome, wish: CacheWish, keepAt: EntryPlace | undefined): Admitted {
  const headers = rateLimitHeaders(outcome.balances);
  switch (outcome.type) {
    case "reserved":
      return {
        type: "forward",
        reservation: outcome.reservation,
        keepAt,
        cache: wish.read ? "MISS" : "BYPASS",
        shared: wish.read,
        headers,
      };
    case "absent":
      throw notCached(headers);
    case "denied":
      throw denied(outcome, headers);
    case "hit":
      throw new Error("a store without a look-up can't hit");
    default:
      return outcome satisfies never;
  }
}

function denied(
  { limit, scope, retryInMs }: AdmitOutcome & { readonly type: "denied" },
  headers: Readonly<Record<string, string>>,
): ColdpathError {
  const whose = scope.name === "tenant" ? "the tenant's" : "your";
  const retryAfterSeconds = Math.max(Math.ceil(retryInMs / 1000), SLOT_RETRY_SECONDS);
  const detail = { retryAfterSeconds, headers };
  switch (limit) {
    case "requests":
      return new ColdpathError(
        "request_limit_exceeded",
        `${whose} limit of ${scope.limits.requestsPerMinute} requests a minute is reached`,
        detail,
      );
    case "tokens":
      return new ColdpathError(
        "token_limit_exceeded",
        `${whose} limit of ${scope.limits.tokensPerMinute} tokens a minute leaves no room for this request`,
        detail,
      );
    case "streams":
      return new ColdpathError(
        "stream_limit_exceeded",
        `${whose} limit of ${scope.limits.streamsMax} answers at once is reached`,
        detail,
      );
    default:
      return limit satisfies never;
  }
}

function withoutStore(call: Call, error: StoreUnavailable, limiterFails: "open" | "closed", wish: CacheWish): Admitted {
  call.record.cause = `the regional store: ${error.message}`;
  if (limiterFails === "closed") {
    throw new ColdpathError("limiter_unavailable", "limits can't be checked now, and this endpoint requires it", {
      retryAfterSeconds: STORE_RETRY_SECONDS,
      cause: error,
    });
  }
  const outcome = { allowed: true, because: "limiter-unreachable" } as const;
  call.record.degraded = outcome.because;
  const headers = { "x-degraded": outcome.because };
  if (wish.onlyIfCached) throw notCached(headers);
  // Nothing can be looked up now: all the more reason to let equal questions share one answer.
  return { type: "forward", reservation: undefined, keepAt: undefined, cache: "BYPASS", shared: wish.read, headers };
}

function notCached(headers: Readonly<Record<string, string>>): ColdpathError {
  return new ColdpathError("not_cached", "there is no stored answer, and only-if-cached allows no other", { headers });
}
