/**
 * The one connection to Redis that all requests share: sends commands in the order they come, keeps count of those
 * that wait, gives up on them after the timeout, and connects again by itself. Nothing is queued while Redis is away:
 * a caller at the edge has a better use for those milliseconds than waiting. Knows nothing of HTTP.
 */
import { ErrorReply, RESP_TYPES, createClient } from "redis";
import type { RedisCommand } from "./command.ts";
import { RestFailure } from "./failure.ts";
import { type CommandTable, readCommandTable } from "./permit.ts";
import type { Reply } from "./reply.ts";

/** Longest pause between two attempts to connect. */
const RECONNECT_PAUSE_MAX_MS = 1_000;
/** A silent connection is asked PING this often, and dropped when nothing at all came for the idle time. */
const PING_INTERVAL_MS = 3_000;
const IDLE_MAX_MS = 10_000;

/** Values as bytes; and no timer of the client's own for each command, which ends when the command is written. */
const COMMAND_OPTIONS = { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer }, timeout: 0 };

export interface RedisConnectionOptions {
  readonly redisUrl: string;
  readonly timeoutMs: number;
  readonly pendingCommandsMax: number;
  /** Told of every lost connection and failed attempt, and of every success. */
  readonly onState: (state: "ready" | Error) => void;
}

export interface RedisConnection {
  /** The server's commands, or `undefined` while there is no connection. */
  readonly commandTable: CommandTable | undefined;
  /** Commands sent and not yet answered. */
  readonly pendingCommands: number;
  /**
   * Runs commands one after the other; another request's may come between. An error reply is a reply.
   *
   * @throws {RestFailure} 503 without a connection or with too many commands waiting, 504 after the timeout
   */
  run(commands: readonly RedisCommand[]): Promise<Reply[]>;
  /**
   * Runs commands as one transaction.
   *
   * @returns one reply for each, or the error for which Redis ran none of them
   * @throws {RestFailure} as `run`
   */
  transact(commands: readonly RedisCommand[]): Promise<readonly Reply[] | ErrorReply>;
  close(): void;
}

/** Starts connecting and returns once the first attempt has succeeded or failed. */
export async function connectRedis(options: RedisConnectionOptions): Promise<RedisConnection> {
  const { timeoutMs, pendingCommandsMax, onState } = options;
  // Set when a connection is ready and its commands are known, cleared when it is lost.
  let commandTable: CommandTable | undefined;
  let pendingCommands = 0;
  const firstAttempt = Promise.withResolvers<void>();

  const open = () => {
    const opened = createClient({
      url: options.redisUrl,
      RESP: 2,
      disableOfflineQueue: true,
      pingInterval: PING_INTERVAL_MS,
      socket: {
        connectTimeout: timeoutMs,
        socketTimeout: IDLE_MAX_MS,
        reconnectStrategy: (retries) => Math.min(50 * 2 ** retries, RECONNECT_PAUSE_MAX_MS),
      },
    });
    opened.on("error", (error: Error) => {
      if (opened !== client) return;
      commandTable = undefined;
      onState(error);
      firstAttempt.resolve();
      if (!hasLostItsPlace(opened, error)) return;
      opened.destroy();
      client = open();
    });
    opened.on("ready", () => void learnCommands().finally(firstAttempt.resolve));
    // With a strategy that never gives up, this rejects only when it is destroyed first.
    opened.connect().catch(() => {});
    return opened;
  };
  let client = open();
  await firstAttempt.promise;

  async function learnCommands(): Promise<void> {
    try {
      commandTable = readCommandTable(await client.sendCommand(["COMMAND"]));
      onState("ready");
    } catch (error) {
      onState(new Error(`its COMMAND table could not be read: ${String(error)}`, { cause: error }));
    }
  }

  async function send(commands: readonly RedisCommand[], chainId?: symbol): Promise<Reply[]> {
    if (commandTable === undefined || !client.isReady) throw new RestFailure(503, "ERR Redis is not reachable");
    if (pendingCommands + commands.length > pendingCommandsMax) {
      throw new RestFailure(503, "ERR too many commands are waiting for Redis");
    }
    pendingCommands += commands.length;
    const commandOptions = chainId === undefined ? COMMAND_OPTIONS : { ...COMMAND_OPTIONS, chainId };
    const replies = Promise.all(
      commands.map((command) => client.sendCommand<Reply>(command, commandOptions).catch(keepErrorReply)),
    ).finally(() => {
      pendingCommands -= commands.length;
    });
    return withTimeout(replies, timeoutMs);
  }

  return {
    get commandTable() {
      return client.isReady ? commandTable : undefined;
    },
    get pendingCommands() {
      return pendingCommands;
    },
    run: (commands) => send(commands),
    transact: async (commands) => {
      // Not `client.multi()`: it decodes the replies inside EXEC as text.
      const replies = await send([["MULTI"], ...commands, ["EXEC"]], Symbol("transaction"));
      const result = replies.at(-1);
      if (result instanceof ErrorReply || Array.isArray(result)) return result;
      throw new RestFailure(503, "ERR Redis gave the transaction up");
    },
    close: () => client.destroy(),
  };
}

/**
 * Whether what came was no reply, and nobody can tell whose the next ones are: the client goes on with the connection, and
 * would give each to another command than it answers. Of a connection that is lost it is not ready any more.
 */
function hasLostItsPlace(client: { readonly isReady: boolean }, error: Error): boolean {
  return client.isReady && !(error instanceof ErrorReply);
}

function keepErrorReply(thrown: unknown): ErrorReply {
  if (thrown instanceof ErrorReply) return thrown;
  throw new RestFailure(503, "ERR the connection to Redis was lost; the commands may or may not have run", {
    cause: thrown,
  });
}

async function withTimeout<T>(work: Promise<T>, timeoutMs: number): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    late.reject(new RestFailure(504, `ERR Redis did not answer within ${timeoutMs} ms; the commands may still run`));
  }, timeoutMs);
  try {
    return await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
