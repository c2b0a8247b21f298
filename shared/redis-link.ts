/**
 * One connection to Redis that is made again by itself for ever. Nothing is queued while Redis is away, and where it has
 * sent what is no reply, or owes one for too long, the connection is given up with all that wait on it. For Node; knows
 * no command.
 */
import { createClient, ErrorReply } from "redis";

/** Longest pause between two attempts to connect. */
const RECONNECT_PAUSE_MAX_MS = 1_000;

function makeClient({ url, connectMs, idleMs }: RedisLinkOptions) {
  return createClient({
    url,
    RESP: 2,
    disableOfflineQueue: true,
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
  /** A connection is asked PING this often. */
  readonly pingMs: number;
  /** It is dropped when nothing at all came or went for so long. */
  readonly idleMs: number;
  /** It is given up when PING has no reply for so long: replies come in order, so none will. */
  readonly owedMs: number;
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
      if (hasLostItsPlace(opened, error)) renew();
    });
    opened.on("ready", () => void Promise.resolve(options.onReady(opened)).finally(firstAttempt.resolve));
    // With a strategy that never gives up, this rejects only when it is destroyed first.
    opened.connect().catch(() => {});
    return opened;
  };
  let client = open();
  const renew = (): void => {
    client.destroy();
    client = open();
  };
  await firstAttempt.promise;

  let asked: { readonly of: RedisLinkClient; readonly sinceMs: number } | undefined;
  const timer = setInterval(() => {
    const nowMs = performance.now();
    if (asked?.of !== client) {
      if (client.isReady) void ask(client, nowMs);
    } else if (nowMs - asked.sinceMs > options.owedMs) {
      // A length that is none makes the client wait for so many bytes, and take others' replies for them.
      options.onError(new Error("it owes a reply"));
      renew();
    }
  }, options.pingMs);
  const ask = async (of: RedisLinkClient, sinceMs: number): Promise<void> => {
    const own = { of, sinceMs };
    asked = own;
    // A connection that is lost says so itself.
    await of.ping().catch(() => undefined);
    if (asked === own) asked = undefined;
  };

  return {
    get client() {
      return client;
    },
    close: () => {
      clearInterval(timer);
      client.destroy();
    },
  };
}

/**
 * Whether what came was no reply, and nobody can tell whose the next ones are: the client goes on with the connection, and
 * would give each to another command than it answers. Of a connection that is lost it is not ready any more.
 */
function hasLostItsPlace(client: RedisLinkClient, error: Error): boolean {
  return client.isReady && !(error instanceof ErrorReply);
}
