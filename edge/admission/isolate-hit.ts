/**
 * An answer out of the isolate's memory, paid for with a permit: the one place where a reply is given without asking
 * the region. More permits are fetched behind it. Knows neither bodies nor tokens.
 */
import type { Caller } from "../auth/authenticate.ts";
import type { Call } from "../call/call.ts";
import type { IsolateMemory } from "../cache/memory.ts";
import type { MostAsked } from "../cache/most-asked.ts";
import type { PermitLease, Permits } from "./permits.ts";
import { StoreUnavailable, type RegionalStore } from "../regional/regional-store.ts";
import type { ReplyForm } from "../question/reply-form.ts";

export interface IsolateParts {
  readonly isolate: IsolateMemory;
  readonly permits: Permits;
  readonly store: RegionalStore;
  readonly asked: MostAsked;
}

/** A stored answer as the reply to this request, wherever it was found. */
export interface Hit {
  readonly type: "hit";
  readonly tier: "isolate" | "regional";
  /** Written in the form that was asked for. */
  readonly body: string;
  readonly ageSeconds: number;
  /** Past its time. */
  readonly stale: boolean;
  readonly headers: Readonly<Record<string, string>>;
}

export interface Wanted {
  readonly caller: Caller;
  readonly digest: string;
  readonly form: ReplyForm;
  /** `undefined` takes any. */
  readonly ageMaxSeconds?: number | undefined;
}

/** @returns `undefined` where there is no such reply, it may have been purged, or no permit is left: ask the region */
export function isolateHit(
  { isolate, permits, store, asked }: IsolateParts,
  call: Call,
  { caller, digest, form, ageMaxSeconds = Infinity }: Wanted,
): Hit | undefined {
  // Not the request's start: a body that came in slowly must not stretch a permit's life.
  const nowMs = call.platform.now();
  const reply = isolate.reply(digest, form, nowMs);
  if (reply === undefined) return undefined;
  const lease = permits.of(caller);
  if (reply.generation !== lease.generation || nowMs / 1000 - reply.storedAt > ageMaxSeconds) return undefined;
  if (!lease.take(nowMs)) return undefined;
  if (lease.needsRenewal(nowMs)) {
    asked.note(call, { tenant: caller.tenant, digest, times: lease.used });
    call.waitUntil(renew(store, call, caller, lease));
  }
  return {
    type: "hit",
    tier: "isolate",
    body: reply.body,
    ageSeconds: ageOf(reply, nowMs),
    stale: false,
    headers: lease.rateLimits(nowMs),
  };
}

/** Whole seconds since it was stored. */
export function ageOf({ storedAt }: { readonly storedAt: number }, nowMs: number): number {
  return Math.max(Math.floor(nowMs / 1000) - storedAt, 0);
}

/** Asks for nothing but permits. Where the region can't be asked, those that are left run out, and the next one waits. */
async function renew(store: RegionalStore, call: Call, caller: Caller, lease: PermitLease): Promise<void> {
  const askedMs = call.platform.now();
  const permits = lease.ask(askedMs);
  try {
    const { grant, balances } = await store.admit({
      tenant: caller.tenant,
      tokenId: caller.tokenId,
      scopes: caller.scopes,
      lookUp: undefined,
      otherwise: "report",
      requests: 0,
      tokens: 0,
      leaseId: "",
      leaseMs: 0,
      permits,
    });
    lease.granted(permits, grant, balances, askedMs);
  } catch (error) {
    lease.failed(permits);
    if (!(error instanceof StoreUnavailable)) throw error;
  }
}
