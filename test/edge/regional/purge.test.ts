/**
 * Purges against everything that happens beside them: answers asked for, kept, read and held by isolates, generations that
 * expire or are dropped for want of memory. Whatever the order, no answer that was asked for before a purge is kept,
 * found or still held as good after it.
 *
 * Redis is a real one that other tests use at the same time: every key gets a prefix of the test's own, so that a purge of
 * everything is one of everything here.
 */
import { array, assert, asyncProperty, boolean, constantFrom, oneof, record, type Arbitrary } from "fast-check";
import { describe, expect, inject, it } from "vitest";
import { createMemoryStore } from "../../../edge/regional/memory.ts";
import { openRedisRest } from "../../../edge/platform/redis-rest.ts";
import { createRedisStore, type SendCommand } from "../../../edge/regional/redis.ts";
import {
  NO_PERMITS,
  type Admission,
  type AdmitOutcome,
  type PurgeTarget,
  type RegionalStore,
} from "../../../edge/regional/regional-store.ts";
import { STORES, type StoreKind } from "../stack.ts";
import { keepEntry } from "./keep-entry.ts";

/** Few, so that steps meet. */
const TENANTS = ["*", "}:generation"];
const DIGESTS = ["m1-one", "m2-one"];
const LEASE_MS = 60_000;
const PATIENCE = { timeoutMs: 20_000, now: () => Date.now() };

function redis(prefix: string): SendCommand {
  const { url, token } = inject("redisRest");
  const platform = { fetch: (to: string, init: RequestInit) => fetch(to, init), now: () => Date.now() };
  const send = openRedisRest(platform, {
    restUrl: url,
    restToken: token,
    timeoutMs: PATIENCE.timeoutMs,
    pendingMax: 1_000,
  });
  const renamed = (argument: string | number) =>
    typeof argument === "string" && argument.startsWith("cp:") ? prefix + argument : argument;
  return async ([name, ...args]) => {
    const reply = await send([name, ...args.map(renamed)]);
    if (name !== "SCAN") return reply;
    const [cursor, keys] = reply as [string, string[]];
    return [cursor, keys.map((key) => key.slice(prefix.length))];
  };
}

function admission(tenant: string, digest: string, fields: Partial<Admission> = {}): Admission {
  return {
    tenant,
    tokenId: "",
    scopes: [{ name: "subject", id: "s", limits: { requestsPerMinute: 1e6, tokensPerMinute: 1e6, streamsMax: 1e6 } }],
    lookUp: { digest, freshSeconds: 1e9, staleSeconds: 0, errorSeconds: 0 },
    otherwise: "reserve",
    requests: 1,
    tokens: 1,
    leaseId: crypto.randomUUID(),
    leaseMs: LEASE_MS,
    permits: NO_PERMITS,
    ...fields,
  };
}

/** An answer that was asked for. */
interface Made {
  readonly tenant: string;
  readonly digest: string;
  readonly generation: string;
  /** Whose text names it. */
  readonly sealed: string;
  /** A purge that reaches it began and ended since it was asked for. */
  purged: boolean;
}

class Region {
  readonly store: RegionalStore;
  /** Forgets a tenant's generation, as a Redis without room would. */
  readonly lose: (tenant: string) => Promise<unknown>;
  readonly made: Made[] = [];
  /** What isolates hold. */
  readonly held: { readonly answer: Made; readonly generation: string }[] = [];

  constructor(kind: StoreKind) {
    const command = redis(`${crypto.randomUUID()}:`);
    this.store =
      kind === "redis"
        ? createRedisStore(command, PATIENCE)
        : createMemoryStore({ now: () => Date.now() }, { bytesMax: 1e6, bucketsMax: 10_000 });
    this.lose = async (tenant) =>
      kind === "redis" ? command(["DEL", `cp:{${encodeURIComponent(tenant)}}:generation`]) : undefined;
  }

