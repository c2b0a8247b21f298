/**
 * Which web pages may call the edge: a browser asks before it sends a page's token anywhere else than where the page came
 * from, and hands a page no reply that does not name it. It is a courtesy to browsers and protects nobody: there are no
 * cookies here, whoever has a token may use it, and programs other than browsers ask no permission.
 *
 * `hono/cors` was considered; it is a middleware, and questions never reach Hono's router (see incoming.ts).
 *
 * Source: Fetch Standard, "HTTP CORS protocol" (https://fetch.spec.whatwg.org/#http-cors-protocol).
 */
import type { Incoming } from "./incoming.ts";
import { type Reply, setHeader } from "./reply.ts";

/** All pages, or those of these origins. */
export type AllowedOrigins = "*" | readonly string[];

/** What scripts may read of a reply beside its body; the standard lets them read next to nothing by default. */
const READABLE =
  "x-request-id, x-cache, x-cache-tier, age, x-degraded, ratelimit, ratelimit-policy, retry-after, server-timing";

/** How long a browser need not ask again, in seconds. Chromium's own maximum; Firefox allows a day. */
const PREFLIGHT_SECONDS = 7_200;

/** Asks whether a page's request may be sent at all. */
export function isPreflight(request: Incoming): boolean {
  return request.method === "OPTIONS" && request.header("access-control-request-method") !== null;
}

/**
 * Says what pages may send, whatever the path. Whether this page may is said by `allowOrigin`, as for every reply. The
 * headers that are asked for are named one by one: in a `*` browsers don't include `authorization`.
 */
export function answerPreflight(request: Incoming): Response {
  const headers = new Headers({
    "access-control-allow-methods": "GET, POST",
    "access-control-max-age": String(PREFLIGHT_SECONDS),
  });
  const wanted = request.header("access-control-request-headers");
  if (wanted !== null) headers.set("access-control-allow-headers", wanted);
  return new Response(null, { status: 204, headers });
}

/** Lets the page that asked read the reply, if it may. Adds nothing for whoever is not a page. */
export function allowOrigin(request: Incoming, reply: Reply, allowed: AllowedOrigins): void {
  const origin = request.header("origin");
  if (origin === null) return;
  if (allowed !== "*") {
    setHeader(reply, "vary", "origin");
    if (!allowed.includes(origin)) return;
  }
  setHeader(reply, "access-control-allow-origin", allowed === "*" ? "*" : origin);
  setHeader(reply, "access-control-expose-headers", READABLE);
}
