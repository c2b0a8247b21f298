/**
 * The port to the regional store: one call admits a request and looks its answer up, one settles what it cost, and a
 * few move plain values. Two adapters stand behind it, `redis.ts` and `memory.ts`, and one conformance suite holds both
 * to this text. Knows nothing of HTTP towards the client, of answers' contents or of tokens' claims.
 *
 * Requests and tokens are token buckets of one minute, kept as GCRA (ITU-T I.371): per bucket one number, the time at
 * which it will be full again. That time is a share of the window, so a subject whose plan changes keeps its share.
 * Concurrent streams are leases with an expiry, so a crashed isolate leaks none.
 *
 * Token budgets are counters of a calendar day and month in UTC, of the store's clock. A request counts in the windows in
 * which it was admitted: reserved then, corrected to what it used as long as the window lasts. So a budget is exceeded by
 * no more than what the answers running at once use beyond their reservations; what a crashed isolate reserved stays
 * spent until the window ends, because what it used is not known.
 */
import type { Limits } from "../auth/plans.ts";

/** Every bucket holds this long's worth of its limit, in seconds. */
export const WINDOW_SECONDS = 60;

/** One circle of limits around a request: its subject's, and its tenant's where the plan has one. */
export interface LimitScope {
  readonly name: "subject" | "tenant";
  /** The subject's name; empty for the tenant itself. */
  readonly id: string;
  readonly limits: Limits;
}

/** What an admission asks for. */
export interface Admission {
  readonly tenant: string;
  /** The token that asks, empty where it has no id; a revoked one is refused. */
  readonly tokenId: string;
  /** The scopes that must all agree; at least one. */
  readonly scopes: readonly LimitScope[];
  /** Whose answer is wanted; `undefined` asks for none. */
  readonly lookUp: ({ readonly digest: string } & Freshness) | undefined;
  /** Without an answer: reserve tokens and a stream slot, or just say that it is absent. */
  readonly otherwise: "reserve" | "report";
  /** 0 where the same client request was charged already. */
  readonly requests: 0 | 1;
  /** To reserve; a scope whose limit is lower reserves that, so that no request is refused for ever. */
  readonly tokens: number;
  readonly leaseId: string;
  readonly leaseMs: number;
  readonly permits: PermitAsk;
}

/** How old an answer may be, in seconds since it was stored. */
export interface Freshness {
  readonly freshSeconds: number;
  /** After that it is still a hit for this long, while one request reserves and refreshes it. */
  readonly staleSeconds: number;
  /** After it was fresh, who reserves is told the old answer for this long, for the case that no origin answers. */
  readonly errorSeconds: number;
}

/** Requests that an isolate pays for in advance, so that it can answer them without asking. */
export interface PermitAsk {
  /** Granted as far as half of what is left after this request; 0 asks for none. */
  readonly wanted: number;
  /** Paid for earlier and never used: given back as far as they have not been refilled meanwhile. */
  readonly unspent: number;
  /** The `fullAt` of the grant those came from, one a scope. */
  readonly fullAt: readonly string[];
}

/** What an isolate may do by itself for a while, and as of which purge. */
export interface Grant {
  readonly permits: number;
  /** When each scope's requests bucket is full again after this, in store microseconds as text. */
  readonly fullAt: readonly string[];
  /**
   * Under which the tenant's answers are kept, and those being made are asked for. Changes with every purge of them, may
   * change for no reason, and is never one again that it was. Whoever holds an answer under another drops it.
   */
  readonly generation: string;
}

/** Asks for none and gives none back. */
export const NO_PERMITS: PermitAsk = { wanted: 0, unspent: 0, fullAt: [] };

/** What a scope has left after the call. */
export interface Balance {
  readonly scope: LimitScope;
  readonly requests: BucketBalance;
  readonly tokens: BucketBalance;
  readonly streamsLeft: number;
  /** Of the scope's budgets, the day's before the month's; mostly none. */
  readonly budgets: readonly BudgetBalance[];
}

