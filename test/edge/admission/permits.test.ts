/** Permits on a store under a set clock: what they may exceed, what they waste, and what a stuck question does. */
import { assert, asyncProperty, integer } from "fast-check";
import { describe, expect, it } from "vitest";
import type { Caller } from "../../../edge/auth/authenticate.ts";
import { Permits, type PermitLease } from "../../../edge/admission/permits.ts";
import { createMemoryStore } from "../../../edge/regional/memory.ts";
import type { Admission, RegionalStore } from "../../../edge/regional/regional-store.ts";
import { mulberry32 } from "../../fakes/mulberry32.ts";

const REQUESTS_PER_MINUTE = 60;
const PERMIT_MS = 5_000;
const START_MS = 1_700_000_000_000;

const limits = { requestsPerMinute: REQUESTS_PER_MINUTE, tokensPerMinute: 1_000, streamsMax: 8 };
const caller: Caller = {
  subject: "alice",
  tenant: "acme",
  scopes: [{ name: "subject", id: "alice", limits }],
  priority: "normal",
  tokenId: "",
};

/** Several isolates in front of one store, with a clock of their own. */
class Region {
  nowMs = START_MS;
  readonly store: RegionalStore;
  readonly leases: readonly PermitLease[];
  readonly permits: readonly Permits[];

  constructor(isolates: number, permitsMax = 1_000) {
    this.store = createMemoryStore({ now: () => this.nowMs }, { bytesMax: 1_000, bucketsMax: 100 });
    const settings = { permitMs: PERMIT_MS, permitsMax };
    this.permits = Array.from({ length: isolates }, () => new Permits(settings));
    this.leases = this.permits.map((permits) => permits.of(caller));
  }

  /** One request for what the isolate remembers: answered from its permits, else by asking. */
  async request(isolate: number): Promise<"isolate" | "region" | "denied"> {
    const lease = this.leases[isolate];
    if (lease === undefined) throw new Error(`there is no isolate ${isolate}`);
    if (lease.take(this.nowMs)) {
      if (lease.needsRenewal(this.nowMs)) await this.#ask(lease, 0);
      return "isolate";
    }
    return (await this.#ask(lease, 1)) === "denied" ? "denied" : "region";
  }

  async #ask(lease: PermitLease, requests: 0 | 1): Promise<string> {
    const permits = requests === 0 ? lease.ask(this.nowMs) : lease.askFor(this.nowMs);
    const outcome = await this.store.admit(admission(requests, permits));
    lease.granted(permits, outcome.grant, outcome.balances, this.nowMs);
    return outcome.type;
  }
}

function admission(requests: 0 | 1, permits: Admission["permits"]): Admission {
  return {
    tenant: caller.tenant,
    tokenId: caller.tokenId,
    scopes: caller.scopes,
    lookUp: undefined,
    otherwise: "report",
    requests,
    tokens: 0,
    leaseId: "",
    leaseMs: 0,
    permits,
  };
}

