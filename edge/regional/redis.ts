/**
 * The regional store in a Redis of the user's own region. Knows commands and scripts, and not the way they travel.
 *
 * Source: Redis EVALSHA and its NOSCRIPT error.
 */
import admitLua from "./admit.lua";
import countAskedLua from "./count-asked.lua";
import keepQuestionsLua from "./keep-questions.lua";
import {
  budgetBalances,
  hasBudget,
  ASKED_HALF_LIFE_SECONDS,
  ASKED_KEPT_SECONDS,
  readEntry,
  StoreUnavailable,
  writeEntry,
  type Admission,
  type AdmitOutcome,
  type AskedCount,
  type Balance,
  type Keeping,
  type Kept,
  type LimitName,
  type LimitScope,
  type PurgeTarget,
  type RegionalStore,
  type Reservation,
  type StoreWaiter,
  type Windows,
} from "./regional-store.ts";
import revokeLua from "./revoke.lua";
import settleLua from "./settle.lua";

type Argument = string | number;
export type Command = readonly [string, ...Argument[]];

/**
 * Sends one command.
 *
 * @param timeoutMs - longest wait for its answer where that is less than usual
 * @returns the reply: text, integers, `null` and arrays of these
 * @throws {StoreUnavailable} for an error reply, with Redis' own message, and when there is no reply
 */
export type SendCommand = (command: Command, timeoutMs?: number) => Promise<unknown>;

interface RedisStoreOptions {
  /** For all commands of one request together. */
  readonly timeoutMs: number;
  /** Milliseconds from any fixed point. */
  readonly now: () => number;
}

/** How long a purge's new generation is kept, as in admit.lua; one that is lost sooner costs isolates their copies only. */
const GENERATION_SECONDS = 86_400;

/** A Redis as the regional store. */
export function createRedisStore(command: SendCommand, options: RedisStoreOptions): RegionalStore {
  const limitKeys = rememberLimitKeys();
  const patient = (waiter: StoreWaiter): SendCommand => withinOneTime(command, waiter, options);
  const script = (text: string) => createScript(patient, text);
  const admitScript = script(admitLua);
  const settleScript = script(settleLua);
  const revokeScript = script(revokeLua);
  const countAskedScript = script(countAskedLua);
  const keepQuestionsScript = script(keepQuestionsLua);
  const renewGenerations = async ({ tenant }: PurgeTarget): Promise<void> => {
    for await (const key of tenantKeys(command, generationKey, tenant)) {
      await command(["SET", key, crypto.randomUUID(), "EX", GENERATION_SECONDS]);
    }
  };
  const forgetAsked = async ({ tenant, digest, digestPrefix }: PurgeTarget): Promise<void> => {
    // What was asked of a model is what to warm its successor with.
    if (digest === undefined && digestPrefix !== undefined) return;
    for await (const key of tenantKeys(command, askedKey, tenant)) {
      await command(digest === undefined ? ["UNLINK", key] : ["ZREM", key, digest]);
    }
    for await (const key of tenantKeys(command, questionsKey, tenant)) {
      await command(digest === undefined ? ["UNLINK", key] : ["HDEL", key, digest]);
    }
  };
  return {
    admit: async (admission, waiter) => {
      const { keys, args } = admitArguments(admission, limitKeys(admission));
      return readOutcome(await admitScript(keys, args, waiter), admission);
    },
    settle: async (reservation, usedTokens, keeping) => {
      const kept = keepArguments(reservation.tenant, keeping);
      const { keys, args } = settleArguments(reservation, usedTokens);
      return readKept(await settleScript([...kept.keys, ...keys], [...kept.args, ...args]));
    },
    endRefresh: async (tenant, digest) => {
      await command(["DEL", refreshKey(tenant, digest)]);
    },
    purge: async (target) => {
      let purged = 0;
      // Before the entries: what is being answered is not kept from here on.
      await renewGenerations(target);
      for await (const keys of scan(command, entryPattern(target))) {
        purged += Number(await command(["UNLINK", ...keys]));
      }
      await forgetAsked(target);
      // And after them: who still read one did so under another.
      await renewGenerations(target);
      return purged;
    },
    countEntries: async (tenant) => {
      let entries = 0;
      for await (const keys of scan(command, entryPattern({ tenant }))) entries += keys.length;
      return entries;
    },
    countAsked: async (tenant, asked, max) => {
      const counts = asked.flatMap(({ digest, times }) => [digest, times]);
      const args = [max, ASKED_HALF_LIFE_SECONDS, ASKED_KEPT_SECONDS, ...counts];
      const wanted = await countAskedScript([askedKey(tenant), questionsKey(tenant)], args);
      if (!Array.isArray(wanted)) throw unreadable();
      return wanted.map(String);
    },
    keepQuestions: async (tenant, questions) => {
      await keepQuestionsScript([askedKey(tenant), questionsKey(tenant)], [ASKED_KEPT_SECONDS, ...questions.flat()]);
    },
    topAsked: (tenant, count) => topAsked(command, tenant, count),
    keepShared: async (name, value, ttlSeconds) => {
      await command(["SET", `cp:${name}`, value, "EX", ttlSeconds]);
    },
    readShared: async (name, waiter = newWaiter()) => {
      const value = await patient(waiter)(["GET", `cp:${name}`]);
      return typeof value === "string" ? value : undefined;
    },
    revoke: async (tenant, tokenId, expiresAt) => {
      await revokeScript([revokedKey(tenant)], [tokenId, expiresAt]);
    },
    isRevoked: async (tenant, tokenId, waiter = newWaiter()) =>
      typeof (await patient(waiter)(["ZSCORE", revokedKey(tenant), tokenId])) === "string",
    ping: async () => {
      if ((await command(["PING"])) !== "PONG") throw new StoreUnavailable("the store does not answer PING");
    },
  };
}

