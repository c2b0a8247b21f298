/** One suite for both stores: what the port promises, asked of the real Redis and of the embedded store alike. */
import { describe, expect, inject, it } from "vitest";
import { createMemoryStore } from "../../../edge/regional/memory.ts";
import { openRedisRest } from "../../../edge/platform/redis-rest.ts";
import { createRedisStore, type SendCommand } from "../../../edge/regional/redis.ts";
import {
  NO_PERMITS,
  type Admission,
  type AdmitOutcome,
  type LimitScope,
  type RegionalStore,
  type Reservation,
} from "../../../edge/regional/regional-store.ts";
import type { Limits } from "../../../edge/auth/plans.ts";
import { STORES, type StoreKind } from "../stack.ts";
import { keepEntry } from "./keep-entry.ts";

const platform = { fetch: (url: string, init: RequestInit) => fetch(url, init), now: () => Date.now() };

const elsewhere = { restUrl: "http://store.test", restToken: "t", pendingMax: 1_000 };

function redisStore(send: SendCommand, timeoutMs: number): RegionalStore {
  return createRedisStore(send, { timeoutMs, now: platform.now });
}

function open(kind: StoreKind): RegionalStore {
  if (kind === "memory") return createMemoryStore(platform, { bytesMax: 1_000_000, bucketsMax: 10_000 });
  const { url, token } = inject("redisRest");
  return redisStore(
    openRedisRest(platform, { restUrl: url, restToken: token, timeoutMs: 5_000, pendingMax: 1_000 }),
    5_000,
  );
}

function subject(limits: Partial<Limits> = {}, id = "alice"): LimitScope {
  return { name: "subject", id, limits: { requestsPerMinute: 5, tokensPerMinute: 1_000, streamsMax: 100, ...limits } };
}

/** Fresh for ever. */
const ANY_AGE = { freshSeconds: 1e9, staleSeconds: 0, errorSeconds: 0 };

function admission(scopes: readonly LimitScope[], fields: Partial<Admission> = {}): Admission {
  return {
    tenant: "unset",
    tokenId: "",
    scopes,
    lookUp: { digest: "digest", ...ANY_AGE },
    otherwise: "reserve",
    requests: 1,
    tokens: 10,
    leaseId: crypto.randomUUID(),
    leaseMs: 60_000,
    permits: NO_PERMITS,
    ...fields,
  };
}

function reservationOf(outcome: AdmitOutcome): Reservation {
  if (outcome.type !== "reserved") throw new Error(`expected a reservation, got ${outcome.type}`);
  return outcome.reservation;
}

function newTenant(): string {
  return `t-${crypto.randomUUID()}`;
}

/** A network that never answers. */
function silent(_url: string, { signal }: RequestInit): Promise<Response> {
  return new Promise((_resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason as Error));
  });
}

const entry = { storedAt: Math.floor(Date.now() / 1000), sealed: "c2VhbGVk" };

