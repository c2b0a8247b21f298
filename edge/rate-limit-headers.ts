/**
 * Says what is left of the limits. Every number comes from the store's own reply to this very request.
 *
 * Source: draft-ietf-httpapi-ratelimit-headers-10: `ratelimit-policy` (q quota, w window in seconds, qu unit) and
 * `ratelimit` (r left, t seconds until it is full again). Its registry has no unit for tokens; "tokens" is ours.
 */
import { WINDOW_SECONDS, type Balance } from "./regional/regional-store.ts";

/** Both headers, one item per limit of each scope. */
export function rateLimitHeaders(balances: readonly Balance[]): Readonly<Record<string, string>> {
  const items = balances.flatMap(({ scope: { name, limits }, requests, tokens, streamsLeft }) => {
    const prefix = name === "tenant" ? "tenant-" : "";
    return [
      {
        policy: `"${prefix}requests";q=${limits.requestsPerMinute};w=${WINDOW_SECONDS};qu="requests"`,
        left: `"${prefix}requests";r=${requests.left};t=${seconds(requests.fullInMs)}`,
      },
      {
        policy: `"${prefix}tokens";q=${limits.tokensPerMinute};w=${WINDOW_SECONDS};qu="tokens"`,
        left: `"${prefix}tokens";r=${tokens.left};t=${seconds(tokens.fullInMs)}`,
      },
      {
        policy: `"${prefix}streams";q=${limits.streamsMax};qu="concurrent-requests"`,
        left: `"${prefix}streams";r=${streamsLeft}`,
      },
    ];
  });
  return {
    "ratelimit-policy": items.map(({ policy }) => policy).join(", "),
    ratelimit: items.map(({ left }) => left).join(", "),
  };
}

function seconds(ms: number): number {
  return Math.ceil(ms / 1000);
}
