/**
 * Requests that this isolate paid for in advance, so that it can answer from memory without asking anybody. Knows no
 * store: it says what to ask for, and is told what was granted.
 *
 * Every permit is charged to the regional bucket when it is granted, so nothing is ever answered for free. It lives for
 * `permitMs` at most; within that time the region can have refilled what it cost. So over any span of time, all isolates
 * together, a limit is exceeded by at most `requestsPerMinute × permitMs / 60 000` beyond what its bucket allows. For the
 * same reason an isolate knows of a purge or a revoked token after `permitMs` at the latest: grants carry the news.
 *
 * How many are asked for follows what the caller used lately, doubling: a caller seen once is granted none, so a client
 * spread over a hundred isolates does not leave its whole limit lying about in them. What expires unspent goes back.
 */
import type { Caller } from "../auth/authenticate.ts";
import { rateLimit, rateLimitPolicy } from "./rate-limit-headers.ts";
import type { Balance, Grant, PermitAsk } from "../regional/regional-store.ts";

export interface PermitSettings {
  /** How long a permit lives; 0 grants none. */
  readonly permitMs: number;
  /** Most to ask for at once. */
  readonly permitsMax: number;
}

/** Expired batches remembered; more than two are seen only where the region could not be asked. */
const UNSPENT_MAX = 4;
/** Asked for at least, by a caller seen twice: a start that need not double five times first. */
const PERMITS_MIN = 8;

/** A question on its way. */
export interface Asking extends PermitAsk {
  /** Later ones have greater numbers; the clock can't say which was later, because it may be set back. */
  readonly order: number;
}

/** What the region said last about a caller, and how much of its bounty is left. */
interface Batch {
  left: number;
  readonly granted: number;
  readonly expiresMs: number;
  readonly fullAt: readonly string[];
  readonly grantedMs: number;
  /** Requests that the region's bucket regains in a millisecond, of the scope that regains most. */
  readonly perMs: number;
  /** Spent when their price had been regained; never more than that is. */
  late: number;
  /** Put back, and so counted as spent already. */
  putBack: number;
}

/** Since the isolate began; for `GET /metrics`. */
export interface PermitCounts {
  granted: number;
  spent: number;
  /**
   * Spent when the region's bucket had regained their price: a limit was exceeded by no more than these, and mostly by
   * less, because most of the time it is not reached.
   */
  late: number;
}

/** The permits of every caller; gone with the caller's verified token. */
export class Permits {
  readonly #settings: PermitSettings;
  readonly #leases = new WeakMap<Caller, PermitLease>();
  /** Of all callers together. */
  readonly counts: PermitCounts = { granted: 0, spent: 0, late: 0 };

  constructor(settings: PermitSettings) {
    this.#settings = settings;
  }

  of(caller: Caller): PermitLease {
    let lease = this.#leases.get(caller);
    if (lease === undefined) {
      lease = new PermitLease(this.#settings, this.counts);
      this.#leases.set(caller, lease);
    }
    return lease;
  }
}

/** One caller's permits. */
export class PermitLease {
  readonly #settings: PermitSettings;
  readonly #counts: PermitCounts;
  /** Oldest first; a renewal comes before the last is used up, so there are seldom more than two. */
  #batches: Batch[] = [];
  /** Batches that expired with permits in them, until each is handed back; what has been refilled by then is dropped. */
  #unspent: Batch[] = [];
  /** When the question was sent that is on its way: one at a time, or a burst would ask for far too much. */
  #askingMs = Number.NEGATIVE_INFINITY;
  /** Requests since the last asking and the one before it, none of them older than a permit; and when the last was. */
  #used = 0;
  #usedMs = Number.NEGATIVE_INFINITY;
  #generation = "";
  #balances: readonly Balance[] = [];
  #balancesMs = 0;
  /** Of these balances, once it was asked for. */
  #policy: string | undefined;
  /** The last question's number, and that of the one whose answer is the newest known. */
  #order = 0;
  #newsOrder = 0;

  constructor(settings: PermitSettings, counts: PermitCounts) {
    this.#settings = settings;
    this.#counts = counts;
  }

  /** The tenant's purge that the permits are good for: an answer kept under another may have been purged. */
  get generation(): string {
    return this.#generation;
  }

