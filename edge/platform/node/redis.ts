/**
 * Commands to the regional Redis over one connection that all requests of the process share. The client writes what was
 * asked in one turn of the event loop in one piece, so there is no pipelining to do here. Nothing is queued while Redis
 * is away: the edge has a better use for those milliseconds than waiting. Knows no command.
 */
import { createClient, ErrorReply } from "redis";
import { StoreUnavailable } from "../../regional/regional-store.ts";
import type { SendCommand } from "../../regional/redis.ts";

/** Longest pause between two attempts to connect. */
const RECONNECT_PAUSE_MAX_MS = 1_000;
/** A silent connection is asked PING this often, and dropped when nothing at all came for the idle time. */
const PING_INTERVAL_MS = 1_000;
const IDLE_MAX_MS = 3_000;

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
  const firstAttempt = Promise.withResolvers<void>();
  let pending = 0;
  let lost = false;
  const client = createClient({
    url,
    RESP: 2,
    disableOfflineQueue: true,
    pingInterval: PING_INTERVAL_MS,
    socket: {
      connectTimeout: timeoutMs,
      socketTimeout: IDLE_MAX_MS,
      reconnectStrategy: (retries) => Math.min(50 * 2 ** retries, RECONNECT_PAUSE_MAX_MS),
    },
  });
  client.on("error", (error: Error) => {
    if (!lost) onState(error);
    lost = true;
    firstAttempt.resolve();
  });
  client.on("ready", () => {
    if (lost) onState("ready");
    lost = false;
    firstAttempt.resolve();
  });
  // With a strategy that never gives up, this rejects only when `close` is called first.
  client.connect().catch(() => {});
  await firstAttempt.promise;

  /** A command that was given up still waits for its reply, and counts. */
  const send = (command: readonly string[]): Promise<unknown> => {
    pending += 1;
    return client.sendCommand(command, COMMAND_OPTIONS).finally(() => {
      pending -= 1;
    });
  };

  return {
    send: async (command) => {
      if (!client.isReady) throw new StoreUnavailable("unreachable");
      if (pending >= pendingMax) throw new StoreUnavailable("too many commands wait for Redis");
      const late = Promise.withResolvers<never>();
      const timer = setTimeout(() => late.reject(new StoreUnavailable("timeout")), timeoutMs);
      try {
        return await Promise.race([send(command.map(String)), late.promise]);
      } catch (cause) {
        if (cause instanceof StoreUnavailable) throw cause;
        const message = cause instanceof ErrorReply ? cause.message : "the connection was lost";
        throw new StoreUnavailable(message, { cause });
      } finally {
        clearTimeout(timer);
      }
    },
    close: () => client.destroy(),
  };
}
