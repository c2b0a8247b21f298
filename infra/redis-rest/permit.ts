/**
 * Which commands a token may run. All requests share one connection, so whatever would change that connection's state,
 * hold it up or turn it into a stream is refused, and so is administration: a token that leaks must not become
 * `CONFIG SET dir`. The server's own `COMMAND` table says what each command is; only what it can't say is listed here.
 */
import type { RedisCommand } from "./command.ts";

/** Lower-case command name to its flags, from the server's `COMMAND`. */
export type CommandTable = ReadonlyMap<string, ReadonlySet<string>>;

/** What the bearer token allows. */
export type Access = "full" | "read";

/** Commands about the connection itself, which here belongs to everybody. `/multi-exec` replaces MULTI. */
const CONNECTION = new Set(
  "asking auth client discard exec hello multi quit readonly readwrite reset select unwatch watch".split(" "),
);

/** Containers of administration: their subcommands carry the `admin` flag, the containers do not on Redis 7. */
const ADMINISTRATION = new Set("acl cluster config debug function latency memory module slowlog".split(" "));

/** Flagged `pubsub`, but answer once like any other command. */
const PUBSUB_WITH_ONE_REPLY = new Set(["publish", "spublish", "pubsub"]);

/** Block only when told so by an argument. */
const BLOCK_BY_ARGUMENT = new Set(["xread", "xreadgroup"]);

/** Waiting for replicas: flagged `blocking` only since Redis 7.2. */
const WAITS = new Set(["wait", "waitaof"]);

/** Neither read nor write keys, and harmless. */
const READ_WITHOUT_KEYS = new Set(["ping", "echo", "time"]);

/**
 * Turns the reply of `COMMAND` into a table.
 *
 * @throws when the reply is not a list of command descriptions
 */
export function readCommandTable(reply: unknown): CommandTable {
  if (!Array.isArray(reply) || reply.length === 0) throw new Error("COMMAND returned no list of commands");
  const entries = reply.map((entry: unknown): [string, ReadonlySet<string>] => {
    const [name, , flags]: unknown[] = Array.isArray(entry) ? entry : [];
    if (typeof name !== "string" || !Array.isArray(flags)) throw new Error("COMMAND returned an unknown form");
    return [name.toLowerCase(), new Set(flags.map(String))];
  });
  return new Map(entries);
}

/**
 * Decides about one command.
 *
 * @returns `undefined` when it may run, else the error to answer with, in Redis' own form
 */
export function refusal(command: RedisCommand, access: Access, table: CommandTable): string | undefined {
  const name = command[0].toString().toLowerCase();
  const flags = table.get(name);
  if (changesSharedState(name, command) || holdsConnection(name, flags, command) || administers(name, flags)) {
    return `ERR ${JSON.stringify(name)} is not available over redis-rest`;
  }
  if (access === "full" || READ_WITHOUT_KEYS.has(name)) return undefined;
  if (flags?.has("readonly") === true) return undefined;
  return `NOPERM this token may only read, and ${JSON.stringify(name)} is not a reading command`;
}

function changesSharedState(name: string, command: RedisCommand): boolean {
  if (name === "script") return command[1]?.toString().toLowerCase() === "debug";
  return CONNECTION.has(name);
}

function holdsConnection(name: string, flags: ReadonlySet<string> | undefined, command: RedisCommand): boolean {
  if (WAITS.has(name)) return true;
  if (BLOCK_BY_ARGUMENT.has(name)) {
    return command.some((argument) => argument.length === 5 && argument.toString().toLowerCase() === "block");
  }
  if (flags === undefined) return false;
  return flags.has("blocking") || (flags.has("pubsub") && !PUBSUB_WITH_ONE_REPLY.has(name));
}

function administers(name: string, flags: ReadonlySet<string> | undefined): boolean {
  return ADMINISTRATION.has(name) || flags?.has("admin") === true;
}
