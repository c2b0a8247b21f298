/** The rate limit headers, letter for letter. */
import { expect, it } from "vitest";
import { rateLimitHeaders } from "../../../edge/admission/rate-limit-headers.ts";
import type { Balance } from "../../../edge/regional/regional-store.ts";

const limits = { requestsPerMinute: 60, tokensPerMinute: 900, streamsMax: 4 };

const own: Balance = {
  scope: { name: "subject", id: "alice", limits },
  requests: { left: 7, fullInMs: 53_001 },
  tokens: { left: 100, fullInMs: 2_000 },
  streamsLeft: 3,
  budgets: [{ window: "day", max: 5_000, left: 40, fullInMs: 3_600_000, windowSeconds: 86_400 }],
};
const tenant: Balance = { ...own, scope: { name: "tenant", id: "", limits }, budgets: [] };

it("says each limit of each scope, and what is left of it", () => {
  expect(rateLimitHeaders([own, tenant])).toEqual({
    "ratelimit-policy":
      '"requests";q=60;w=60;qu="requests", "tokens";q=900;w=60;qu="tokens", "streams";q=4;qu="concurrent-requests", ' +
      '"tokens-day";q=5000;w=86400;qu="tokens", ' +
      '"tenant-requests";q=60;w=60;qu="requests", "tenant-tokens";q=900;w=60;qu="tokens", ' +
      '"tenant-streams";q=4;qu="concurrent-requests"',
    ratelimit:
      '"requests";r=7;t=54, "tokens";r=100;t=2, "streams";r=3, "tokens-day";r=40;t=3600, ' +
      '"tenant-requests";r=7;t=54, "tenant-tokens";r=100;t=2, "tenant-streams";r=3',
  });
});

it("counts what is held as left, up to the limit, and the time since", () => {
  expect(rateLimitHeaders([own], { held: 10, elapsedMs: 3_001 })["ratelimit"]).toBe(
    '"requests";r=17;t=50, "tokens";r=100;t=0, "streams";r=3, "tokens-day";r=40;t=3597',
  );
  expect(rateLimitHeaders([own], { held: 1_000 })["ratelimit"]).toContain('"requests";r=60;');
});