function newWaiter(): StoreWaiter {
  return { storeWaitedMs: 0 };
}

/** Each command gets the time that those before it have left. */
function withinOneTime(command: SendCommand, waiter: StoreWaiter, { timeoutMs, now }: RedisStoreOptions): SendCommand {
  return async (sent) => {
    const leftMs = timeoutMs - waiter.storeWaitedMs;
    // The message is the one of a command that was waited for: to the request it is all one.
    if (leftMs <= 0) throw new StoreUnavailable("timeout", { heard: "not-asked" });
    const startedMs = now();
    try {
      return await (leftMs < timeoutMs ? command(sent, leftMs) : command(sent));
    } finally {
      waiter.storeWaitedMs += Math.max(now() - startedMs, 0);
    }
  };
}

/** Runs a script by its digest, and sends its text only to a Redis that does not know it yet. */
function createScript(
  patient: (waiter: StoreWaiter) => SendCommand,
  text: string,
): (keys: readonly string[], args: readonly Argument[], waiter?: StoreWaiter) => Promise<unknown> {
  let sha1: string | undefined;
  return async (keys, args, waiter = newWaiter()) => {
    const command = patient(waiter);
    sha1 ??= await sha1Hex(text);
    try {
      return await command(["EVALSHA", sha1, keys.length, ...keys, ...args]);
    } catch (error) {
      if (!(error instanceof StoreUnavailable) || !error.message.startsWith("NOSCRIPT")) throw error;
      return command(["EVAL", text, keys.length, ...keys, ...args]);
    }
  };
}

function admitArguments(admission: Admission, limitKeys: readonly string[]): { keys: string[]; args: Argument[] } {
  const { tenant, scopes, lookUp, permits } = admission;
  const digest = lookUp?.digest ?? "";
  return {
    keys: [
      entryKey(tenant, digest),
      generationKey(tenant),
      ...limitKeys,
      refreshKey(tenant, digest),
      budgetsKey(tenant),
      revokedKey(tenant),
    ],
    args: [
      lookUp === undefined ? "0" : "1",
      lookUp?.freshSeconds ?? 0,
      admission.otherwise,
      admission.requests,
      admission.tokens,
      admission.leaseId,
      admission.leaseMs,
      permits.wanted,
      permits.unspent,
      lookUp?.staleSeconds ?? 0,
      lookUp?.errorSeconds ?? 0,
      ...scopes.flatMap(({ limits }, index) => [
        limits.requestsPerMinute,
        limits.tokensPerMinute,
        limits.streamsMax,
        permits.fullAt[index] ?? 0,
      ]),
      ...(scopes.some(hasBudget) ? scopes.flatMap(budgetArguments) : []),
      admission.tokenId,
    ],
  };
}

function budgetArguments({ id, limits }: LimitScope): readonly Argument[] {
  return [id.toWellFormed(), limits.tokensPerDay ?? 0, limits.tokensPerMonth ?? 0];
}

/** A caller's scopes are one array for as long as its token is known, so their names need be written only once. */
function rememberLimitKeys(): (admission: Admission) => readonly string[] {
  const written = new WeakMap<Admission["scopes"], { readonly tenant: string; readonly keys: readonly string[] }>();
  return ({ tenant, scopes }) => {
    const known = written.get(scopes);
    if (known?.tenant === tenant) return known.keys;
    const keys = [
      ...scopes.flatMap(({ id }) => [limitKey(tenant, "requests", id), limitKey(tenant, "tokens", id)]),
      ...scopes.map(({ id }) => limitKey(tenant, "streams", id)),
    ];
    written.set(scopes, { tenant, keys });
    return keys;
  };
}

