/**
 * The entry on Cloudflare Workers and workerd. Settings that can't be used end the isolate before its first request, with
 * the variable's name.
 */
import { env } from "cloudflare:workers";
import { readEdgeConfig } from "../config.ts";
import { createLogLines } from "../operate/log-lines.ts";
import { openRedisRest } from "../platform/redis-rest.ts";
import { createEdge } from "../worker.ts";
import type { Platform } from "../platform/platform.ts";
import { createWebCrypto } from "../platform/web-crypto.ts";
import { openWebOrigin } from "../platform/web-origin.ts";

const randomBytes: Platform["randomBytes"] = (length) => crypto.getRandomValues(new Uint8Array(length));

const platform: Platform = {
  // Called through a function: a detached `fetch` throws "Illegal invocation".
  fetch: (url, init) => fetch(url, init),
  now: () => Date.now(),
  randomBytes,
  randomId: () => crypto.randomUUID(),
  log: createLogLines((text) => console.log(text)),
  crypto: createWebCrypto({ randomBytes }),
  openRedis: (options) => openRedisRest(platform, options),
  openOrigin: (url) => openWebOrigin(platform, url),
};

const edge = createEdge(readEdgeConfig(env as unknown as Readonly<Record<string, unknown>>), platform);

export default {
  fetch: (request, _env, context) => edge.fetch(request, (work) => context.waitUntil(work)),
} satisfies ExportedHandler;
