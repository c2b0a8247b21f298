/**
 * The regional store inside one isolate: for a stack without Redis. The same promises as `redis.ts`, shared with no
 * other process and gone with the isolate. The arithmetic is that of the Lua scripts, on purpose line by line.
 */
import { Lru } from "../../shared/lru.ts";
import type { Platform } from "../platform/platform.ts";
import { AskedLists } from "./memory-asked.ts";
import {
  budgetBalances,
  hasBudget,
  readEntry,
  StoreUnavailable,
  WINDOW_SECONDS,
  writeEntry,
  type Admission,
  type AdmitOutcome,
  type Balance,
  type BudgetWindow,
  type Grant,
  type Keeping,
  type Kept,
  type LimitName,
  type LimitScope,
  type PermitAsk,
  type PurgeTarget,
  type RegionalStore,
  type Reservation,
  type StoredEntry,
} from "./regional-store.ts";

interface MemoryOptions {
  /** Entries' text, least recently used first out. */
  readonly bytesMax: number;
  /** Buckets and sets of leases together. */
  readonly bucketsMax: number;
}

interface Value {
  readonly text: string;
  readonly expiresMs: number;
}

/** One bucket in one admission. Times in microseconds. */
interface Bucket {
  readonly key: string;
  /** What one unit takes to refill. */
  readonly each: number;
  readonly cost: number;
  /** What it holds when it is full. */
  readonly max: number;
  fullAt: number;
}

interface ScopeState {
  readonly scope: LimitScope;
  readonly requests: Bucket;
  readonly tokens: Bucket;
  readonly leases: string;
  readonly budget: Budget | undefined;
  streamsLeft: number;
}

/** What a scope's calendar windows were charged with. */
interface Spent {
  readonly day: number;
  ofDay: number;
  readonly month: number;
  ofMonth: number;
}

interface Budget {
  readonly key: string;
  readonly spent: Spent;
}

/** The calendar at one moment, in UTC; milliseconds. */
interface Calendar {
  readonly day: number;
  readonly dayEndMs: number;
  /** Months since the beginning of year 0. */
  readonly month: number;
  readonly monthEndMs: number;
  readonly monthSeconds: number;
}

const DAY_MS = 86_400_000;
const WINDOW = WINDOW_SECONDS * 1_000_000;
const ROUNDING = 1;
/** A token may be taken a little longer than it says. */
const CLOCKS_APART_SECONDS = 60;

/** An embedded store; `platform.now` is its clock. */
export function createMemoryStore(platform: Pick<Platform, "now">, options: MemoryOptions): RegionalStore {
  const values = new Lru<Value>({ weightMax: options.bytesMax, weigh: ({ text }) => text.length });
  const limiter = new Limiter(platform, options.bucketsMax);
  const read = (key: string): string | undefined => {
    const value = values.get(key);
    return value === undefined || value.expiresMs <= platform.now() ? undefined : value.text;
  };
  const keep = (key: string, text: string, ttlSeconds: number): void =>
    values.set(key, { text, expiresMs: platform.now() + ttlSeconds * 1000 });
  const generations = new Generations(options.bucketsMax);
  const keepEntry = (tenant: string, { digest, entry, ttlSeconds, generation }: Keeping): Kept => {
    if (generation !== generations.of(tenant)) return "purged";
    keep(entryKey(tenant, digest), writeEntry(entry), ttlSeconds);
    return "kept";
  };
  const asked = new AskedLists(platform, options.bucketsMax);
  const revoked = new Revoked(platform, options.bucketsMax);
  return {
    admit: async (admission) => {
      if (revoked.has(admission.tenant, admission.tokenId)) {
        return { type: "revoked", balances: [], grant: { permits: 0, fullAt: [], generation: "" } };
      }
      const text =
        admission.lookUp === undefined ? undefined : read(entryKey(admission.tenant, admission.lookUp.digest));
      const generation = generations.of(admission.tenant);
      const refreshing = refreshKey(admission.tenant, admission.lookUp?.digest ?? "");
      const { outcome, refreshes } = limiter.admit(admission, {
        entry: text === undefined ? undefined : readEntry(text),
        generation,
        isRefreshed: read(refreshing) !== undefined,
      });
      if (refreshes) keep(refreshing, "1", admission.leaseMs / 1000);
      return outcome;
    },
    settle: async (reservation, usedTokens, keeping) => {
      limiter.settle(reservation, usedTokens);
      return keeping === undefined ? "none" : keepEntry(reservation.tenant, keeping);
    },
    endRefresh: async (tenant, digest) => values.delete(refreshKey(tenant, digest)),
    purge: async (target) => {
      const entries = [...values.keys()].map(readEntryKey).filter((entry) => matches(target, entry));
      for (const entry of entries) if (entry !== undefined) values.delete(entryKey(entry.tenant, entry.digest));
      asked.forget(target);
      generations.renew(target.tenant);
      return entries.length;
    },
    countEntries: async (tenant) => [...values.keys()].filter((key) => matches({ tenant }, readEntryKey(key))).length,
    countAsked: async (tenant, counts, max) => asked.count(tenant, counts, max),
    keepQuestions: async (tenant, questions) => asked.keep(tenant, questions),
    topAsked: async (tenant, count) => asked.top(tenant, count),
    keepShared: async (name, value, ttlSeconds) => keep(name, value, ttlSeconds),
    readShared: async (name) => read(name),
    revoke: async (tenant, tokenId, expiresAt) => revoked.add(tenant, tokenId, expiresAt),
    isRevoked: async (tenant, tokenId) => revoked.has(tenant, tokenId),
    ping: async () => {},
  };
}

