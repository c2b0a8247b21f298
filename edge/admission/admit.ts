/**
 * May it, now, and is the answer known? The isolate's memory says so where it can; else one call to the regional store
 * decides both. Without the store the outcome has a name and a knob: it goes on unlimited, with what the isolate still
 * remembers, or is refused. Knows no origin.
 */
import { ColdpathError } from "../../shared/errors.ts";
import { renderAnswer } from "../answer/answer.ts";
import type { Caller } from "../auth/authenticate.ts";
import { readCacheWish, type CacheWish } from "./cache-control.ts";
import type { Call } from "../call/call.ts";
import { ageOf, isolateHit, type Hit } from "./isolate-hit.ts";
import type { IsolateMemory } from "../cache/memory.ts";
import { openEntry, type EntryPlace } from "../cache/look-up.ts";
import type { MostAsked } from "../cache/most-asked.ts";
import type { PermitLease, Permits } from "./permits.ts";
import { rateLimitHeaders } from "./rate-limit-headers.ts";
import {
  NO_PERMITS,
  StoreUnavailable,
  type Admission,
  type AdmitOutcome,
  type Freshness,
  type RegionalStore,
  type Reservation,
  type StoredEntry,
} from "../regional/regional-store.ts";
import { revoked } from "../auth/revoke.ts";
import type { Sealer } from "../cache/seal.ts";
import type { KnownQuestion } from "../question/known-question.ts";
import type { ReplyForm } from "../question/reply-form.ts";

export type Admitted =
  | Hit
  | {
      readonly type: "forward";
      /** `undefined` when the limiter could not be asked. */
      readonly reservation: Reservation | undefined;
      /** Where to keep the answer; `undefined` when it is not to be kept. */
      readonly keepAt: EntryPlace | undefined;
      /** The tenant's purge that the answer is good for. */
      readonly generation: string;
      readonly cache: "MISS" | "BYPASS";
      /** An answer past its time, and what it is good for: the reply while this one is made, or if that fails. */
      readonly stale: { readonly hit: Hit; readonly use: "while-revalidating" | "if-error" } | undefined;
      /** Whether the answer may be shared with those who ask the same meanwhile. */
      readonly shared: boolean;
      readonly headers: Readonly<Record<string, string>>;
    };

interface AdmitAsked {
  readonly caller: Caller;
  readonly known: KnownQuestion;
}

