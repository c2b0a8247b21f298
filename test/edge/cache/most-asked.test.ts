/** A tenant's most-asked list, and that a purge reaches what is still being answered; through the front door, both stores. */
import { describe, expect, inject, it } from "vitest";
import { createMemoryStore } from "../../../edge/regional/memory.ts";
import { openRedisRest } from "../../../edge/platform/redis-rest.ts";
import { createRedisStore } from "../../../edge/regional/redis.ts";
import type { RegionalStore } from "../../../edge/regional/regional-store.ts";
import { ask, chat, createStack, STORES, token, type Stack, type StoreKind } from "../stack.ts";

interface Listed {
  readonly digest: string;
  readonly times: number;
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
}

/** Longer than an isolate keeps its counts to itself. */
const TOLD_MS = 10_001;

async function admin(stack: Stack, path: string, body?: object, scope = "admin"): Promise<Response> {
  const authorization = `Bearer ${await token({ sub: "operator", scope })}`;
  const headers = { authorization, "content-type": "application/json" };
  const init = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  return stack.fetch(new Request(`http://edge.test${path}`, init));
}

async function topOf(stack: Stack, count = 20): Promise<readonly Listed[]> {
  const response = await admin(stack, `/admin/top?tenant=${stack.tenant}&count=${count}`);
  return (await response.json<{ questions: Listed[] }>()).questions;
}

function open(kind: StoreKind): RegionalStore {
  const platform = { fetch: (url: string, init: RequestInit) => fetch(url, init), now: () => Date.now() };
  if (kind === "memory") return createMemoryStore(platform, { bytesMax: 1_000_000, bucketsMax: 10_000 });
  const { url, token: restToken } = inject("redisRest");
  const timeoutMs = 5_000;
  return createRedisStore(openRedisRest(platform, { restUrl: url, restToken, timeoutMs, pendingMax: 1_000 }), {
    timeoutMs,
    now: () => Date.now(),
  });
}

async function redis(...command: readonly string[]): Promise<unknown> {
  const { url, token: restToken } = inject("redisRest");
  const headers = { authorization: `Bearer ${restToken}` };
  const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(command) });
  return (await response.json<{ result: unknown }>()).result;
}