export interface BudgetBalance {
  readonly window: BudgetWindow;
  /** Tokens in all. */
  readonly max: number;
  readonly left: number;
  /** Until it begins anew. */
  readonly fullInMs: number;
  /** A month's differs. */
  readonly windowSeconds: number;
}

export type BudgetWindow = "day" | "month";

/** The calendar windows of an admission, as the store names them. */
export interface Windows {
  readonly day: number;
  readonly month: number;
}

interface BucketBalance {
  readonly left: number;
  /** Until it is full again. */
  readonly fullInMs: number;
}

export type LimitName = "requests" | "tokens" | "streams" | BudgetWindow;

/** Tokens and slots held for one running answer; handed back to `settle`. */
export interface Reservation {
  readonly tenant: string;
  readonly leaseId: string;
  /** Asked for; a limit that is lower reserved as much as it is. */
  readonly tokens: number;
  /** Charged; 0 where no scope has a budget. */
  readonly windows: Windows;
  readonly scopes: readonly {
    readonly scope: LimitScope;
    /** Out of the minute's bucket. */
    readonly tokens: number;
    /**
     * When the tokens' bucket is full again, in store microseconds as text. A refund ends here: what has drained by
     * then was refilled already, and paying it back again would mint tokens.
     */
    readonly fullAt: string;
  }[];
}

export type AdmitOutcome = { readonly balances: readonly Balance[]; readonly grant: Grant } & (
  | { readonly type: "hit"; readonly entry: StoredEntry }
  /** With a stale entry where there is one of use. */
  | { readonly type: "reserved"; readonly reservation: Reservation; readonly entry: StoredEntry | undefined }
  | { readonly type: "absent" }
  /** The token was taken back; nothing is said of limits. */
  | { readonly type: "revoked" }
  | {
      readonly type: "denied";
      readonly limit: LimitName;
      readonly scope: LimitScope;
      /** Until the same call could pass; 0 where no time can be named, as for stream slots. */
      readonly retryInMs: number;
    }
);

/** An answer at rest: opaque text and when it was made. */
export interface StoredEntry {
  /** Unix seconds. */
  readonly storedAt: number;
  /** ASCII. */
  readonly sealed: string;
}

/** An answer to be kept. */
export interface Keeping {
  readonly digest: string;
  readonly entry: StoredEntry;
  readonly ttlSeconds: number;
  /** The tenant's generation when it was asked for. */
  readonly generation: string;
}

/**
 * What became of it. `purged`: the tenant's answers were, since this one was asked for. `refused`: the store has no room,
 * or may not write. `none`: there was nothing to keep.
 */
export type Kept = "kept" | "purged" | "refused" | "none";

export interface AskedCount {
  readonly digest: string;
  readonly times: number;
}

/** In which a question's count in the most-asked list halves, in seconds. */
export const ASKED_HALF_LIFE_SECONDS = 86_400;
/** After which a list that nobody adds to is forgotten. */
export const ASKED_KEPT_SECONDS = 30 * 86_400;

/**
 * Who waits: one request's time for the store is one, however many methods it calls and commands these take. Background
 * work has the whole of it for each method.
 */
export interface StoreWaiter {
  /** Milliseconds that were waited so far; the store adds to them. */
  storeWaitedMs: number;
}

/**
 * Every method throws {StoreUnavailable} when the store can't be asked or answers nonsense. Each ends within the store's
 * time, except those that walk through all keys, where every step does.
 */