/** Changes with each purge of a tenant or of all, and never goes back to one that was. */
class Generations {
  readonly #max: number;
  readonly #ofTenants = new Map<string, string>();
  #ofAll = "";

  constructor(max: number) {
    this.#max = max;
  }

  of(tenant: string): string {
    return this.#ofTenants.get(tenant) ?? this.#ofAll;
  }

  renew(tenant: string | undefined): void {
    if (tenant === undefined || (this.#ofTenants.size >= this.#max && !this.#ofTenants.has(tenant))) {
      // Forgetting one of them alone would bring its tenant's purged answers back to life.
      this.#ofTenants.clear();
      this.#ofAll = crypto.randomUUID();
    } else this.#ofTenants.set(tenant, crypto.randomUUID());
  }
}

class Revoked {
  readonly #platform: Pick<Platform, "now">;
  readonly #max: number;
  /** Key → expiry in Unix seconds. */
  readonly #tokens = new Map<string, number>();

  constructor(platform: Pick<Platform, "now">, max: number) {
    this.#platform = platform;
    this.#max = max;
  }

  has(tenant: string, tokenId: string): boolean {
    return this.#tokens.has(revokedKey(tenant, tokenId));
  }

  /** None is dropped before it has expired. */
  add(tenant: string, tokenId: string, expiresAt: number): void {
    const nowSeconds = this.#platform.now() / 1000;
    for (const [key, expiry] of this.#tokens) if (expiry <= nowSeconds - CLOCKS_APART_SECONDS) this.#tokens.delete(key);
    if (this.#tokens.size >= this.#max) throw new StoreUnavailable("the memory store holds as many tokens as it may");
    this.#tokens.set(revokedKey(tenant, tokenId), expiresAt);
  }
}

/** What the store knows of an admission before its limits are looked at. */
interface Found {
  readonly entry: StoredEntry | undefined;
  readonly generation: string;
  /** Whether somebody refreshes the entry already. */
  readonly isRefreshed: boolean;
}

/** Seconds since the entry was fresh, and whether it is still a hit, or at least told to who reserves. */
interface Age {
  readonly past: number;
  readonly given: boolean;
  readonly told: boolean;
}

class Limiter {
  readonly #platform: Pick<Platform, "now">;
  readonly #statesMax: number;
  /** Bucket key → when it is full again; an absent one is full. */
  readonly #fullAt = new Map<string, number>();
  /** Scope key → lease id → expiry. */
  readonly #leases = new Map<string, Map<string, number>>();
  readonly #spent = new Map<string, Spent>();

  constructor(platform: Pick<Platform, "now">, statesMax: number) {
    this.#platform = platform;
    this.#statesMax = statesMax;
  }

  admit(admission: Admission, found: Found): { readonly outcome: AdmitOutcome; readonly refreshes: boolean } {
    const { freshSeconds = 0, staleSeconds = 0, errorSeconds = 0 } = admission.lookUp ?? {};
    const past =
      found.entry === undefined ? Infinity : this.#platform.now() / 1000 - found.entry.storedAt - freshSeconds;
    const age = { past, given: past <= staleSeconds, told: past <= errorSeconds };
    const outcome = this.#decide(admission, found, age);
    return { outcome, refreshes: outcome.type === "reserved" && age.given };
  }

  #decide(admission: Admission, { entry, generation, isRefreshed }: Found, { past, given, told }: Age): AdmitOutcome {
    const now = this.#platform.now() * 1000;
    this.#makeRoom(now, admission.scopes.length * 3 + admission.scopes.filter(hasBudget).length);
    const calendar = calendarAt(now / 1000);
    const states = admission.scopes.map((scope) => this.#stateOf(scope, admission, now, calendar));
    this.#giveBack(states, admission.permits, now);
    const said = (permits: number): { readonly balances: Balance[]; readonly grant: Grant } => ({
      balances: states.map((state) => balanceOf(state, now, calendar)),
      grant: { permits, generation, fullAt: states.map(({ requests }) => String(requests.fullAt)) },
    });
    const allowed = () => said(this.#grant(states, admission.permits.wanted, now));
    const denied = (state: ScopeState, limit: LimitName, retryIn: number): AdmitOutcome => {
      return { type: "denied", limit, scope: state.scope, retryInMs: Math.ceil(retryIn / 1000), ...said(0) };
    };

    // What refuses longest: whoever comes back before that would be refused again.
    let worst: { readonly state: ScopeState; readonly limit: LimitName; readonly wait: number } | undefined;
    const refuse = (state: ScopeState, limit: LimitName, time: number): void => {
      if (time > (worst?.wait ?? 0)) worst = { state, limit, wait: time };
    };
    const refusal = () => worst;

    for (const state of states) refuse(state, "requests", wait(state.requests, now));
    const overRequests = refusal();
    if (overRequests !== undefined) return denied(overRequests.state, overRequests.limit, overRequests.wait);
    const hit = (stored: StoredEntry): AdmitOutcome => {
      for (const { requests } of states) this.#take(requests);
      return { type: "hit", entry: stored, ...allowed() };
    };
    const report = admission.otherwise === "report";
    if (entry !== undefined && (past <= 0 || (given && (report || isRefreshed)))) return hit(entry);
    if (report) {
      for (const { requests } of states) this.#take(requests);
      return { type: "absent", ...allowed() };
    }
    for (const state of states) {
      refuse(state, "tokens", wait(state.tokens, now));
      for (const window of ["day", "month"] as const) {
        refuse(state, window, windowWait(state, { window, tokens: admission.tokens, calendar, now }));
      }
    }
    const noSlot = states.find(({ streamsLeft }) => streamsLeft < 1);
    const over =
      refusal() ?? (noSlot === undefined ? undefined : { state: noSlot, limit: "streams" as const, wait: 0 });
    if (over !== undefined) {
      return given && entry !== undefined ? hit(entry) : denied(over.state, over.limit, over.wait);
    }
    for (const state of states) this.#reserve(state, admission, now);
    const stale = given || told ? entry : undefined;
    return { type: "reserved", reservation: reservationOf(admission, states, calendar), entry: stale, ...allowed() };
  }

  settle({ tenant, leaseId, scopes, tokens: asked, windows }: Reservation, usedTokens: number): void {
    const now = this.#platform.now() * 1000;
    for (const { scope, tokens, fullAt } of scopes) {
      const leases = this.#leases.get(limitKey(tenant, "streams", scope.id));
      const expiry = leases?.get(leaseId);
      leases?.delete(leaseId);
      // One that ran out may still lie there, until the next one is taken.
      if (expiry === undefined || expiry <= now) continue;
      const owed = ((usedTokens - tokens) * WINDOW) / scope.limits.tokensPerMinute;
      const ahead = Math.max(Number(fullAt) - now, 0);
      const key = limitKey(tenant, "tokens", scope.id);
      this.#fullAt.set(key, Math.max(this.#fullAt.get(key) ?? now, now) + Math.max(owed, -ahead));
      const spent = this.#spent.get(budgetKey(tenant, scope.id));
      const { tokensPerDay = 0, tokensPerMonth = 0 } = scope.limits;
      // What was reserved in a window that is over is corrected there no more: nobody can spend it.
      if (spent?.day === windows.day && tokensPerDay > 0) {
        spent.ofDay = Math.max(spent.ofDay + usedTokens - Math.min(asked, tokensPerDay), 0);
      }
      if (spent?.month === windows.month && tokensPerMonth > 0) {
        spent.ofMonth = Math.max(spent.ofMonth + usedTokens - Math.min(asked, tokensPerMonth), 0);
      }
    }
  }

  #stateOf(scope: LimitScope, { tenant, requests, tokens }: Admission, now: number, calendar: Calendar): ScopeState {
    const { requestsPerMinute, tokensPerMinute, streamsMax } = scope.limits;
    const leases = limitKey(tenant, "streams", scope.id);
    const live = [...(this.#leases.get(leases)?.values() ?? [])].filter((expiry) => expiry > now).length;
    return {
      scope,
      requests: this.#bucket(limitKey(tenant, "requests", scope.id), requestsPerMinute, requests, now),
      tokens: this.#bucket(limitKey(tenant, "tokens", scope.id), tokensPerMinute, tokens, now),
      leases,
      budget: hasBudget(scope) ? this.#budgetOf(budgetKey(tenant, scope.id), calendar) : undefined,
      streamsLeft: Math.max(streamsMax - live, 0),
    };
  }

  #budgetOf(key: string, { day, month }: Calendar): Budget {
    const last = this.#spent.get(key);
    const ofDay = last?.day === day ? last.ofDay : 0;
    const ofMonth = last?.month === month ? last.ofMonth : 0;
    return { key, spent: { day, ofDay, month, ofMonth } };
  }

  #bucket(key: string, perMinute: number, cost: number, now: number): Bucket {
    const fullAt = Math.max(this.#fullAt.get(key) ?? now, now);
    return { key, each: WINDOW / perMinute, cost: Math.min(cost, perMinute), max: perMinute, fullAt };
  }

  #take(bucket: Bucket): void {
    this.#charge(bucket, bucket.cost);
  }

  #charge(bucket: Bucket, cost: number): void {
    if (cost === 0) return;
    bucket.fullAt = Math.round(bucket.fullAt + cost * bucket.each);
    this.#fullAt.set(bucket.key, bucket.fullAt);
  }

  #giveBack(states: readonly ScopeState[], { unspent, fullAt }: PermitAsk, now: number): void {
    for (const [index, { requests }] of states.entries()) {
      const ahead = Math.max(Number(fullAt[index] ?? 0) - now, 0);
      this.#charge(requests, -Math.min(unspent, ahead / requests.each, (requests.fullAt - now) / requests.each));
    }
  }