describe.each(STORES)("the regional store in %s", (kind) => {
  const store = open(kind);

  it("refuses a revoked token and nobody else's, and takes nothing for it", async () => {
    const tenant = newTenant();
    const exp = Math.floor(Date.now() / 1000) + 60;
    const asked = (fields: Partial<Admission>) => store.admit(admission([subject()], { tenant, ...fields }));
    expect((await asked({ tokenId: "one" })).type).toBe("reserved");
    expect(await store.isRevoked(tenant, "one")).toBe(false);
    await store.revoke(tenant, "one", exp);
    await store.revoke(tenant, "one", exp);
    expect(await asked({ tokenId: "one" })).toEqual({
      type: "revoked",
      balances: [],
      grant: { permits: 0, fullAt: [], generation: "" },
    });
    expect(await store.isRevoked(tenant, "one")).toBe(true);
    expect(await store.isRevoked(newTenant(), "one")).toBe(false);
    for (const tokenId of ["two", "", "on", "one "]) {
      const outcome = await asked({ tokenId, requests: 0, tokens: 0 });
      expect([tokenId, outcome.type, outcome.balances[0]?.requests.left]).toEqual([tokenId, "reserved", 4]);
    }
  });

  it("admits exactly the limit of requests out of 100 at once, and says what is left", async () => {
    const tenant = newTenant();
    // One request a minute refills one each 12 s at 5, so the hundred are over long before the next.
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, () => store.admit(admission([subject()], { tenant }))),
    );
    const left = outcomes.flatMap((o) => (o.type === "reserved" ? [o.balances[0]?.requests.left] : []));
    expect(left.toSorted((a = 0, b = 0) => a - b)).toEqual([0, 1, 2, 3, 4]);
    const denied = outcomes.filter((o) => o.type === "denied");
    expect(denied).toHaveLength(95);
    for (const o of denied) {
      expect(o.limit).toBe("requests");
      expect(o.retryInMs).toBeGreaterThan(6_000);
      expect(o.retryInMs).toBeLessThanOrEqual(12_000);
    }
  });

  it("admits exactly as many tokens as the limit holds out of 100 at once", async () => {
    const tenant = newTenant();
    const scopes = [subject({ requestsPerMinute: 1_000, tokensPerMinute: 60 })];
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, () => store.admit(admission(scopes, { tenant, tokens: 20 }))),
    );
    expect(outcomes.filter((o) => o.type === "reserved")).toHaveLength(3);
  });

  it("admits exactly as many streams as there are slots out of 100 at once", async () => {
    const tenant = newTenant();
    const scopes = [subject({ requestsPerMinute: 1_000, streamsMax: 7 })];
    const outcomes = await Promise.all(
      Array.from({ length: 100 }, () => store.admit(admission(scopes, { tenant, tokens: 1 }))),
    );
    expect(outcomes.filter((o) => o.type === "reserved")).toHaveLength(7);
    expect(outcomes.filter((o) => o.type === "denied").every((o) => o.limit === "streams")).toBe(true);
  });

  it("is not pushed deeper by refusals: what was refused took nothing", async () => {
    const tenant = newTenant();
    const scopes = [subject({ requestsPerMinute: 2, tokensPerMinute: 100 })];
    await store.admit(admission(scopes, { tenant, tokens: 90 }));
    const first = await store.admit(admission(scopes, { tenant, tokens: 50 }));
    expect(first).toMatchObject({ type: "denied", limit: "tokens" });
    await Promise.all(Array.from({ length: 50 }, () => store.admit(admission(scopes, { tenant, tokens: 50 }))));
    const last = await store.admit(admission(scopes, { tenant, tokens: 50 }));
    if (first.type !== "denied" || last.type !== "denied") throw new Error("both must be denied");
    expect(last.retryInMs).toBeLessThanOrEqual(first.retryInMs);
    // The refused ones charged no request either: the second of two is still there.
    expect(await store.admit(admission(scopes, { tenant, tokens: 1 }))).toMatchObject({ type: "reserved" });
  });

  it("gives tokens and slot back when a reservation is settled, once", async () => {
    const tenant = newTenant();
    const scopes = [subject({ tokensPerMinute: 1_000, streamsMax: 1 })];
    const reserved = await store.admit(admission(scopes, { tenant, tokens: 900 }));
    expect(reserved.balances[0]?.streamsLeft).toBe(0);
    expect(reserved.balances[0]?.tokens.left).toBe(100);
    await store.settle(reservationOf(reserved), 300);
    await store.settle(reservationOf(reserved), 0);
    const next = await store.admit(admission(scopes, { tenant, tokens: 0 }));
    expect(next.type).toBe("reserved");
    expect(next.balances[0]?.tokens.left).toBeGreaterThanOrEqual(700);
    expect(next.balances[0]?.tokens.left).toBeLessThan(800); // 16 tokens refill a second.
  });

  it("keeps the answer of what is settled, and settles where the answer was purged meanwhile", async () => {
    const tenant = newTenant();
    const scopes = [subject({ tokensPerMinute: 1_000, streamsMax: 1 })];
    const settled = async (digest: string, purged: boolean): Promise<unknown> => {
      const outcome = await store.admit(admission(scopes, { tenant, tokens: 400, lookUp: { digest, ...ANY_AGE } }));
      if (purged) await store.purge({ tenant });
      const { generation } = outcome.grant;
      return store.settle(reservationOf(outcome), 10, { digest, entry, ttlSeconds: 60, generation });
    };
    expect([await settled("first", true), await settled("second", false)]).toEqual(["purged", "kept"]);
    const asked = (digest: string): Promise<AdmitOutcome> =>
      store.admit(admission(scopes, { tenant, otherwise: "report", lookUp: { digest, ...ANY_AGE } }));
    expect(await asked("first")).toMatchObject({ type: "absent" });
    const hit = await asked("second");
    expect(hit).toMatchObject({ type: "hit", entry });
    expect(hit.balances[0]).toMatchObject({ streamsLeft: 1 });
    expect(hit.balances[0]?.tokens.left).toBeGreaterThanOrEqual(980);
  });

  it("does not pay back what refilled while the answer ran", async () => {
    const tenant = newTenant();
    const scopes = [subject({ tokensPerMinute: 60 })]; // One token a second.
    const slow = await store.admit(admission(scopes, { tenant, tokens: 1 }));
    await new Promise((resolve) => setTimeout(resolve, 1_050));
    expect((await store.admit(admission(scopes, { tenant, tokens: 60 }))).type).toBe("reserved");
    await store.settle(reservationOf(slow), 0);
    expect(await store.admit(admission(scopes, { tenant, tokens: 1 }))).toMatchObject({
      type: "denied",
      limit: "tokens",
    });
  });

  it("charges what was used beyond the reservation", async () => {
    const tenant = newTenant();
    const scopes = [subject({ tokensPerMinute: 1_000 })];
    await store.settle(reservationOf(await store.admit(admission(scopes, { tenant, tokens: 10 }))), 990);
    const next = await store.admit(admission(scopes, { tenant, tokens: 200 }));
    expect(next).toMatchObject({ type: "denied", limit: "tokens" });
  });

  it("reserves at most what the bucket holds, so that no request is refused for ever", async () => {
    const tenant = newTenant();
    const scopes = [subject({ tokensPerMinute: 50 })];
    const outcome = await store.admit(admission(scopes, { tenant, tokens: 8_192 }));
    expect(reservationOf(outcome).scopes[0]?.tokens).toBe(50);
    expect(outcome.balances[0]?.tokens.left).toBe(0);
  });

  it("takes a slot back when its lease runs out, and ignores settling after that", async () => {
    const tenant = newTenant();
    const scopes = [subject({ streamsMax: 1, tokensPerMinute: 1_000 })];
    const crashed = await store.admit(admission(scopes, { tenant, leaseMs: 80, tokens: 600 }));
    expect(await store.admit(admission(scopes, { tenant }))).toMatchObject({ type: "denied", limit: "streams" });
    await new Promise((resolve) => setTimeout(resolve, 120));
    const next = await store.admit(admission(scopes, { tenant, tokens: 1 }));
    expect(next.type).toBe("reserved");
    await store.settle(reservationOf(crashed), 0);
    const after = await store.admit(admission([subject({ streamsMax: 2, tokensPerMinute: 1_000 })], { tenant }));
    expect(after.balances[0]?.tokens.left).toBeLessThan(500);
  });

  it("returns an entry for one request and no tokens, no slot", async () => {
    const tenant = newTenant();
    await keepEntry(store, tenant, { digest: "digest", entry, ttlSeconds: 60, generation: "" });
    const scopes = [subject({ requestsPerMinute: 2, tokensPerMinute: 10, streamsMax: 1 })];
    const first = await store.admit(admission(scopes, { tenant, tokens: 10 }));
    expect(first).toMatchObject({ type: "hit", entry });
    expect(first.balances[0]).toMatchObject({ requests: { left: 1 }, tokens: { left: 10 }, streamsLeft: 1 });
    expect((await store.admit(admission(scopes, { tenant }))).type).toBe("hit");
    expect(await store.admit(admission(scopes, { tenant }))).toMatchObject({ type: "denied", limit: "requests" });
  });

  it("does not return an entry that is too old, not asked for, or another tenant's", async () => {
    const tenant = newTenant();
    const old = { ...entry, storedAt: entry.storedAt - 100 };
    await keepEntry(store, tenant, { digest: "digest", entry: old, ttlSeconds: 60, generation: "" });
    const asked = (lookUp: Admission["lookUp"], of = tenant): Promise<AdmitOutcome> =>
      store.admit(admission([subject()], { tenant: of, lookUp, otherwise: "report" }));
    expect((await asked({ digest: "digest", ...ANY_AGE, freshSeconds: 10 })).type).toBe("absent");
    expect((await asked({ digest: "digest", ...ANY_AGE, freshSeconds: 1_000 })).type).toBe("hit");
    expect((await asked({ digest: "other", ...ANY_AGE })).type).toBe("absent");
    expect((await asked(undefined)).type).toBe("absent");
    expect((await asked({ digest: "digest", ...ANY_AGE }, newTenant())).type).toBe("absent");
  });

  it("forgets an entry after its time", async () => {
    const tenant = newTenant();
    await keepEntry(store, tenant, { digest: "digest", entry, ttlSeconds: 1, generation: "" });
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    expect((await store.admit(admission([subject()], { tenant, otherwise: "report" }))).type).toBe("absent");
  });

  it("limits a tenant's subjects together where there is a tenant scope, and each alone", async () => {
    const tenant = newTenant();
    const together: LimitScope = {
      name: "tenant",
      id: "",
      limits: { requestsPerMinute: 3, tokensPerMinute: 1_000, streamsMax: 100 },
    };
    const asked = (id: string): Promise<AdmitOutcome> =>
      store.admit(admission([subject({ requestsPerMinute: 2 }, id), together], { tenant }));
    expect((await asked("a")).type).toBe("reserved");
    expect((await asked("a")).type).toBe("reserved");
    expect(await asked("a")).toMatchObject({ type: "denied", scope: { name: "subject" } });
    expect((await asked("b")).type).toBe("reserved");
    expect(await asked("b")).toMatchObject({ type: "denied", scope: { name: "tenant" } });
    // The tenant's refusal took nothing from b: under its own limit alone it still has one.
    expect((await store.admit(admission([subject({ requestsPerMinute: 2 }, "b")], { tenant }))).type).toBe("reserved");
  });

  it("keeps names apart that are made to collide", async () => {
    const base = newTenant();
    const pairs = [
      [base, "x}:requests:y"],
      [`${base}}:requests:x`, "y"],
      [`${base}:x`, "y"],
      [base, "x:y"],
      [`{${base}`, "%7D"],
      [base, "}"],
    ] as const;
    for (const [tenant, id] of pairs) {
      const outcome = await store.admit(admission([subject({ requestsPerMinute: 1 }, id)], { tenant }));
      expect(outcome.type, `${tenant} ${id}`).toBe("reserved");
    }
  });

  it("grants permits out of the same bucket, at most half of what is left, and none when it refuses", async () => {
    const tenant = newTenant();
    const scopes = [subject({ requestsPerMinute: 12 })];
    const asked = (wanted: number): Promise<AdmitOutcome> =>
      store.admit(admission(scopes, { tenant, tokens: 1, permits: { wanted, unspent: 0, fullAt: [] } }));
    const first = await asked(2);
    expect(first.grant.permits).toBe(2);
    expect(first.balances[0]?.requests.left).toBe(9);
    const second = await asked(1_000);
    expect(second.grant.permits).toBe(4);
    expect(second.balances[0]?.requests.left).toBe(4);
    const outcomes = [await asked(9), await asked(9), await asked(9), await asked(9)];
    expect(outcomes.map(({ type, grant: { permits } }) => [type, permits])).toEqual([
      ["reserved", 1],
      ["reserved", 0],
      ["reserved", 0],
      ["denied", 0],
    ]);
  });

  it("takes unspent permits back, but not what was refilled meanwhile", async () => {
    const tenant = newTenant();
    const scopes = [subject({ requestsPerMinute: 60 })]; // One a second.
    const asked = (permits: Admission["permits"], requests: 0 | 1 = 0): Promise<AdmitOutcome> =>
      store.admit(admission(scopes, { tenant, lookUp: undefined, otherwise: "report", requests, permits }));
    const { grant } = await asked({ wanted: 20, unspent: 0, fullAt: [] }, 1);
    expect(grant.permits).toBe(20);
    const back = await asked({ wanted: 0, unspent: 20, fullAt: grant.fullAt });
    expect(back.balances[0]?.requests.left).toBe(59);

    const short = await asked({ wanted: 1, unspent: 0, fullAt: [] });
    expect(short.grant.permits).toBe(1);
    await new Promise((resolve) => setTimeout(resolve, 2_100)); // Two are refilled: the bucket was full again in between.
    await Promise.all(Array.from({ length: 60 }, () => asked(NO_PERMITS, 1)));
    const minted = await asked({ wanted: 0, unspent: 1, fullAt: short.grant.fullAt });
    expect(minted.balances[0]?.requests.left).toBe(0);
  });

  it("lets permits be paid by the tenant as well as by the subject", async () => {
    const tenant = newTenant();
    const limits = { requestsPerMinute: 5, tokensPerMinute: 1_000, streamsMax: 100 };
    const scopes = [subject({ requestsPerMinute: 100 }), { name: "tenant", id: "", limits } as const];
    const { grant, balances } = await store.admit(
      admission(scopes, { tenant, permits: { wanted: 50, unspent: 0, fullAt: [] } }),
    );
    expect(grant.permits).toBe(2);
    expect(balances.map(({ requests }) => requests.left)).toEqual([97, 2]);
    const back = await store.admit(
      admission(scopes, { tenant, requests: 0, permits: { wanted: 0, unspent: 2, fullAt: grant.fullAt } }),
    );
    expect(back.balances.map(({ requests }) => requests.left)).toEqual([99, 4]);
  });

  it("keeps and returns shared values", async () => {
    const name = `test-${crypto.randomUUID()}`;
    expect(await store.readShared(name)).toBeUndefined();
    await store.keepShared(name, "value", 60);
    expect(await store.readShared(name)).toBe("value");
    await store.ping();
  });
});

