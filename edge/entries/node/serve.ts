/**
 * One process of the edge on Node: the same app as on Workers, behind Node's HTTP server. Several processes share the
 * port (SO_REUSEPORT), each with a connection to Redis of its own; the kernel spreads the clients over them.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { readKnobs } from "../../../shared/knobs.ts";
import { readEdgeConfig } from "../../config.ts";
import { createEdge } from "../../worker.ts";
import type { Platform } from "../../platform/platform.ts";
import { NODE_KNOBS } from "./config.ts";
import { createNodeCrypto } from "../../platform/node/crypto.ts";
import { createListener } from "./listener.ts";
import { createLogLines } from "../../platform/node/log-lines.ts";
import { openNodeOrigin } from "../../platform/node/origin.ts";
import { connectRedis, type RedisConnection } from "../../platform/node/redis.ts";

/** As workerd has them: of two tokens, Node would take the first, and another server on the way perhaps the last. */
const SERVER_OPTIONS = { joinDuplicateHeaders: true };
/** Where a process of several answers alone. */
const OWN_HOST = "127.0.0.1";

export interface NodeEdge {
  readonly url: string;
  /** Takes no new connection, lets running answers end within their time, cuts the rest. */
  stop(): Promise<void>;
}

/**
 * Starts serving.
 *
 * @throws {KnobError} for a setting that can't be used
 */
export async function serveEdge(env: NodeJS.ProcessEnv): Promise<NodeEdge> {
  const config = readEdgeConfig(env);
  const knobs = readKnobs(NODE_KNOBS, env);
  const { log, flush } = createLogLines();
  let redis: RedisConnection | undefined;
  if (config.store.kind === "redis") {
    redis = await connectRedis({
      url: knobs.redisUrl,
      timeoutMs: config.store.timeoutMs,
      pendingMax: config.store.pendingMax,
      onState: (state) =>
        log(
          JSON.stringify({
            at: new Date().toISOString(),
            event: state === "ready" ? "redis is back" : "redis is away",
            ...(state === "ready" ? {} : { cause: state.message }),
          }),
        ),
    });
  }
  const send = redis?.send;
  const edge = createEdge(config, { ...platform(log), openRedis: () => send ?? impossible() });

  // What runs behind a response: answers being kept, slots going back.
  const background = new Set<Promise<unknown>>();
  const waitUntil = (work: Promise<unknown>): void => {
    const ended = work
      .catch((error: unknown) => log(JSON.stringify({ event: "background work failed", cause: String(error) })))
      .finally(() => background.delete(ended));
    background.add(ended);
  };
  const listener = createListener(edge, waitUntil);
  const server = createServer(SERVER_OPTIONS, listener);
  const servers = [server];
  if (knobs.ownPort !== 0) {
    const own = createServer(SERVER_OPTIONS, listener);
    servers.push(own);
    // First: who meets the process at the shared port may ask for it at once.
    await listen(own, { host: OWN_HOST, port: knobs.ownPort });
  }
  await listen(server, knobs);
  return {
    url: urlOf(server),
    stop: async () => {
      await Promise.all(servers.map((each) => close(each, knobs.drainMs)));
      await Promise.race([
        Promise.all(background),
        afterMs(config.store.kind === "redis" ? config.store.timeoutMs : 0),
      ]);
      redis?.close();
      flush();
    },
  };
}

function platform(log: Platform["log"]): Omit<Platform, "openRedis"> {
  return {
    fetch: (url, init) => fetch(url, init),
    now: () => Date.now(),
    randomBytes: (length) => new Uint8Array(randomBytes(length)),
    randomId: () => randomUUID(),
    log,
    crypto: createNodeCrypto(),
    openOrigin: openNodeOrigin,
  };
}

function impossible(): never {
  throw new Error("a memory store asked for Redis");
}

async function listen(server: Server, { host, port }: { readonly host: string; readonly port: number }): Promise<void> {
  server.listen({ host, port, reusePort: port !== 0 });
  await once(server, "listening");
}

function urlOf(server: Server): string {
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("the server listens on no port");
  const host = address.family === "IPv6" ? `[${address.address}]` : address.address;
  return `http://${host}:${address.port}`;
}

async function close(server: Server, drainMs: number): Promise<void> {
  const closed = once(server, "close");
  server.close();
  server.closeIdleConnections();
  const timer = setTimeout(() => server.closeAllConnections(), drainMs);
  await closed;
  clearTimeout(timer);
}

function afterMs(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