describe.each(STORES)("the most-asked list, in %s", (store) => {
  it("counts misses and the region's hits, most asked first, without what says nothing of the answer", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_PERMIT_MS: "0" } });
    for (const content of ["seldom", "often", "often", "often"]) {
      await (
        await ask(stack, chat(content, { user: "alice", metadata: { a: 1 }, stream: content === "seldom" }))
      ).text();
    }
    await (await ask(stack, { prompt: "a text", model: "tiny" }, { path: "/v1/completions" })).text();
    await (await ask(stack, { prompt: "simple" }, { path: "/generate" })).text();
    await stack.settled();
    stack.clock.offsetMs = TOLD_MS;
    await (await ask(stack, chat("seldom", { user: "bob" }))).text();
    await stack.settled();

    const listed = await topOf(stack);
    expect(listed.map(({ path, body, times }) => [path, body, Math.round(times)])).toEqual(
      expect.arrayContaining([
        ["/v1/chat/completions", chat("often"), 3],
        ["/v1/chat/completions", chat("seldom"), 2],
        ["/v1/completions", { model: "tiny", prompt: "a text" }, 1],
        ["/generate", { prompt: "simple" }, 1],
      ]),
    );
    expect(listed.map(({ times }) => Math.round(times))).toEqual([3, 2, 1, 1]);
    expect(await topOf(stack, 1)).toHaveLength(1);
  });

  it("counts what an isolate answers by itself, about", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_PLANS: PLENTY } });
    const asked = async (content: string): Promise<void> => {
      await (await stack.fetch(await requestOf(stack, content))).text();
      await stack.settled();
    };
    for (let round = 0; round < 200; round += 1) {
      await asked("often");
      if (round % 10 === 0) await asked("seldom");
    }
    stack.clock.offsetMs = TOLD_MS;
    await asked("last");
    const [first, second] = await topOf(stack);
    expect([first?.body, second?.body]).toEqual([chat("often"), chat("seldom")]);
    expect(first?.times).toBeGreaterThan(100);
    expect(first?.times).toBeLessThan(300);
  });

  it("knows nothing of a question that is not to be kept, is a book, or where the operator wants no list", async () => {
    const stack = createStack({ store });
    await ask(stack, chat("secret"), { headers: { "cache-control": "no-store" } });
    await ask(stack, chat("long ".repeat(4_000)));
    await stack.settled();
    expect(await topOf(stack)).toEqual([]);
    const off = createStack({ store, bindings: { COLDPATH_ASKED_MAX: "0" } });
    await ask(off, chat("hello"));
    await off.settled();
    expect(await topOf(off)).toEqual([]);
  });

  it("is the operator's to read, one tenant's at a time, and goes with the tenant's answers", async () => {
    const stack = createStack({ store });
    await ask(stack, chat("hello"));
    await stack.settled();
    expect(await topOf(stack)).toHaveLength(1);
    expect((await admin(stack, `/admin/top?tenant=${stack.tenant}`, undefined, "chat")).status).toBe(403);
    for (const query of ["", "?tenant=", "?tenant=x&count=0", "?tenant=x&count=1001", "?tenant=x&count=a"]) {
      expect((await admin(stack, `/admin/top${query}`)).status).toBe(400);
    }
    expect(await (await admin(stack, "/admin/top?tenant=another")).json()).toEqual({ questions: [] });
    // What a model was asked is what its successor is warmed with.
    await admin(stack, "/admin/purge", { tenant: stack.tenant, model: "tiny" });
    expect(await topOf(stack)).toHaveLength(1);
    await admin(stack, "/admin/purge", { tenant: stack.tenant, digest: (await topOf(stack))[0]?.digest });
    expect(await topOf(stack)).toEqual([]);
    stack.clock.offsetMs = TOLD_MS;
    await ask(stack, chat("another"));
    await stack.settled();
    expect(await topOf(stack)).toHaveLength(1);
    await admin(stack, "/admin/purge", { tenant: stack.tenant });
    expect(await topOf(stack)).toEqual([]);
  });

  it("is bounded, and lets a newcomer in that is asked more than the last", async () => {
    const region = open(store);
    const tenant = `t-${crypto.randomUUID()}`;
    const count = (digest: string, times: number) => region.countAsked(tenant, [{ digest, times }], 3);
    for (const [digest, times] of [
      ["a", 100],
      ["b", 50],
      ["c", 2],
    ] as const)
      await count(digest, times);
    await region.keepQuestions(
      tenant,
      ["a", "b", "c", "never listed"].map((digest) => [digest, `of ${digest}`]),
    );
    expect(await count("a", 1)).toEqual([]);
    expect(await count("d", 1)).toEqual(["d"]);
    await region.keepQuestions(tenant, [
      ["d", "of d"],
      ["c", "too late"],
    ]);
    const top = await region.topAsked(tenant, 10);
    expect(top.map(({ digest, sealed }) => [digest, sealed])).toEqual([
      ["a", "of a"],
      ["b", "of b"],
      ["d", "of d"],
    ]);
    // It took the last one's count over.
    expect(top.map(({ times }) => Math.round(times))).toEqual([101, 50, 3]);
    expect(await region.topAsked(tenant, 2)).toHaveLength(2);
  });

  it("does not keep an answer that was being made during a purge, though its readers get it", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_ISOLATE_ANSWER_BYTES_MAX: "0" } });
    for (const [round, target] of [{ tenant: stack.tenant }, { tenant: stack.tenant, model: "tiny" }].entries()) {
      stack.origin.script.pieceDelayMs = 40;
      const asked = chat(`being made, ${round}`, { stream: true });
      const response = await ask(stack, asked);
      expect((await admin(stack, "/admin/purge", target)).status).toBe(200);
      expect(await response.text()).toContain("[DONE]");
      await stack.settled();
      expect(stack.logs.find(({ notKept }) => notKept !== undefined)).toMatchObject({
        notKept: "purged",
        ended: "complete",
      });
      for (const cache of ["MISS", "HIT"]) {
        const again = await ask(stack, asked);
        expect(again.headers.get("x-cache")).toBe(cache);
        await again.text();
        await stack.settled();
      }
    }
  });
});

const PLENTY = '{"default":{"requestsPerMinute":100000,"tokensPerMinute":100000000,"streamsMax":100}}';

/** One token for all: permits belong to it. */
async function requestOf(stack: Stack, content: string): Promise<Request> {
  const claims = { sub: "alice", tid: stack.tenant, exp: 4_000_000_000 };
  const headers = { authorization: `Bearer ${await token(claims)}`, "content-type": "application/json" };
  return new Request("http://edge.test/v1/chat/completions", {
    method: "POST",
    headers,
    body: JSON.stringify(chat(content)),
  });
}

describe("in Redis", () => {
  it("the list holds no question in the clear, and opens under no other tenant or digest", async () => {
    const stack = createStack({ store: "redis" });
    await ask(stack, chat("a very private question"));
    await stack.settled();
    const key = `cp:{${stack.tenant}}:questions`;
    const [digest = "", sealed = ""] = (await redis("HGETALL", key)) as string[];
    expect(sealed.length).toBeGreaterThan(50);
    expect(sealed + atob(sealed.slice(8))).not.toContain("private");
    expect(Number(await redis("TTL", key))).toBeGreaterThan(29 * 86_400);
    expect(await topOf(stack)).toHaveLength(1);
    await redis("ZADD", `cp:{${stack.tenant}}:asked`, "99999", "forged");
    await redis("HSET", key, "forged", sealed);
    expect((await topOf(stack)).map((listed) => listed.digest)).toEqual([digest]);
  });
});

async function dead(): Promise<Response> {
  throw new TypeError("connection refused");
}

it("a list that can't be told costs the request nothing, and the operator hears why there is none", async () => {
  const stack = createStack({ store: "redis", storeFetch: dead });
  expect((await ask(stack, chat("hello"))).status).toBe(200);
  await stack.settled();
  expect((await admin(stack, "/admin/top?tenant=x")).status).toBe(503);
});
