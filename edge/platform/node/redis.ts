/**
 * Commands to the regional Redis over one connection that all requests of the process share. The client writes what was
 * asked in one turn of the event loop in one piece, so there is no pipelining to do here. Nothing is queued while Redis
 * is away: the edge has a better use for those milliseconds than waiting. Knows no command.
 */
import { ErrorReply } from "redis";
import { Deadlines } from "../../../shared/deadlines.ts";
import { openRedisLink } from "../../../shared/redis-link.ts";
import { StoreUnavailable } from "../../regional/regional-store.ts";
import type { SendCommand } from "../../regional/redis.ts";

/** A connection is asked PING this often, and dropped when nothing at all came or went for the idle time. */
const PING_INTERVAL_MS = 1_000;
const IDLE_MAX_MS = 3_000;
/**
 * And where PING has no reply for this long, whatever else comes. More than the breaker needs to see that Redis is silent:
 * a connection that is lost is another thing, which nobody waits for.
 */
const OWED_MAX_MS = 10_000;

/** No timer of the client's own for each command: it would end when the command is written. */
const COMMAND_OPTIONS = { timeout: 0 };

export interface RedisConnectionOptions {
  readonly url: string;
  /** For each command, its answer included. */
  readonly timeoutMs: number;
  /** Commands sent and not yet answered. */
  readonly pendingMax: number;
  /** Told when the connection is lost and when it is there again, not of every failed attempt. */
  readonly onState: (state: "ready" | Error) => void;
}

export interface RedisConnection {
  readonly send: SendCommand;
  close(): void;
}

/** Starts connecting and returns once the first attempt has succeeded or failed; it goes on trying for ever. */
export async function connectRedis(options: RedisConnectionOptions): Promise<RedisConnection> {
  const { url, timeoutMs, pendingMax, onState } = options;
  let pending = 0;
  let lost = false;
  const link = await openRedisLink({
    url,
    connectMs: timeoutMs,
    pingMs: PING_INTERVAL_MS,
    idleMs: IDLE_MAX_MS,
    owedMs: OWED_MAX_MS,
    onReady: () => {
      if (lost) onState("ready");
      lost = false;
    },
    onError: (error) => {
      if (!lost) onState(error);
      lost = true;
    },
  });

  const deadlines = new Deadlines(timeoutMs);
  /** A command that was given up still waits for its reply, and counts. */
  const run = async (
    command: readonly string[],
    reply: PromiseWithResolvers<unknown>,
    ownTimeoutMs: number | undefined,
  ): Promise<void> => {
    pending += 1;
    const giveUp = (): void => reply.reject(new StoreUnavailable("timeout", { heard: "silent" }));
    const waiting = deadlines.add(giveUp);
    const timer = ownTimeoutMs === undefined ? undefined : setTimeout(giveUp, ownTimeoutMs);
    try {
      reply.resolve(await link.client.sendCommand(command, COMMAND_OPTIONS));
    } catch (cause) {
      const message = cause instanceof ErrorReply ? cause.message : "the connection was lost";
      reply.reject(new StoreUnavailable(message, { cause }));
    } finally {
      pending -= 1;
      deadlines.delete(waiting);
      clearTimeout(timer);
    }
  };

  return {
    send: async (command, ownTimeoutMs) => {
      if (!link.client.isReady) throw new StoreUnavailable("unreachable");
      if (pending >= pendingMax) {
        throw new StoreUnavailable("too many commands wait for Redis", { heard: "not-asked" });
      }
      const reply = Promise.withResolvers<unknown>();
      void run(command.map(String), reply, ownTimeoutMs);
      return reply.promise;
    },
    close: () => {
      deadlines.close();
      link.close();
    },
  };
}