  async ask(tenant: string, digest: string): Promise<void> {
    const purged = new Set(this.made.filter((answer) => answer.purged));
    const outcome = await this.store.admit(admission(tenant, digest));
    const { generation } = outcome.grant;
    if (outcome.type === "reserved") {
      this.made.push({ tenant, digest, generation, sealed: String(this.made.length).padStart(8, "0"), purged: false });
    }
    if (outcome.type !== "hit") return;
    const answer = this.made.find(({ sealed }) => sealed === outcome.entry.sealed);
    expect(answer, "a hit that nobody made").toMatchObject({ tenant, digest });
    if (answer === undefined) return;
    expect(purged.has(answer), "a hit that was purged before it was asked for").toBe(false);
    this.held.push({ answer, generation });
  }

  async keep(answer: Made): Promise<void> {
    const { tenant, digest, generation, sealed, purged } = answer;
    const entry = { storedAt: Math.floor(Date.now() / 1000), sealed };
    const kept = await keepEntry(this.store, tenant, { digest, entry, ttlSeconds: 600, generation });
    if (purged) expect(kept, "kept, though purged").toBe(false);
    if (kept) this.held.push({ answer, generation });
  }

  async purge(target: PurgeTarget): Promise<void> {
    const reached = this.made.filter(
      ({ tenant, digest }) =>
        (target.tenant ?? tenant) === tenant &&
        (target.digest ?? digest) === digest &&
        digest.startsWith(target.digestPrefix ?? ""),
    );
    await this.store.purge(target);
    for (const answer of reached) answer.purged = true;
  }

  /** What an isolate learns with its next permits: whether what it holds is still good. */
  async check(): Promise<void> {
    const generations = new Map<string, string>();
    for (const tenant of TENANTS) {
      const looked = { lookUp: undefined, otherwise: "report", requests: 0 } as const;
      const { grant }: AdmitOutcome = await this.store.admit(admission(tenant, "", looked));
      generations.set(tenant, grant.generation);
    }
    for (const { answer, generation } of this.held) {
      if (answer.purged) expect(generation, "held as good").not.toBe(generations.get(answer.tenant));
    }
  }
}

type Step =
  | { readonly type: "ask" | "keep"; readonly tenant: string; readonly digest: string }
  | { readonly type: "lose"; readonly tenant: string }
  | { readonly type: "purge"; readonly target: PurgeTarget; readonly meanwhile: boolean };

const tenants = constantFrom(...TENANTS);
const digests = constantFrom(...DIGESTS);
const asks = record({ type: constantFrom("ask" as const), tenant: tenants, digest: digests });
const keeps = record({ type: constantFrom("keep" as const), tenant: tenants, digest: digests });
const targets: Arbitrary<PurgeTarget> = oneof(
  constantFrom({}),
  record({ tenant: tenants }),
  record({ digest: digests }),
  record({ tenant: tenants, digestPrefix: constantFrom("m1-", "m2-") }),
);
const steps: Arbitrary<Step> = oneof(
  asks,
  asks,
  asks,
  keeps,
  keeps,
  keeps,
  record({ type: constantFrom("lose" as const), tenant: tenants }),
  record({ type: constantFrom("purge" as const), target: targets, meanwhile: boolean() }),
);

async function take(region: Region, step: Step): Promise<void> {
  switch (step.type) {
    case "ask":
      return region.ask(step.tenant, step.digest);
    case "keep": {
      const answer = region.made.findLast(({ tenant, digest }) => tenant === step.tenant && digest === step.digest);
      return answer === undefined ? undefined : region.keep(answer);
    }
    case "lose":
      await region.lose(step.tenant);
      return undefined;
    case "purge":
      return region.purge(step.target);
    default:
      return step satisfies never;
  }
}