  #grant(states: readonly ScopeState[], wanted: number, now: number): number {
    const permits = Math.min(wanted, ...states.map(({ requests }) => Math.floor(leftOf(requests, now) / 2)));
    for (const { requests } of states) this.#charge(requests, permits);
    return permits;
  }

  #reserve(state: ScopeState, { leaseId, leaseMs, tokens }: Admission, now: number): void {
    this.#take(state.requests);
    this.#take(state.tokens);
    if (state.budget !== undefined) {
      const { key, spent } = state.budget;
      spent.ofDay += Math.min(tokens, state.scope.limits.tokensPerDay ?? 0);
      spent.ofMonth += Math.min(tokens, state.scope.limits.tokensPerMonth ?? 0);
      this.#spent.set(key, spent);
    }
    const leases = this.#leases.get(state.leases) ?? new Map<string, number>();
    for (const [id, expiry] of leases) if (expiry <= now) leases.delete(id);
    leases.set(leaseId, now + leaseMs * 1000);
    this.#leases.set(state.leases, leases);
    state.streamsLeft -= 1;
  }

  /** Drops what says nothing any more (full buckets, ended leases), and never a state that still limits somebody. */
  #makeRoom(now: number, needed: number): void {
    const full = (): boolean => this.#fullAt.size + this.#leases.size + this.#spent.size + needed > this.#statesMax;
    if (!full()) return;
    for (const [key, fullAt] of this.#fullAt) if (fullAt <= now) this.#fullAt.delete(key);
    for (const [key, leases] of this.#leases) {
      if ([...leases.values()].every((expiry) => expiry <= now)) this.#leases.delete(key);
    }
    const { month } = calendarAt(now / 1000);
    for (const [key, spent] of this.#spent) if (spent.month < month) this.#spent.delete(key);
    if (full()) throw new StoreUnavailable("the memory store holds as many limiter states as it may");
  }
}