describe("permits", () => {
  it("never let more through, in any span of time, than the bucket and a permit's life of refill", async () => {
    await assert(
      asyncProperty(integer(), integer({ min: 1, max: 6 }), async (seed, isolates) => {
        const next = mulberry32(seed);
        const region = new Region(isolates);
        const answeredMs: number[] = [];
        for (let step = 0; step < 400; step += 1) {
          // Bursts and pauses: both are where an advance could be had twice.
          region.nowMs += next() < 0.9 ? Math.floor(next() * 300) : Math.floor(next() * 40_000);
          const outcome = await region.request(Math.floor(next() * isolates));
          if (outcome !== "denied") answeredMs.push(region.nowMs);
        }
        let worst = 0;
        let exceeded = 0;
        for (const [first, fromMs] of answeredMs.entries()) {
          for (let last = first; last < answeredMs.length; last += 1) {
            const spanMs = (answeredMs[last] ?? 0) - fromMs;
            const allowed = REQUESTS_PER_MINUTE * (1 + (spanMs + PERMIT_MS) / 60_000);
            worst = Math.max(worst, last - first + 1 - allowed);
            exceeded = Math.max(exceeded, last - first + 1 - REQUESTS_PER_MINUTE * (1 + spanMs / 60_000));
          }
        }
        expect(worst, `seed ${seed}`).toBeLessThanOrEqual(0);
        // And what was exceeded is what is counted as such, to the request that a fraction makes.
        const late = region.permits.reduce((sum, { counts }) => sum + counts.late, 0);
        expect(exceeded, `seed ${seed}, counted`).toBeLessThan(late + 1);
      }),
      { numRuns: 40 },
    );
  });

  it("leave a caller its whole limit, whichever isolates it meets", async () => {
    for (const isolates of [1, 3, 60]) {
      const region = new Region(isolates);
      let answered = 0;
      for (let asked = 0; asked < 200; asked += 1) {
        if ((await region.request(asked % isolates)) !== "denied") answered += 1;
      }
      // What is left lies in the isolates, and each of them would still answer with it.
      const held = region.leases.reduce((sum, lease) => sum + lease.left(region.nowMs), 0);
      expect(answered + held).toBe(REQUESTS_PER_MINUTE);
      expect(answered).toBeGreaterThan(REQUESTS_PER_MINUTE / 2);
    }
  });

  it("are counted: granted, spent, and what of them may have come on top of the limit", async () => {
    const region = new Region(1);
    const counts = region.permits[0]?.counts;
    while ((region.leases[0]?.left(region.nowMs) ?? 0) < 4) await region.request(0);
    const before = { ...counts };
    expect(await region.request(0)).toBe("isolate");
    region.leases[0]?.take(region.nowMs);
    region.leases[0]?.putBack();
    expect(counts).toEqual({ granted: before.granted, spent: (before.spent ?? 0) + 2, late: 0 });
    // What was put back is spent once; after a second the bucket has regained one request, and only one.
    region.nowMs += 1_000;
    for (let taken = 0; taken < 3; taken += 1) region.leases[0]?.take(region.nowMs);
    expect(counts).toEqual({ granted: before.granted, spent: (before.spent ?? 0) + 4, late: 1 });
  });

  it("are not asked for by a caller that is seen once in a while", async () => {
    const region = new Region(1);
    for (let asked = 0; asked < 20; asked += 1) {
      expect(await region.request(0)).toBe("region");
      expect(region.leases[0]?.left(region.nowMs)).toBe(0);
      region.nowMs += PERMIT_MS + 1;
    }
  });

  it("answer nearly everything of a caller that asks steadily, and asks the region ever more seldom", async () => {
    const region = new Region(1);
    const seen = { isolate: 0, region: 0, denied: 0 };
    for (let asked = 0; asked < 100; asked += 1) {
      seen[await region.request(0)] += 1;
      region.nowMs += 1_000; // As fast as the bucket refills.
    }
    expect(seen.denied).toBe(0);
    expect(seen.isolate).toBeGreaterThan(90);
  });

  it("are asked for as they run out, also where every request goes to the region anyhow", () => {
    const lease = new Permits({ permitMs: PERMIT_MS, permitsMax: 1_000 }).of(caller);
    let wanted = 0;
    let batches = 0;
    for (let request = 0; request < 1_000; request += 1) {
      const nowMs = START_MS + request * 4;
      const asking = lease.take(nowMs) ? lease.ask(nowMs) : lease.askFor(nowMs);
      lease.granted(asking, { permits: asking.wanted, fullAt: ["0"], generation: "" }, [], nowMs);
      wanted += asking.wanted;
      if (asking.wanted > 0) batches += 1;
    }
    expect(wanted).toBeLessThan(2_500);
    expect(batches).toBeLessThan(20);
  });

  it("go back when they expire unspent", async () => {
    const region = new Region(1);
    for (let asked = 0; asked < 50; asked += 1) await region.request(0);
    const lease = region.leases[0];
    const held = lease?.left(region.nowMs) ?? 0;
    expect(held).toBeGreaterThan(1);
    region.nowMs += PERMIT_MS;
    expect(lease?.left(region.nowMs)).toBe(0);
    // One batch goes back with each asking.
    for (let asked = 0; asked < 8; asked += 1) expect(await region.request(0)).not.toBe("denied");
    // 50 asked, 5 refilled meanwhile, eight more asked: what was held and lapsed is there again.
    expect(lease?.rateLimits(region.nowMs)["ratelimit"]).toContain(`"requests";r=${REQUESTS_PER_MINUTE - 50 + 5 - 8};`);
  });

  it("are never more than the knob says, and none with a life of nothing", async () => {
    const region = new Region(1, 3);
    for (let asked = 0; asked < 30; asked += 1) {
      await region.request(0);
      expect(region.leases[0]?.left(region.nowMs)).toBeLessThanOrEqual(6); // The last grant's and a renewal's.
    }
    const none = new Permits({ permitMs: 0, permitsMax: 1_000 }).of(caller);
    for (let asked = 0; asked < 5; asked += 1) expect(none.askFor(START_MS).wanted).toBe(0);
  });

  it("are asked for again when a question was lost with its request", () => {
    const lease = new Permits({ permitMs: PERMIT_MS, permitsMax: 1_000 }).of(caller);
    lease.askFor(START_MS);
    expect(lease.askFor(START_MS).wanted).toBeGreaterThan(0); // And never answered.
    for (const laterMs of [1, PERMIT_MS - 1]) expect(lease.askFor(START_MS + laterMs).wanted).toBe(0);
    expect(lease.askFor(START_MS + PERMIT_MS).wanted).toBeGreaterThan(0);
  });

  it("keep the later news when answers overtake each other", () => {
    const lease = new Permits({ permitMs: PERMIT_MS, permitsMax: 1_000 }).of(caller);
    const early = lease.askFor(START_MS);
    const late = lease.askFor(START_MS + 10);
    lease.granted(late, { permits: 1, fullAt: ["0"], generation: "after the purge" }, [], START_MS + 10);
    lease.granted(early, { permits: 1, fullAt: ["0"], generation: "before" }, [], START_MS);
    expect(lease.generation).toBe("after the purge");
  });

  it("take the later answer's news, and grow no older, when the clock is set back", () => {
    const lease = new Permits({ permitMs: PERMIT_MS, permitsMax: 1_000 }).of(caller);
    const before = lease.askFor(START_MS);
    lease.granted(before, { permits: 3, fullAt: ["0"], generation: "before" }, [], START_MS);
    const backMs = START_MS - 3_600_000;
    expect(lease.left(backMs)).toBe(0);
    const after = lease.askFor(backMs);
    expect(after.unspent).toBe(3);
    lease.granted(after, { permits: 0, fullAt: ["0"], generation: "after the purge" }, [], backMs);
    expect(lease.generation).toBe("after the purge");
    // Nor is a question of the time before, whose answer was lost, waited for.
    const laterMs = START_MS + PERMIT_MS * 10;
    lease.askFor(laterMs);
    expect(lease.askFor(laterMs).wanted).toBeGreaterThan(0);
    expect(lease.askFor(laterMs).wanted).toBe(0);
    expect(lease.askFor(backMs).wanted).toBeGreaterThan(0);
  });
});
