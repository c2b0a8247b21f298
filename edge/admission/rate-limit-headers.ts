/**
 * Says what is left of the limits. Every number comes from the store's own reply to this very request.
 *
 * Source: draft-ietf-httpapi-ratelimit-headers-10: `ratelimit-policy` (q quota, w window in seconds, qu unit) and
 * `ratelimit` (r left, t seconds until it is full again). Its registry has no unit for tokens; "tokens" is ours.
 */
import { WINDOW_SECONDS, type Balance, type LimitScope } from "../regional/regional-store.ts";

/** How a balance that the region told some time ago reads now. */
export interface Since {
  readonly elapsedMs?: number;
  /** Requests that are paid for and not made yet: they count as left. */
  readonly held?: number;
}

/** Both headers, one item per limit of each scope. */
export function rateLimitHeaders(balances: readonly Balance[], since: Since = {}): Readonly<Record<string, string>> {
  return { "ratelimit-policy": rateLimitPolicy(balances), ratelimit: rateLimit(balances, since) };
}

/** Says the limits themselves, which change with the plan and the calendar only. */
export function rateLimitPolicy(balances: readonly Balance[]): string {
  let policy = "";
  for (const { scope, budgets } of balances) {
    const { requestsPerMinute, tokensPerMinute, streamsMax } = scope.limits;
    const prefix = prefixOf(scope);
    policy +=
      `${policy === "" ? "" : ", "}"${prefix}requests";q=${requestsPerMinute};w=${WINDOW_SECONDS};qu="requests"` +
      `, "${prefix}tokens";q=${tokensPerMinute};w=${WINDOW_SECONDS};qu="tokens"` +
      `, "${prefix}streams";q=${streamsMax};qu="concurrent-requests"`;
    for (const { window, max, windowSeconds } of budgets) {
      policy += `, "${prefix}tokens-${window}";q=${max};w=${windowSeconds};qu="tokens"`;
    }
  }
  return policy;
}

/** Says what is left. Plain text from plain numbers, because it is written on every hit: balances made anew took 10 µs on workerd. */
export function rateLimit(balances: readonly Balance[], { elapsedMs = 0, held = 0 }: Since): string {
  let text = "";
  for (const { scope, requests, tokens, streamsLeft, budgets } of balances) {
    const prefix = prefixOf(scope);
    const requestsLeft = held === 0 ? requests.left : Math.min(requests.left + held, scope.limits.requestsPerMinute);
    text +=
      `${text === "" ? "" : ", "}"${prefix}requests";r=${requestsLeft};t=${seconds(requests.fullInMs - elapsedMs)}` +
      `, "${prefix}tokens";r=${tokens.left};t=${seconds(tokens.fullInMs - elapsedMs)}` +
      `, "${prefix}streams";r=${streamsLeft}`;
    for (const { window, left, fullInMs } of budgets) {
      text += `, "${prefix}tokens-${window}";r=${left};t=${seconds(fullInMs - elapsedMs)}`;
    }
  }
  return text;
}

function prefixOf(scope: LimitScope): string {
  return scope.name === "tenant" ? "tenant-" : "";
}

function seconds(ms: number): number {
  return ms <= 0 ? 0 : Math.ceil(ms / 1000);
}
