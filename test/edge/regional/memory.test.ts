/** What only the embedded store can show: its bounds, and its arithmetic against a plain token bucket under a set clock. */
import { describe, expect, it } from "vitest";
import { createMemoryStore } from "../../../edge/regional/memory.ts";
import {
  NO_PERMITS,
  type Admission,
  type LimitScope,
  type Reservation,
} from "../../../edge/regional/regional-store.ts";
import { mulberry32 } from "../../fakes/mulberry32.ts";
import { keepEntry } from "./keep-entry.ts";

const limits = { requestsPerMinute: 1_000_000, tokensPerMinute: 600, streamsMax: 1_000 };

function admission(scope: LimitScope, tokens: number, leaseId: string): Admission {
  const rest = { lookUp: undefined, otherwise: "reserve", requests: 1, leaseMs: 1e9, permits: NO_PERMITS } as const;
  return { tenant: "t", tokenId: "", scopes: [scope], tokens, leaseId, ...rest };
}

/** The textbook's bucket: a level that refills evenly, and knows each use in the order it was taken. */
class PlainBucket {
  level = limits.tokensPerMinute;
  refill(seconds: number): void {
    this.level = Math.min(this.level + (limits.tokensPerMinute / 60) * seconds, limits.tokensPerMinute);
  }
}

describe("the embedded store", () => {
  it.each([1, 2, 3, 4, 5])("admits as a plain token bucket does, under random load (seed %i)", async (seed) => {
    const next = mulberry32(seed);
    let nowMs = 1_700_000_000_000;
    const store = createMemoryStore({ now: () => nowMs }, { bytesMax: 1_000, bucketsMax: 100 });
    const scope: LimitScope = { name: "subject", id: "s", limits };
    const plain = new PlainBucket();
    let admitted = 0;
    for (let step = 0; step < 500; step += 1) {
      const seconds = Math.floor(next() * 4);
      nowMs += seconds * 1000;
      plain.refill(seconds);
      const tokens = 1 + Math.floor(next() * 200);
      const outcome = await store.admit(admission(scope, tokens, `${step}`));
      const fits = plain.level >= tokens;
      expect(outcome.type, `seed ${seed}, step ${step}`).toBe(fits ? "reserved" : "denied");
      if (fits) {
        plain.level -= tokens;
        admitted += 1;
      }
      expect(outcome.balances[0]?.tokens.left).toBe(Math.floor(plain.level));
    }
    expect(admitted).toBeGreaterThan(50);
  });

  it.each([1, 2, 3, 4, 5])(
    "never mints tokens by refunds: usage stays within limit and refill (seed %i)",
    async (seed) => {
      const next = mulberry32(seed);
      let nowMs = 1_700_000_000_000;
      const store = createMemoryStore({ now: () => nowMs }, { bytesMax: 1_000, bucketsMax: 100 });
      const scope: LimitScope = { name: "subject", id: "s", limits };
      const running: Reservation[] = [];
      const startedMs = nowMs;
      let used = 0;
      for (let step = 0; step < 2_000; step += 1) {
        nowMs += Math.floor(next() * 3_000);
        const outcome = await store.admit(admission(scope, 300, `${step}`));
        if (outcome.type === "reserved") running.push(outcome.reservation);
        if (running.length > 0 && next() < 0.5) {
          const [reservation] = running.splice(Math.floor(next() * running.length), 1);
          if (reservation === undefined) throw new Error("unreachable");
          const real = next() < 0.5 ? 0 : 150;
          used += real;
          await store.settle(reservation, real);
        }
        const entitled = limits.tokensPerMinute + ((nowMs - startedMs) / 60_000) * limits.tokensPerMinute;
        expect(used, `seed ${seed}, step ${step}`).toBeLessThanOrEqual(entitled);
      }
    },
  );

  it("does not pay back what refilled while the answer ran", async () => {
    let nowMs = 0;
    const store = createMemoryStore({ now: () => nowMs }, { bytesMax: 1_000, bucketsMax: 100 });
    const scope: LimitScope = { name: "subject", id: "s", limits };
    const slow = await store.admit(admission(scope, 600, "slow"));
    nowMs += 60_000; // Full again.
    await store.admit(admission(scope, 600, "quick"));
    if (slow.type !== "reserved") throw new Error("the first must be admitted");
    await store.settle(slow.reservation, 0);
    expect(await store.admit(admission(scope, 1, "third"))).toMatchObject({ type: "denied", limit: "tokens" });
  });

  it("drops the least recently used answers, by bytes", async () => {
    const store = createMemoryStore({ now: () => 0 }, { bytesMax: 300, bucketsMax: 100 });
    const sealed = "A".repeat(98); // 100 with the time before it
    for (const digest of ["a", "b", "c"])
      await keepEntry(store, "t", { digest, entry: { storedAt: 0, sealed }, ttlSeconds: 60, generation: "" });
    const has = async (digest: string): Promise<boolean> => {
      const scope: LimitScope = { name: "subject", id: "s", limits };
      const lookUp = { digest, freshSeconds: 1e9, staleSeconds: 0, errorSeconds: 0 };
      const outcome = await store.admit({ ...admission(scope, 0, digest), lookUp, otherwise: "report" });
      return outcome.type === "hit";
    };
    expect(await has("a")).toBe(true);
    await keepEntry(store, "t", { digest: "d", entry: { storedAt: 0, sealed }, ttlSeconds: 60, generation: "" });
    expect([await has("a"), await has("b"), await has("c"), await has("d")]).toEqual([true, false, true, true]);
  });

  it("refuses to forget a limit that still counts, and makes room from those that do not", async () => {
    let nowMs = 0;
    const store = createMemoryStore({ now: () => nowMs }, { bytesMax: 1_000, bucketsMax: 6 });
    const scope = { name: "subject", limits: { ...limits, requestsPerMinute: 60 } } as const;
    const short = (id: string): Admission => ({ ...admission({ ...scope, id }, 10, id), leaseMs: 1_000 });
    await store.admit(short("a"));
    await store.admit(short("b"));
    await expect(store.admit(short("c"))).rejects.toThrowError(expect.objectContaining({ name: "StoreUnavailable" }));
    nowMs += 61_000;
    expect((await store.admit(short("c"))).type).toBe("reserved");
  });
});
