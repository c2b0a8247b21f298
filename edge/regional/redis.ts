/**
 * The regional store in a Redis of the user's own region. Knows commands and scripts, and not the way they travel.
 *
 * Source: Redis EVALSHA and its NOSCRIPT error.
 */
import * as z from "zod";
import admitLua from "./admit.lua";
import {
  readEntry,
  StoreUnavailable,
  writeEntry,
  type Admission,
  type AdmitOutcome,
  type Balance,
  type RegionalStore,
  type Reservation,
} from "./regional-store.ts";
import settleLua from "./settle.lua";

type Argument = string | number;
type Command = readonly [string, ...Argument[]];

/**
 * Sends one command.
 *
 * @returns the reply: text, integers, `null` and arrays of these
 * @throws {StoreUnavailable} for an error reply, with Redis' own message, and when there is no reply
 */
export type SendCommand = (command: Command) => Promise<unknown>;

/** The scripts' head: outcome, entry, scope, limit, retry. */
const admitHead = z.tuple([
  z.enum(["hit", "reserved", "absent", "denied"]),
  z.string(),
  z.int(),
  z.enum(["", "requests", "tokens", "streams"]),
  z.int(),
]);
/** And per scope: requests left, full in, tokens left, full in, streams left, full at, reserved. */
const scopeRow = z.tuple([z.int(), z.int(), z.int(), z.int(), z.int(), z.string().regex(/^\d+$/), z.int()]);
const HEAD = 5;
const ROW = 7;

/** A Redis as the regional store. */
export function createRedisStore(command: SendCommand): RegionalStore {
  const admitScript = createScript(command, admitLua);
  const settleScript = createScript(command, settleLua);
  return {
    admit: async (admission) => {
      const { keys, args } = admitArguments(admission);
      return readOutcome(await admitScript(keys, args), admission);
    },
    settle: async (reservation, usedTokens) => {
      const { keys, args } = settleArguments(reservation, usedTokens);
      await settleScript(keys, args);
    },
    keepEntry: async (tenant, digest, entry, ttlSeconds) => {
      await command(["SET", entryKey(tenant, digest), writeEntry(entry), "EX", ttlSeconds]);
    },
    keepShared: async (name, value, ttlSeconds) => {
      await command(["SET", `cp:${name}`, value, "EX", ttlSeconds]);
    },
    readShared: async (name) => {
      const value = await command(["GET", `cp:${name}`]);
      return typeof value === "string" ? value : undefined;
    },
    ping: async () => {
      if ((await command(["PING"])) !== "PONG") throw new StoreUnavailable("the store does not answer PING");
    },
  };
}

/** Runs a script by its digest, and sends its text only to a Redis that does not know it yet. */
function createScript(
  command: SendCommand,
  text: string,
): (keys: readonly string[], args: readonly Argument[]) => Promise<unknown> {
  let sha1: string | undefined;
  return async (keys, args) => {
    sha1 ??= await sha1Hex(text);
    try {
      return await command(["EVALSHA", sha1, keys.length, ...keys, ...args]);
    } catch (error) {
      if (!(error instanceof StoreUnavailable) || !error.message.startsWith("NOSCRIPT")) throw error;
      return command(["EVAL", text, keys.length, ...keys, ...args]);
    }
  };
}

function admitArguments(admission: Admission): { keys: string[]; args: Argument[] } {
  const { tenant, scopes, lookUp } = admission;
  return {
    keys: [
      entryKey(tenant, lookUp?.digest ?? ""),
      ...scopes.flatMap(({ id }) => [
        limitKey(tenant, "requests", id),
        limitKey(tenant, "tokens", id),
        limitKey(tenant, "streams", id),
      ]),
    ],
    args: [
      lookUp === undefined ? "0" : "1",
      lookUp?.ageMaxSeconds ?? -1,
      admission.otherwise,
      admission.requests,
      admission.tokens,
      admission.leaseId,
      admission.leaseMs,
      ...scopes.flatMap(({ limits }) => [limits.requestsPerMinute, limits.tokensPerMinute, limits.streamsMax]),
    ],
  };
}

function settleArguments(reservation: Reservation, usedTokens: number): { keys: string[]; args: Argument[] } {
  const { tenant, scopes } = reservation;
  return {
    keys: scopes.flatMap(({ scope }) => [limitKey(tenant, "tokens", scope.id), limitKey(tenant, "streams", scope.id)]),
    args: [
      reservation.leaseId,
      usedTokens,
      ...scopes.flatMap(({ scope, tokens, fullAt }) => [scope.limits.tokensPerMinute, tokens, fullAt]),
    ],
  };
}

function readOutcome(result: unknown, admission: Admission): AdmitOutcome {
  const cells = z.array(z.unknown()).safeParse(result).data ?? [];
  const head = admitHead.safeParse(cells.slice(0, HEAD)).data;
  const rows = admission.scopes.map((scope, index) => {
    const row = scopeRow.safeParse(cells.slice(HEAD + index * ROW, HEAD + (index + 1) * ROW)).data;
    if (row === undefined) throw new StoreUnavailable("the store's answer can't be read");
    return { scope, row };
  });
  if (head === undefined) throw new StoreUnavailable("the store's answer can't be read");

  const [type, entryText, scopeNumber, limit, retryInMs] = head;
  const balances = rows.map(({ scope, row }): Balance => ({
    scope,
    requests: { left: row[0], fullInMs: row[1] },
    tokens: { left: row[2], fullInMs: row[3] },
    streamsLeft: row[4],
  }));
  switch (type) {
    case "hit": {
      // A text that can't even be split is passed on, and found broken when it is opened: a miss like any other.
      const entry = readEntry(entryText) ?? { storedAt: 0, sealed: "" };
      return { type, entry, balances };
    }
    case "reserved": {
      const scopes = rows.map(({ scope, row }) => ({ scope, tokens: row[6], fullAt: row[5] }));
      return { type, reservation: { tenant: admission.tenant, leaseId: admission.leaseId, scopes }, balances };
    }
    case "absent":
      return { type, balances };
    case "denied": {
      const scope = admission.scopes[scopeNumber - 1];
      if (limit === "" || scope === undefined) throw new StoreUnavailable("the store's answer can't be read");
      return { type, limit, scope, retryInMs, balances };
    }
    default:
      return type satisfies never;
  }
}

function entryKey(tenant: string, digest: string): string {
  return `cp:{${safe(tenant)}}:entry:${digest}`;
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