  /** The headers for what the region said last, and the permits held: they were paid for and are still ours to use. */
  rateLimits(nowMs: number): Readonly<Record<string, string>> {
    this.#policy ??= rateLimitPolicy(this.#balances);
    const since = { elapsedMs: Math.max(nowMs - this.#balancesMs, 0), held: this.left(nowMs) };
    return { "ratelimit-policy": this.#policy, ratelimit: rateLimit(this.#balances, since) };
  }

  left(nowMs: number): number {
    this.#expire(nowMs);
    let left = 0;
    for (const batch of this.#batches) left += batch.left;
    return left;
  }

  /** Requests since the region was last asked for permits, none of them older than a permit's life before the next. */
  get used(): number {
    return this.#used;
  }

  /** Spends one permit; `false` where there is none, and the region has to be asked. */
  take(nowMs: number): boolean {
    this.#expire(nowMs);
    const batch = this.#batches[0];
    if (batch === undefined) return false;
    batch.left -= 1;
    this.#count(batch, nowMs);
    this.#note(nowMs);
    return true;
  }

  /** A permit that was not needed after all. */
  putBack(): void {
    const batch = this.#batches[0];
    if (batch === undefined) return;
    batch.left += 1;
    batch.putBack += 1;
  }

  /** Whether to ask for more behind the answer, before the last one is spent or too old. */
  needsRenewal(nowMs: number): boolean {
    return this.#batches.length > 0 && !this.#isAsking(nowMs) && this.#runsOut(nowMs);
  }

  /** What to ask the region for beside a request that takes no permit; `granted` or `failed` must follow. */
  askFor(nowMs: number): Asking {
    this.#note(nowMs);
    return this.ask(nowMs);
  }

  /** What to ask the region for; `granted` or `failed` must follow. */
  ask(nowMs: number): Asking {
    this.#expire(nowMs);
    const { permitMs, permitsMax } = this.#settings;
    const lately = this.#used - 1;
    // Who holds enough asks for none, or a batch would come with every request that goes to the region anyhow.
    const idle = permitMs === 0 || lately === 0 || this.#isAsking(nowMs) || !this.#runsOut(nowMs);
    const wanted = idle ? 0 : Math.min(Math.max(lately * 2, PERMITS_MIN), permitsMax);
    const unspent = this.#unspent.shift();
    if (wanted > 0) {
      this.#askingMs = nowMs;
      this.#used = 1;
    }
    this.#order += 1;
    return { wanted, unspent: unspent?.left ?? 0, fullAt: unspent?.fullAt ?? [], order: this.#order };
  }

  /** @param askedMs - when the question was sent: from then on they age */
  granted(asked: Asking, { permits, fullAt, generation }: Grant, balances: readonly Balance[], askedMs: number): void {
    this.failed(asked);
    // An answer that was overtaken by a later one brings its permits, but no news.
    if (asked.order > this.#newsOrder) {
      this.#newsOrder = asked.order;
      this.#generation = generation;
      this.#balances = balances;
      this.#balancesMs = askedMs;
      this.#policy = undefined;
    }
    const expiresMs = askedMs + this.#settings.permitMs;
    if (permits === 0) return;
    const perMinute = Math.max(...balances.map(({ scope }) => scope.limits.requestsPerMinute));
    const batch = { left: permits, granted: permits, expiresMs, fullAt, grantedMs: askedMs };
    this.#batches.push({ ...batch, perMs: perMinute / 60_000, late: 0, putBack: 0 });
    this.#counts.granted += permits;
  }

  /** Nothing came of asking. What was to be handed back is lost: whether it arrived is not known. */
  failed({ wanted }: Asking): void {
    if (wanted > 0) this.#askingMs = Number.NEGATIVE_INFINITY;
  }

  /** A question whose request was cancelled never ends; after a permit's life it counts as lost. */
  #isAsking(nowMs: number): boolean {
    return Math.abs(nowMs - this.#askingMs) < this.#settings.permitMs;
  }

  /** Whether half of the newest permits, or of their time, is gone; without any, too. */
  #runsOut(nowMs: number): boolean {
    const newest = this.#batches.at(-1);
    if (newest === undefined) return true;
    return newest.left * 2 <= newest.granted || (newest.expiresMs - nowMs) * 2 <= this.#settings.permitMs;
  }

  /** From the future means that the clock was set back: no permit may outlive that by more than its own life. */
  #isAlive({ expiresMs }: Batch, nowMs: number): boolean {
    return nowMs < expiresMs && expiresMs - nowMs <= 2 * this.#settings.permitMs;
  }

  #count(batch: Batch, nowMs: number): void {
    if (batch.putBack > 0) {
      batch.putBack -= 1;
      return;
    }
    this.#counts.spent += 1;
    if (batch.late + 1 > (nowMs - batch.grantedMs) * batch.perMs) return;
    batch.late += 1;
    this.#counts.late += 1;
  }

  #note(nowMs: number): void {
    if (nowMs - this.#usedMs > this.#settings.permitMs) this.#used = 0;
    this.#used += 1;
    this.#usedMs = nowMs;
  }

  #expire(nowMs: number): void {
    for (;;) {
      const [oldest] = this.#batches;
      if (oldest === undefined || (oldest.left > 0 && this.#isAlive(oldest, nowMs))) return;
      this.#batches.shift();
      if (oldest.left > 0) this.#unspent = [...this.#unspent, oldest].slice(-UNSPENT_MAX);
    }
  }
}