describe.each(STORES)("a purge in %s", (kind) => {
  it("leaves no answer that was asked for before it, whatever happens beside it or is forgotten", async () => {
    await assert(
      asyncProperty(array(steps, { minLength: 10, maxLength: 40 }), async (taken) => {
        const region = new Region(kind);
        const running: Promise<void>[] = [];
        for (const step of taken) {
          const done = take(region, step);
          if (step.type === "purge" && step.meanwhile) running.push(done);
          else await done;
          if (running.length === 0) await region.check();
        }
        await Promise.all(running);
        await region.check();
      }),
      { numRuns: kind === "redis" ? 25 : 200 },
    );
  });
});

describe("a purge in Redis", () => {
  it("keeps nothing from its beginning on that was asked for before, not even behind the place it has come to", async () => {
    const command = redis(`${crypto.randomUUID()}:`);
    let onLooked: (() => Promise<unknown>) | undefined;
    const store = createRedisStore(async (sent) => {
      const reply = await command(sent);
      if (sent[0] === "SCAN" && String(sent[3]).includes(":entry:")) await onLooked?.();
      return reply;
    }, PATIENCE);
    const { grant } = await store.admit(admission("t", "d"));
    const entry = { storedAt: Math.floor(Date.now() / 1000), sealed: "AAAA" };
    const kept: boolean[] = [];
    onLooked = async () =>
      kept.push(await keepEntry(store, "t", { digest: "d", entry, ttlSeconds: 60, generation: grant.generation }));
    await store.purge({});
    expect(kept.length).toBeGreaterThan(0);
    expect(kept).not.toContain(true);
    expect(await command(["EXISTS", "cp:{t}:entry:d"])).toBe(0);
  });
});

describe("a tenant's generation in Redis", () => {
  it("expires by itself, later than an answer that is being made, and is renewed by the next", async () => {
    const command = redis(`${crypto.randomUUID()}:`);
    const store = createRedisStore(command, PATIENCE);
    const key = "cp:{t}:generation";
    const leftMs = async () => Number(await command(["PTTL", key]));
    const first = await store.admit(admission("t", "d"));
    expect(await command(["GET", key])).toBe(first.grant.generation);
    expect(await leftMs()).toBeGreaterThan(LEASE_MS + 86_000_000);
    await command(["PEXPIRE", key, 1_000_000]);
    const second = await store.admit(admission("t", "e"));
    expect(second.grant.generation).toBe(first.grant.generation);
    expect(await leftMs()).toBeGreaterThan(LEASE_MS + 86_000_000);
    await store.purge({});
    expect(await command(["GET", key])).not.toBe(first.grant.generation);
    expect(await leftMs()).toBeGreaterThan(86_000_000);
  });

  it("is made by a hit that finds none, so that nothing is ever held under no name", async () => {
    const command = redis(`${crypto.randomUUID()}:`);
    const store = createRedisStore(command, PATIENCE);
    const { grant } = await store.admit(admission("t", "d"));
    const entry = { storedAt: Math.floor(Date.now() / 1000), sealed: "AAAA" };
    await keepEntry(store, "t", { digest: "d", entry, ttlSeconds: 60, generation: grant.generation });
    await command(["DEL", "cp:{t}:generation"]);
    const hit = await store.admit(admission("t", "d"));
    expect(hit.type).toBe("hit");
    expect(["", grant.generation]).not.toContain(hit.grant.generation);
    expect(await command(["GET", "cp:{t}:generation"])).toBe(hit.grant.generation);
  });

  it("is all that names a tenant: once its keys have expired, nothing says that it was there", async () => {
    const prefix = `${crypto.randomUUID()}:`;
    const command = redis(prefix);
    const store = createRedisStore(command, PATIENCE);
    const outcome = await store.admit(admission("t", "d"));
    if (outcome.type === "reserved") await store.settle(outcome.reservation, 0);
    const keys = (await command(["KEYS", `${prefix}*`])) as string[];
    expect(keys.length).toBeGreaterThan(0);
    // -1 is one that never expires; -2 one that has.
    for (const key of keys) expect([key, await command(["PTTL", key])]).not.toEqual([key, -1]);
  });
});