function keepArguments(tenant: string, keeping: Keeping | undefined): { keys: string[]; args: Argument[] } {
  return {
    keys: [budgetsKey(tenant), entryKey(tenant, keeping?.digest ?? ""), generationKey(tenant)],
    args: keeping === undefined ? ["", 0, ""] : [writeEntry(keeping.entry), keeping.ttlSeconds, keeping.generation],
  };
}

/** What of a settling comes after what is kept. */
function settleArguments(reservation: Reservation, usedTokens: number): { keys: string[]; args: Argument[] } {
  const { tenant, scopes, windows } = reservation;
  return {
    keys: scopes.flatMap(({ scope }) => [limitKey(tenant, "tokens", scope.id), limitKey(tenant, "streams", scope.id)]),
    args: [
      reservation.leaseId,
      usedTokens,
      reservation.tokens,
      windows.day,
      windows.month,
      ...scopes.flatMap(({ scope, tokens, fullAt }) =>
        [scope.limits.tokensPerMinute, tokens, fullAt as Argument].concat(budgetArguments(scope)),
      ),
    ],
  };
}

function readKept(result: unknown): Kept {
  if (result === "kept" || result === "purged" || result === "refused" || result === "none") return result;
  throw unreadable();
}

function readOutcome(result: unknown, admission: Admission): AdmitOutcome {
  const cells = new Cells(result);
  const type = cells.text();
  if (type === "revoked") return { type, balances: [], grant: { permits: 0, fullAt: [], generation: "" } };
  const entryText = cells.text();
  const scopeNumber = cells.number();
  const limit = cells.text();
  const retryInMs = cells.number();
  const generation = cells.text();
  const permits = cells.number();
  const rows = admission.scopes.map((scope) => ({
    scope,
    requests: { left: cells.number(), fullInMs: cells.number() },
    requestsFullAt: String(cells.number()),
    tokens: { left: cells.number(), fullInMs: cells.number() },
    streamsLeft: cells.number(),
    tokensFullAt: String(cells.number()),
    reserved: cells.number(),
  }));
  const grant = { permits, generation, fullAt: rows.map(({ requestsFullAt }) => requestsFullAt) };
  const { windows, budgets } = readBudgets(cells, admission);
  const balances: readonly Balance[] = rows.map(({ scope, requests, tokens, streamsLeft }, index) => {
    return { scope, requests, tokens, streamsLeft, budgets: budgets[index] ?? [] };
  });

  switch (type) {
    case "hit":
      // A text that can't even be split is passed on, and found broken when it is opened: a miss like any other.
      return { type, entry: readEntry(entryText) ?? { storedAt: 0, sealed: "" }, balances, grant };
    case "reserved": {
      const scopes = rows.map(({ scope, reserved, tokensFullAt }) => ({
        scope,
        tokens: reserved,
        fullAt: tokensFullAt,
      }));
      const { tenant, leaseId, tokens } = admission;
      const reservation = { tenant, leaseId, tokens, windows, scopes };
      const entry = entryText === "" ? undefined : readEntry(entryText);
      return { type, reservation, entry, balances, grant };
    }
    case "absent":
      return { type, balances, grant };
    case "denied": {
      const scope = admission.scopes[scopeNumber - 1];
      if (!isLimitName(limit) || scope === undefined) throw unreadable();
      return { type, limit, scope, retryInMs, balances, grant };
    }
    default:
      throw unreadable();
  }
}

/** What the script says at its end where a scope has a budget. */
function readBudgets(
  cells: Cells,
  { scopes }: Admission,
): { readonly windows: Windows; readonly budgets: readonly Balance["budgets"][] } {
  if (!scopes.some(hasBudget)) return { windows: { day: 0, month: 0 }, budgets: [] };
  const day = { id: cells.number(), fullInMs: cells.number(), windowSeconds: 86_400 };
  const month = { id: cells.number(), fullInMs: cells.number(), windowSeconds: cells.number() };
  const budgets = scopes.map((scope) =>
    budgetBalances(scope, {
      day: { left: cells.number(), fullInMs: day.fullInMs, windowSeconds: day.windowSeconds },
      month: { left: cells.number(), fullInMs: month.fullInMs, windowSeconds: month.windowSeconds },
    }),
  );
  return { windows: { day: day.id, month: month.id }, budgets };
}

/**
 * The script's reply, cell by cell. By hand, because it is read on every request that leaves the isolate: zod took a
 * tenth of such a hit.
 */