describe("the store in Redis", () => {
  it("sends a script again to a Redis that forgot it", async () => {
    const store = open("redis");
    const tenant = `t-${crypto.randomUUID()}`;
    await store.admit(admission([subject()], { tenant }));
    const { url, token } = inject("redisRest");
    const flushed = await fetch(url, {
      method: "POST",
      headers: { authorization: `Bearer ${token}` },
      body: JSON.stringify(["SCRIPT", "FLUSH"]),
    });
    expect(await flushed.json()).toEqual({ result: "OK" });
    const again = await store.admit(admission([subject()], { tenant }));
    expect(again.balances[0]?.requests.left).toBe(3);
  });

  it.each([
    ["no JSON", () => new Response("<html>502</html>", { status: 502 })],
    ["JSON of another shape", () => Response.json({ ok: true })],
    ["a result of another shape", () => Response.json({ result: ["hit", 1, 2] })],
    ["an unknown outcome", () => Response.json({ result: ["maybe", "", 0, "", 0, "", 0, 1, 1, 1, 1, 1, 1, 1, 1] })],
    ["too few scopes", () => Response.json({ result: ["absent", "", 0, "", 0, "", 0] })],
    ["an error", () => Response.json({ error: "WRONGTYPE" }, { status: 400 })],
  ])("names the store unavailable when it answers %s", async (_, answer) => {
    const store = redisStore(
      openRedisRest({ ...platform, fetch: async () => answer() }, { ...elsewhere, timeoutMs: 100 }),
      100,
    );
    await expect(store.admit(admission([subject()]))).rejects.toThrowError(
      expect.objectContaining({ name: "StoreUnavailable" }),
    );
  });

  it("gives up after its timeout", async () => {
    const store = redisStore(openRedisRest({ ...platform, fetch: silent }, { ...elsewhere, timeoutMs: 50 }), 50);
    await expect(store.ping()).rejects.toThrowError("timeout");
  });
});