export interface RegionalStore {
  /** Checks everything, then takes everything or nothing: a refusal leaves no trace. */
  admit(admission: Admission, waiter?: StoreWaiter): Promise<AdmitOutcome>;
  /**
   * Corrects a reservation to what was used and returns its slot: a second call, or one after expiry, corrects nothing.
   * In the same round trip the answer is kept; that it can't be does not keep the slot.
   */
  settle(reservation: Reservation, usedTokens: number, keeping?: Keeping): Promise<Kept>;
  /** Ends a refresh, so that the next asking of a stale answer may begin another. */
  endRefresh(tenant: string, digest: string): Promise<void>;
  /**
   * Removes entries and gives every tenant concerned a new generation, so that isolates drop theirs and what is being
   * answered meanwhile is not kept. The questions of the most-asked list go with them, except for a model's.
   *
   * @returns how many entries there were
   */
  purge(target: PurgeTarget): Promise<number>;
  /** How many entries there are of one tenant, or of all. */
  countEntries(tenant: string | undefined): Promise<number>;
  /**
   * Adds to a tenant's list of what it asks most, of `max` questions at most; what was asked a day ago counts half.
   *
   * @returns the digests whose question is not kept yet
   */
  countAsked(tenant: string, asked: readonly AskedCount[], max: number): Promise<readonly string[]>;
  /** @param questions - digest and sealed text; one that has left the list meanwhile is not kept */
  keepQuestions(tenant: string, questions: readonly (readonly [string, string])[]): Promise<void>;
  /** Most asked first, those whose question is kept. */
  topAsked(tenant: string, count: number): Promise<readonly (AskedCount & { readonly sealed: string })[]>;
  /** Values of no tenant, by name. */
  keepShared(name: string, value: string, ttlSeconds: number): Promise<void>;
  readShared(name: string, waiter?: StoreWaiter): Promise<string | undefined>;
  /** From now on `admit` refuses the token. @param expiresAt - Unix seconds; it is remembered until then */
  revoke(tenant: string, tokenId: string, expiresAt: number): Promise<void>;
  isRevoked(tenant: string, tokenId: string, waiter?: StoreWaiter): Promise<boolean>;
  ping(): Promise<void>;
}

/** Which entries: those that agree with every given field; with nothing given, all. */
export interface PurgeTarget {
  readonly tenant?: string | undefined;
  /** What the digests of one model's answers begin with. */
  readonly digestPrefix?: string | undefined;
  readonly digest?: string | undefined;
}

/** The store can't be asked; the caller goes on degraded, and says so. */
export class StoreUnavailable extends Error {
  override readonly name = "StoreUnavailable";
  /** Whether it answered, if only by refusing; was silent for all of its time; or was not asked at all. */
  readonly heard: Heard;

  constructor(message: string, detail: { readonly cause?: unknown; readonly heard?: Heard } = {}) {
    super(message, { cause: detail.cause });
    this.heard = detail.heard ?? "answered";
  }
}

type Heard = "answered" | "silent" | "not-asked";

/** An entry as the one text both adapters keep: the age can be read without opening the rest. */
export function writeEntry(entry: StoredEntry): string {
  return `${entry.storedAt}.${entry.sealed}`;
}

/** @returns `undefined` for a text that `writeEntry` never wrote */
export function readEntry(text: string): StoredEntry | undefined {
  const match = /^(\d{1,12})\.([\w+/=-]+)$/.exec(text);
  return match === null ? undefined : { storedAt: Number(match[1]), sealed: match[2] ?? "" };
}

export function hasBudget({ limits }: LimitScope): boolean {
  return limits.tokensPerDay !== undefined || limits.tokensPerMonth !== undefined;
}

/** What each window's counter says, as the balances of those budgets that the scope has. */
export function budgetBalances(
  { limits }: LimitScope,
  windows: Readonly<Record<BudgetWindow, Omit<BudgetBalance, "window" | "max">>>,
): readonly BudgetBalance[] {
  const of = (window: BudgetWindow, max: number | undefined): readonly BudgetBalance[] =>
    max === undefined ? [] : [{ window, max, ...windows[window] }];
  return [...of("day", limits.tokensPerDay), ...of("month", limits.tokensPerMonth)];
}
