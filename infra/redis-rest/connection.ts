/**
 * The one connection to Redis that all requests share: sends commands in the order they come, keeps count of those
 * that wait, gives up on them after the timeout, and connects again by itself. Nothing is queued while Redis is away:
 * a caller at the edge has a better use for those milliseconds than waiting. Knows nothing of HTTP.
 */
import { ErrorReply, RESP_TYPES } from "redis";
import { Deadlines } from "../../shared/deadlines.ts";
import { openRedisLink } from "../../shared/redis-link.ts";
import type { RedisCommand } from "./command.ts";
import { RestFailure } from "./failure.ts";
import { type CommandTable, readCommandTable } from "./permit.ts";
import type { Reply } from "./reply.ts";

/**
 * A connection is asked PING this often, dropped when nothing at all came or went for the idle time, and given up where
 * PING has no reply for the last one, whatever else comes.
 */
const PING_INTERVAL_MS = 1_000;
const IDLE_MAX_MS = 10_000;
const OWED_MAX_MS = 5_000;

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
  const deadlines = new Deadlines(timeoutMs);
  const link = await openRedisLink({
    url: options.redisUrl,
    connectMs: timeoutMs,
    pingMs: PING_INTERVAL_MS,
    idleMs: IDLE_MAX_MS,
    owedMs: OWED_MAX_MS,
    onReady: async (client) => {
      try {
        commandTable = readCommandTable(await client.sendCommand(["COMMAND"]));
        onState("ready");
      } catch (error) {
        onState(new Error(`its COMMAND table could not be read: ${String(error)}`, { cause: error }));
      }
    },
    onError: (error) => {
      commandTable = undefined;
      onState(error);
    },
  });

  async function send(commands: readonly RedisCommand[], chainId?: symbol): Promise<Reply[]> {
    if (commandTable === undefined || !link.client.isReady) throw new RestFailure(503, "ERR Redis is not reachable");
    if (pendingCommands + commands.length > pendingCommandsMax) {
      throw new RestFailure(503, "ERR too many commands are waiting for Redis");
    }
    pendingCommands += commands.length;
    const replies = Promise.withResolvers<Reply[]>();
    void run(commands, replies, chainId);
    return replies.promise;
  }

  /** What was given up still waits for its replies, and counts. */
  async function run(
    commands: readonly RedisCommand[],
    replies: PromiseWithResolvers<Reply[]>,
    chainId: symbol | undefined,
  ): Promise<void> {
    const waiting = deadlines.add(() => {
      replies.reject(
        new RestFailure(504, `ERR Redis did not answer within ${timeoutMs} ms; the commands may still run`),
      );
    });
    const commandOptions = chainId === undefined ? COMMAND_OPTIONS : { ...COMMAND_OPTIONS, chainId };
    const ask = (command: RedisCommand): Promise<Reply> =>
      link.client.sendCommand<Reply>(command, commandOptions).catch(keepErrorReply);
    const [first] = commands;
    try {
      // Nearly every request is one command, and waiting for a list of one takes as long as encoding it.
      const alone = first !== undefined && commands.length === 1;
      replies.resolve(alone ? [await ask(first)] : await Promise.all(commands.map(ask)));
    } catch (error) {
      replies.reject(error);
    } finally {
      pendingCommands -= commands.length;
      deadlines.delete(waiting);
    }
  }

  return {
    get commandTable() {
      return link.client.isReady ? commandTable : undefined;
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
    close: () => {
      deadlines.close();
      link.close();
    },
  };
}

function keepErrorReply(thrown: unknown): ErrorReply {
  if (thrown instanceof ErrorReply) return thrown;
  throw new RestFailure(503, "ERR the connection to Redis was lost; the commands may or may not have run", {
    cause: thrown,
  });
}
