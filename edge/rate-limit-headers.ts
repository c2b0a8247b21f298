/**
 * Says what is left of the limits. Every number comes from the store's own reply to this very request.
 *
 * Source: draft-ietf-httpapi-ratelimit-headers-10: `ratelimit-policy` (q quota, w window in seconds, qu unit) and
 * `ratelimit` (r left, t seconds until it is full again). Its registry has no unit for tokens; "tokens" is ours.
 */
import { WINDOW_SECONDS, type Balance } from "./regional/regional-store.ts";

/** Both headers, one item per limit of each scope. Plain text, because it is written on every hit. */
export function rateLimitHeaders(balances: readonly Balance[]): Readonly<Record<string, string>> {
  let policy = "";
  let left = "";
  for (const { scope, requests, tokens, streamsLeft, budgets } of balances) {
    const { requestsPerMinute, tokensPerMinute, streamsMax } = scope.limits;
    const separator = policy === "" ? "" : ", ";
    const prefix = scope.name === "tenant" ? "tenant-" : "";
    policy +=
      `${separator}"${prefix}requests";q=${requestsPerMinute};w=${WINDOW_SECONDS};qu="requests"` +
      `, "${prefix}tokens";q=${tokensPerMinute};w=${WINDOW_SECONDS};qu="tokens"` +
      `, "${prefix}streams";q=${streamsMax};qu="concurrent-requests"`;
    left +=
      `${separator}"${prefix}requests";r=${requests.left};t=${seconds(requests.fullInMs)}` +
      `, "${prefix}tokens";r=${tokens.left};t=${seconds(tokens.fullInMs)}` +
      `, "${prefix}streams";r=${streamsLeft}`;
    for (const { window, max, left: tokensLeft, fullInMs, windowSeconds } of budgets) {
      policy += `, "${prefix}tokens-${window}";q=${max};w=${windowSeconds};qu="tokens"`;
      left += `, "${prefix}tokens-${window}";r=${tokensLeft};t=${seconds(fullInMs)}`;
    }
  }
  return { "ratelimit-policy": policy, ratelimit: left };
}

function seconds(ms: number): number {
  return Math.ceil(ms / 1000);
}