class Cells {
  readonly #cells: readonly unknown[];
  #next = 0;

  constructor(result: unknown) {
    if (!Array.isArray(result)) throw unreadable();
    this.#cells = result;
  }

  text(): string {
    const cell = this.#cells[this.#next++];
    if (typeof cell !== "string") throw unreadable();
    return cell;
  }

  number(): number {
    const cell = this.#cells[this.#next++];
    if (!Number.isSafeInteger(cell)) throw unreadable();
    return cell as number;
  }
}

function isLimitName(text: string): text is LimitName {
  return text === "requests" || text === "tokens" || text === "streams" || text === "day" || text === "month";
}

function unreadable(): StoreUnavailable {
  return new StoreUnavailable("the store's answer can't be read");
}

function entryKey(tenant: string, digest: string): string {
  return `cp:{${safe(tenant)}}:entry:${digest}`;
}

/** Without an expiry of its own: no memory limit may drop it, as Redis' volatile policies would. */
function revokedKey(tenant: string): string {
  return `cp:{${safe(tenant)}}:revoked`;
}

/** Without an expiry, for the same reason. */
function budgetsKey(tenant: string): string {
  return `cp:{${safe(tenant)}}:budgets`;
}

function refreshKey(tenant: string, digest: string): string {
  return `cp:{${safe(tenant)}}:refresh:${digest}`;
}

function askedKey(tenant: string): string {
  return `cp:{${safe(tenant)}}:asked`;
}

function questionsKey(tenant: string): string {
  return `cp:{${safe(tenant)}}:questions`;
}

function generationKey(tenant: string): string {
  return `cp:{${safe(tenant)}}:generation`;
}

function entryPattern({ tenant, digestPrefix, digest }: PurgeTarget): string {
  const whose = tenant === undefined ? "*" : literal(safe(tenant));
  const which = digest === undefined ? `${literal(digestPrefix ?? "")}*` : literal(digest);
  return `cp:{${whose}}:entry:${which}`;
}

/** Text in which no letter is a pattern's. */
function literal(text: string): string {
  return text.replaceAll(/[*?[\]\\^]/g, "\\$&");
}

/** One tenant's key of a kind, or those of all who have one: a list of names would miss some, and never end. */
async function* tenantKeys(
  command: SendCommand,
  keyOf: (tenant: string) => string,
  tenant: string | undefined,
): AsyncGenerator<string> {
  // The star goes into the key as it is, and makes a pattern of it.
  if (tenant === undefined) for await (const keys of scan(command, keyOf("*"))) yield* keys;
  else yield keyOf(tenant);
}

/** The keys that match, about a thousand looked at in one call: Redis serves others in between. */
async function* scan(command: SendCommand, pattern: string): AsyncGenerator<string[]> {
  let cursor = "0";
  do {
    const reply = await command(["SCAN", cursor, "MATCH", pattern, "COUNT", 1_000]);
    const [next, keys]: unknown[] = Array.isArray(reply) ? reply : [];
    if (typeof next !== "string" || !Array.isArray(keys)) throw unreadable();
    if (keys.length > 0) yield keys.map(String);
    cursor = next;
  } while (cursor !== "0");
}

/** Times are as of the store's own clock, which the scores are made of. */
async function topAsked(
  command: SendCommand,
  tenant: string,
  count: number,
): Promise<readonly (AskedCount & { readonly sealed: string })[]> {
  const [list, time] = await Promise.all([
    command(["ZREVRANGE", askedKey(tenant), 0, count - 1, "WITHSCORES"]),
    command(["TIME"]),
  ]);
  if (!Array.isArray(list) || !Array.isArray(time)) throw unreadable();
  const digests = list.filter((_, place) => place % 2 === 0).map(String);
  if (digests.length === 0) return [];
  const questions = await command(["HMGET", questionsKey(tenant), ...digests]);
  if (!Array.isArray(questions)) throw unreadable();
  return digests.flatMap((digest, place) => {
    const sealed: unknown = questions[place];
    const times = 2 ** (Number(list[2 * place + 1]) - Number(time[0]) / ASKED_HALF_LIFE_SECONDS);
    return typeof sealed === "string" ? [{ digest, times, sealed }] : [];
  });
}

/** The tenant's own buckets have an empty id, which no subject has. */
function limitKey(tenant: string, limit: "requests" | "tokens" | "streams", id: string): string {
  return `cp:{${safe(tenant)}}:${limit}:${safe(id)}`;
}

/** Names from tokens are free text: a brace or a colon in one must not reach into another's keys. */
function safe(name: string): string {
  return encodeURIComponent(name.toWellFormed());
}

async function sha1Hex(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-1", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