interface AdmitParts {
  readonly store: RegionalStore;
  readonly sealer: Sealer;
  readonly isolate: IsolateMemory;
  readonly permits: Permits;
  readonly asked: MostAsked;
  readonly limiterFails: "open" | "closed";
  /** How long an answer is fresh. */
  readonly cacheTtlSeconds: number;
  /** And how long it is given after that, while it is made anew. */
  readonly cacheStaleSeconds: number;
  /** And how long where no origin answers. */
  readonly cacheErrorSeconds: number;
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
 * @throws {ColdpathError} `request_limit_exceeded`, `token_limit_exceeded`, `token_budget_exceeded`,
 * `stream_limit_exceeded`, `not_cached`, `limiter_unavailable`, `token_revoked`
 */
export async function admit(call: Call, parts: AdmitParts, asked: AdmitAsked): Promise<Admitted> {
  const { caller, known } = asked;
  const { digest, estimate, form } = known;
  const wish = readCacheWish(call.request.header("cache-control"));
  const { ageMaxSeconds } = wish;
  const remembered = wish.read ? isolateHit(parts, call, { caller, digest, form, ageMaxSeconds }) : undefined;
  if (remembered !== undefined) return remembered;
  try {
    return await admitInRegion(call, parts, asked, wish, {
      tenant: caller.tenant,
      tokenId: caller.tokenId,
      scopes: caller.scopes,
      lookUp: wish.read ? { digest, ...freshness(parts, wish) } : undefined,
      otherwise: wish.onlyIfCached ? "report" : "reserve",
      requests: 1,
      tokens: estimate.promptTokens + estimate.answerTokensMax,
      leaseId: call.platform.randomId(),
      leaseMs: parts.leaseMs,
      permits: NO_PERMITS,
    });
  } catch (error) {
    if (!(error instanceof StoreUnavailable)) throw error;
    return withoutStore(call, parts, asked, wish, error);
  }
}

async function admitInRegion(
  call: Call,
  parts: AdmitParts,
  { caller, known: { digest, form } }: AdmitAsked,
  wish: CacheWish,
  admission: Admission,
): Promise<Admitted> {
  const { store, isolate, permits, cacheTtlSeconds } = parts;
  const place: EntryPlace = { tenant: caller.tenant, digest };
  const pay = (unpaid: Admission): Promise<AdmitOutcome> => admitPaid(call, store, permits.of(caller), unpaid);
  let outcome = await pay(admission);
  // This call's own numbers: others of the caller may have been answered meanwhile.
  const headersNow = (): Readonly<Record<string, string>> =>
    rateLimitHeaders(outcome.balances, { held: permits.of(caller).left(call.platform.now()) });
  if (outcome.type === "hit") {
    const { entry, grant } = outcome;
    const body = await open(parts, place, entry, form);
    if (body !== undefined) {
      const nowMs = call.platform.now();
      const { storedAt } = entry;
      const expiresMs = (storedAt + cacheTtlSeconds) * 1000;
      isolate.keepReply(digest, form, { body, storedAt, expiresMs, generation: grant.generation });
      const ageSeconds = ageOf(entry, nowMs);
      return { type: "hit", tier: "regional", body, ageSeconds, stale: nowMs >= expiresMs, headers: headersNow() };
    }
    noteBroken(call);
    // The entry does not open: as if there were none. The request is paid for already.
    outcome = await pay({ ...admission, lookUp: undefined, requests: 0 });
  }
  const headers = headersNow();
  const admitted = forward(outcome, headers, wish, wish.keep ? place : undefined);
  const stored = outcome.type === "reserved" ? outcome.entry : undefined;
  if (stored === undefined) return admitted;
  const body = await open(parts, place, stored, form);
  if (body === undefined) {
    noteBroken(call);
    return admitted;
  }
  const ageSeconds = ageOf(stored, call.platform.now());
  const use = ageSeconds <= cacheTtlSeconds + parts.cacheStaleSeconds ? "while-revalidating" : "if-error";
  return {
    ...admitted,
    stale: { hit: { type: "hit", tier: "regional", body, ageSeconds, stale: true, headers }, use },
  };
}

/** A client that names an age gets no older answer, whatever the operator allows. */
function freshness(
  { cacheTtlSeconds, cacheStaleSeconds, cacheErrorSeconds }: AdmitParts,
  { ageMaxSeconds }: CacheWish,
): Freshness {
  if (ageMaxSeconds !== undefined) {
    return { freshSeconds: Math.min(ageMaxSeconds, cacheTtlSeconds), staleSeconds: 0, errorSeconds: 0 };
  }
  return { freshSeconds: cacheTtlSeconds, staleSeconds: cacheStaleSeconds, errorSeconds: cacheErrorSeconds };
}

/** The stored answer as the reply. @returns `undefined` where it does not open */
async function open(
  { sealer }: AdmitParts,
  place: EntryPlace,
  entry: StoredEntry,
  form: ReplyForm,
): Promise<string | undefined> {
  const answer = await openEntry(sealer, place, entry);
  return answer === undefined ? undefined : renderAnswer(answer, form);
}

/** Changed, moved, cut, or sealed under a secret that is gone: worth a word, because none of it happens by itself. */
function noteBroken(call: Call): void {
  call.record.degraded = "entry-unreadable";
  call.record.unreadable = true;
}

/**
 * Asks the region. A permit that the caller holds pays for the request, so that nobody is refused who has paid already;
 * and because permits may arrive while a refusal is on its way, a refused request looks once more.
 */
async function admitPaid(
  call: Call,
  store: RegionalStore,
  lease: PermitLease,
  admission: Admission,
): Promise<AdmitOutcome> {
  const askedMs = call.platform.now();
  const paid = admission.requests === 1 && lease.take(askedMs);
  const permits = paid || admission.requests === 0 ? lease.ask(askedMs) : lease.askFor(askedMs);
  let outcome: AdmitOutcome;
  try {
    outcome = await store.admit({ ...admission, requests: paid ? 0 : admission.requests, permits }, call);
  } catch (error) {
    lease.failed(permits);
    throw error;
  }
  lease.granted(permits, outcome.grant, outcome.balances, askedMs);
  if (outcome.type !== "denied") return outcome;
  if (paid) lease.putBack();
  if (outcome.limit === "requests" && admission.requests === 1 && lease.left(call.platform.now()) > 0) {
    return admitPaid(call, store, lease, admission);
  }
  return outcome;
}

function forward(
  outcome: AdmitOutcome,
  headers: Readonly<Record<string, string>>,
  wish: CacheWish,
  keepAt: EntryPlace | undefined,
): Admitted & { readonly type: "forward" } {
  switch (outcome.type) {
    case "reserved": {
      const { reservation, grant } = outcome;
      const cache = wish.read ? "MISS" : "BYPASS";
      const { generation } = grant;
      return { type: "forward", reservation, keepAt, generation, cache, shared: wish.read, stale: undefined, headers };
    }
    case "absent":
      throw notCached(headers);
    case "revoked":
      throw revoked();
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
    case "day":
    case "month": {
      const tokens = limit === "day" ? scope.limits.tokensPerDay : scope.limits.tokensPerMonth;
      return new ColdpathError(
        "token_budget_exceeded",
        `${whose} budget of ${tokens} tokens a ${limit} has too little left for this request; it begins anew at 00:00 UTC`,
        detail,
      );
    }
    default:
      return limit satisfies never;
  }
}

function withoutStore(
  call: Call,
  { limiterFails, isolate }: AdmitParts,
  { known: { digest, form } }: AdmitAsked,
  wish: CacheWish,
  error: StoreUnavailable,
): Admitted {
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
  const nowMs = call.platform.now();
  const reply = wish.read ? isolate.reply(digest, form, nowMs) : undefined;
  if (reply !== undefined && nowMs / 1000 - reply.storedAt <= (wish.ageMaxSeconds ?? Infinity)) {
    return { type: "hit", tier: "isolate", body: reply.body, ageSeconds: ageOf(reply, nowMs), stale: false, headers };
  }
  if (wish.onlyIfCached) throw notCached(headers);
  // Nothing can be looked up now: all the more reason to let equal questions share one answer.
  const unlimited = { reservation: undefined, keepAt: undefined, generation: "" } as const;
  return { type: "forward", ...unlimited, cache: "BYPASS", shared: wish.read, stale: undefined, headers };
}

function notCached(headers: Readonly<Record<string, string>>): ColdpathError {
  return new ColdpathError("not_cached", "there is no stored answer, and only-if-cached allows no other", { headers });
}