/** How long until a bucket could pay; 0 or less when it can. */
function wait(bucket: Bucket, now: number): number {
  return bucket.fullAt + bucket.cost * bucket.each - now - WINDOW - ROUNDING;
}

function leftOf(bucket: Bucket, now: number): number {
  return Math.min(Math.max(Math.floor((WINDOW + ROUNDING - (bucket.fullAt - now)) / bucket.each), 0), bucket.max);
}

/** Until the calendar window is over, in microseconds, where it can't pay; else 0. */
function windowWait(
  { scope: { limits }, budget }: ScopeState,
  asked: { readonly window: BudgetWindow; readonly tokens: number; readonly calendar: Calendar; readonly now: number },
): number {
  const { window, tokens, calendar, now } = asked;
  const max = window === "day" ? limits.tokensPerDay : limits.tokensPerMonth;
  if (max === undefined || budget === undefined) return 0;
  const used = window === "day" ? budget.spent.ofDay : budget.spent.ofMonth;
  const endMs = window === "day" ? calendar.dayEndMs : calendar.monthEndMs;
  return used + Math.min(tokens, max) <= max ? 0 : endMs * 1000 - now;
}

function calendarAt(nowMs: number): Calendar {
  const date = new Date(nowMs);
  const [year, month] = [date.getUTCFullYear(), date.getUTCMonth()];
  const day = Math.floor(nowMs / DAY_MS);
  const monthEndMs = Date.UTC(year, month + 1);
  const monthSeconds = (monthEndMs - Date.UTC(year, month)) / 1000;
  return { day, dayEndMs: (day + 1) * DAY_MS, month: year * 12 + month, monthEndMs, monthSeconds };
}

