/**
 * One connection to Redis that is made again by itself for ever. Nothing is queued while Redis is away, and where it has
 * sent what is no reply the connection is given up with all that wait on it. For Node; knows no command.
 */
import { createClient, ErrorReply } from "redis";

/** Longest pause between two attempts to connect. */
const RECONNECT_PAUSE_MAX_MS = 1_000;

function makeClient({ url, connectMs, pingMs, idleMs }: RedisLinkOptions) {
  return createClient({
    url,
    RESP: 2,
    disableOfflineQueue: true,
    pingInterval: pingMs,
    socket: {
      connectTimeout: connectMs,
      socketTimeout: idleMs,
      reconnectStrategy: (retries) => Math.min(50 * 2 ** retries, RECONNECT_PAUSE_MAX_MS),
    },
  });
}

type RedisLinkClient = ReturnType<typeof makeClient>;

export interface RedisLinkOptions {
  readonly url: string;
  readonly connectMs: number;
  /** A silent connection is asked PING this often. */
  readonly pingMs: number;
  /** It is dropped when nothing at all came for so long. */
  readonly idleMs: number;
  /** A connection is there; awaited before `openRedisLink` returns. */
  readonly onReady: (client: RedisLinkClient) => Promise<void> | void;
  /** A connection was lost, or an attempt has failed. */
  readonly onError: (error: Error) => void;
}

export interface RedisLink {
  /** Today's; another one after a reply that was none. */
  readonly client: RedisLinkClient;
  close(): void;
}

/** Starts connecting and returns once the first attempt has succeeded or failed. */
export async function openRedisLink(options: RedisLinkOptions): Promise<RedisLink> {
  const firstAttempt = Promise.withResolvers<void>();
  const open = (): RedisLinkClient => {
    const opened = makeClient(options);
    opened.on("error", (error: Error) => {
      if (opened !== client) return;
      options.onError(error);
      firstAttempt.resolve();
      if (!hasLostItsPlace(opened, error)) return;
      opened.destroy();
      client = open();
    });
    opened.on("ready", () => void Promise.resolve(options.onReady(opened)).finally(firstAttempt.resolve));
    // With a strategy that never gives up, this rejects only when it is destroyed first.
    opened.connect().catch(() => {});
    return opened;
  };
  let client = open();
  await firstAttempt.promise;
  return {
    get client() {
      return client;
    },
    close: () => client.destroy(),
  };
}

/**
 * Whether what came was no reply, and nobody can tell whose the next ones are: the client goes on with the connection, and
 * would give each to another command than it answers. Of a connection that is lost it is not ready any more.
 */
function hasLostItsPlace(client: RedisLinkClient, error: Error): boolean {
  return client.isReady && !(error instanceof ErrorReply);
}