function balanceOf({ scope, requests, tokens, streamsLeft, budget }: ScopeState, now: number, at: Calendar): Balance {
  const left = (bucket: Bucket): Balance["requests"] => ({
    left: leftOf(bucket, now),
    fullInMs: Math.ceil((bucket.fullAt - now) / 1000),
  });
  const { tokensPerDay, tokensPerMonth } = scope.limits;
  const budgets =
    budget === undefined
      ? []
      : budgetBalances(scope, {
          day: {
            left: windowLeft(tokensPerDay ?? 0, budget.spent.ofDay),
            fullInMs: Math.ceil(at.dayEndMs - now / 1000),
            windowSeconds: DAY_MS / 1000,
          },
          month: {
            left: windowLeft(tokensPerMonth ?? 0, budget.spent.ofMonth),
            fullInMs: Math.ceil(at.monthEndMs - now / 1000),
            windowSeconds: at.monthSeconds,
          },
        });
  return { scope, requests: left(requests), tokens: left(tokens), streamsLeft, budgets };
}

function windowLeft(max: number, used: number): number {
  return Math.max(max - used, 0);
}

function reservationOf(
  { tenant, leaseId, tokens, scopes }: Admission,
  states: readonly ScopeState[],
  { day, month }: Calendar,
): Reservation {
  const windows = scopes.some(hasBudget) ? { day, month } : { day: 0, month: 0 };
  const reserved = states.map((state) => ({
    scope: state.scope,
    tokens: state.tokens.cost,
    fullAt: String(state.tokens.fullAt),
  }));
  return { tenant, leaseId, tokens, windows, scopes: reserved };
}

// JSON of the parts: no name can run into another.
function entryKey(tenant: string, digest: string): string {
  return JSON.stringify(["entry", tenant, digest]);
}

interface EntryName {
  readonly tenant: string;
  readonly digest: string;
}

/** @returns `undefined` for the key of anything else */
function readEntryKey(key: string): EntryName | undefined {
  const [kind, tenant, digest]: unknown[] = key.startsWith('["') ? (JSON.parse(key) as unknown[]) : [];
  return kind === "entry" && typeof tenant === "string" && typeof digest === "string" ? { tenant, digest } : undefined;
}

function matches({ tenant, digestPrefix = "", digest }: PurgeTarget, entry: EntryName | undefined): boolean {
  if (entry === undefined || (tenant !== undefined && tenant !== entry.tenant)) return false;
  return digest === undefined ? entry.digest.startsWith(digestPrefix) : digest === entry.digest;
}

function refreshKey(tenant: string, digest: string): string {
  return JSON.stringify(["refresh", tenant, digest]);
}

function revokedKey(tenant: string, tokenId: string): string {
  return JSON.stringify(["revoked", tenant, tokenId]);
}

function budgetKey(tenant: string, id: string): string {
  return JSON.stringify(["budget", tenant, id]);
}

function limitKey(tenant: string, limit: LimitName, id: string): string {
  return JSON.stringify([limit, tenant, id]);
}
