/**
 * A regional Redis that fails in every way it can, behind redis-rest: each request is answered within its time, and the
 * outcome is named in a header, a log line and a metric.
 */
import { describe, expect, inject, it, vi } from "vitest";
import type { Platform } from "../../edge/platform/platform.ts";
import { ask, chat, createStack, token, type Stack } from "./stack.ts";

const TIMEOUT_MS = 60;
const PAUSE_MS = 2_000;
const bindings = { COLDPATH_STORE_TIMEOUT_MS: String(TIMEOUT_MS), COLDPATH_STORE_PAUSE_MS: String(PAUSE_MS) };

const real: Platform["fetch"] = (url, init) => fetch(url, init);

/** Of the scripts, the one that settles and keeps has 3 keys and 2 a scope, and the one that admits has at least 8. */
function keysOf({ body }: RequestInit): number {
  const [name, , keys] = JSON.parse(body as string) as unknown[];
  return String(name).startsWith("EVAL") ? Number(keys) : 0;
}

function settles(init: RequestInit): boolean {
  const keys = keysOf(init);
  return keys === 5 || keys === 7;
}

const silent: Platform["fetch"] = (_url, { signal }) =>
  new Promise((_resolve, reject) => signal?.addEventListener("abort", () => reject(signal.reason as Error)));

const away: Platform["fetch"] = () => Promise.reject(new TypeError("connection refused"));

/** Redis' own words, as redis-rest passes them on. */
function refusing(message: string): Platform["fetch"] {
  return async () => Response.json({ error: message }, { status: 400 });
}

/** What the script says of an answer that Redis did not take (test/system/store-failures.test.ts has a real one say it). */
const withoutRoom: Platform["fetch"] = async (url, init) =>
  settles(init) ? Response.json({ result: "refused" }) : real(url, init);

async function metrics(stack: Stack): Promise<Response> {
  const authorization = `Bearer ${await token({ sub: "operator", scope: "admin" })}`;
  return stack.fetch(new Request("http://edge.test/metrics", { headers: { authorization } }));
}

/** A counter's value, all its labels but `process` given. */
async function counted(stack: Stack, series: string): Promise<number> {
  const text = await (await metrics(stack)).text();
  const line = text.split("\n").find((candidate) => candidate.startsWith(`coldpath_edge_${series}`));
  return Number(line?.split(" ").at(-1) ?? 0);
}

const OOM = "OOM command not allowed when used memory > 'maxmemory'.";

describe("a regional store that fails", () => {
  const failures: readonly [string, Platform["fetch"]][] = [
    ["hangs", silent],
    ["begins an answer and hangs", async (_url, { signal }) => new Response(hanging(signal ?? undefined))],
    ["refuses connections", away],
    ["is out of memory", refusing(OOM)],
    ["is loading its data", refusing("LOADING Redis is loading the dataset in memory")],
    ["is a replica", refusing("READONLY You can't write against a read only replica.")],
    ["has lost redis-rest behind a proxy", async () => new Response("<html>502 Bad Gateway</html>", { status: 502 })],
    ["answers nothing", async () => new Response("")],
    ["answers another question", async () => Response.json({ result: "PONG" })],
    ["answers half an outcome", async () => Response.json({ result: ["reserved", "", 0] })],
    ["answers numbers that are none", async () => Response.json({ result: ["hit", "", 0, "", "NaN", "", -1] })],
    ["answers null", async () => Response.json(null)],
  ];
  it.each(failures)(
    "has its requests answered in time, and says so three times over, when it %s",
    async (_, storeFetch) => {
      const stack = createStack({ store: "redis", storeFetch, bindings });
      const startedMs = Date.now();
      for (let asked = 0; asked < 5; asked += 1) {
        const response = await ask(stack, chat(`hello ${asked}`));
        expect([response.status, response.headers.get("x-degraded")]).toEqual([200, "limiter-unreachable"]);
        expect(await response.text()).toContain("Cold");
        await stack.settled();
        expect(stack.logs.at(-1)).toMatchObject({ status: 200, degraded: "limiter-unreachable" });
      }
      // Generous to a busy machine, and far from five times each command's time.
      expect(Date.now() - startedMs).toBeLessThan(4 * TIMEOUT_MS + 3_000);
      expect(await counted(stack, 'degraded_total{outcome="limiter-unreachable"')).toBe(5);
    },
  );

  it("is asked three times while it hangs, then left alone, then probed, and used again once it answers", async () => {
    let asked = 0;
    let hangs = true;
    const storeFetch: Platform["fetch"] = (url, init) => {
      asked += 1;
      return hangs ? silent(url, init) : real(url, init);
    };
    const stack = createStack({ store: "redis", storeFetch, bindings });
    const cacheOf = async (content: string): Promise<string | null> => {
      const response = await ask(stack, chat(content));
      expect(response.status).toBe(200);
      await response.text();
      await stack.settled();
      return response.headers.get("x-cache");
    };
    for (let time = 0; time < 4; time += 1) expect(await cacheOf(`hello ${time}`)).toBe("BYPASS");
    expect(await counted(stack, "store_shut")).toBe(1);
    asked = 0;
    const together = await Promise.all(Array.from({ length: 20 }, (_, index) => ask(stack, chat(`many ${index}`))));
    expect(together.map(({ status }) => status)).toEqual(Array<number>(20).fill(200));
    expect(asked).toBe(0);

    stack.clock.offsetMs += PAUSE_MS;
    await Promise.all(Array.from({ length: 20 }, (_, index) => ask(stack, chat(`more ${index}`))));
    expect(asked).toBe(1);

    hangs = false;
    // On a busy machine an answer may still take longer than the little time it has here.
    const found = async (): Promise<void> => {
      stack.clock.offsetMs += PAUSE_MS;
      expect(await cacheOf("hello")).toBe("HIT");
    };
    await vi.waitFor(found, { timeout: 20_000 });
    expect(await counted(stack, "store_shut")).toBe(0);
  });

  it("is waited for once, however many commands a request takes", async () => {
    // Each command seems to take nearly all of the time; who gives the next one all of it waits that long in earnest.
    const timeoutMs = 20_000;
    const admissions: unknown[] = [];
    const kept = Promise.withResolvers<Response>();
    let forgets = true;
    const storeFetch: Platform["fetch"] = async (url, init) => {
      if (settles(init)) return kept.promise;
      if (keysOf(init) < 8) return real(url, init);
      const [name] = JSON.parse(init.body as string) as unknown[];
      admissions.push(name);
      stack.clock.offsetMs += timeoutMs * 0.99;
      if (!forgets) return real(url, init);
      return name === "EVALSHA" ? Response.json({ error: "NOSCRIPT No matching script." }) : silent(url, init);
    };
    const stack = createStack({
      store: "redis",
      storeFetch,
      bindings: { COLDPATH_STORE_TIMEOUT_MS: String(timeoutMs), COLDPATH_MODELS_TTL_SECONDS: "3600" },
    });
    const startedMs = Date.now();
    const degraded = await ask(stack, chat("hello"));
    expect([degraded.status, degraded.headers.get("x-degraded")]).toEqual([200, "limiter-unreachable"]);
    expect(admissions).toEqual(["EVALSHA", "EVAL"]);
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ cause: "the regional store: timeout" });

    // Its last word waits for what is left, and what comes of the rest is logged when it is over.
    forgets = false;
    const answered = await ask(stack, chat("again"));
    expect([answered.status, answered.headers.get("x-degraded")]).toEqual([200, null]);
    await answered.text();
    expect(Date.now() - startedMs).toBeLessThan(timeoutMs - 1_000);
    expect(stack.logs).toHaveLength(1);
    kept.resolve(Response.json({ error: OOM }));
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ degraded: "not-settled", ended: "complete" });
  });

  it("costs nobody anything where it forgot its scripts", async () => {
    const stack = createStack({ store: "redis" });
    await (await ask(stack, chat("hello"))).text();
    await stack.settled();
    const { url, token: restToken } = inject("redisRest");
    const headers = { authorization: `Bearer ${restToken}` };
    await fetch(url, { method: "POST", headers, body: JSON.stringify(["SCRIPT", "FLUSH"]) });
    const response = await ask(stack, chat("hello"));
    expect([response.headers.get("x-cache"), response.headers.get("x-degraded")]).toEqual(["HIT", null]);
  });

  it("still limits and answers where it has no room for another answer, and says that it was not kept", async () => {
    const stack = createStack({ store: "redis", storeFetch: withoutRoom });
    const response = await ask(stack, chat("hello"));
    expect([response.status, response.headers.get("x-degraded")]).toEqual([200, null]);
    expect(response.headers.get("ratelimit")).toContain('"requests";r=59');
    await response.text();
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ degraded: "answer-not-stored" });
    expect(await counted(stack, 'degraded_total{outcome="answer-not-stored"')).toBe(1);
  });
});

/** A body that begins, and never goes on. */
function hanging(signal: AbortSignal | undefined): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start: (controller) => {
      controller.enqueue(new TextEncoder().encode('{"result":'));
      signal?.addEventListener("abort", () => controller.error(signal.reason));
    },
  });
}

describe("the edge's figures", () => {
  it("are for operators only", async () => {
    const stack = createStack();
    expect((await stack.fetch(new Request("http://edge.test/metrics"))).status).toBe(401);
    const authorization = `Bearer ${await token({ sub: "alice", scope: "chat" })}`;
    expect((await stack.fetch(new Request("http://edge.test/metrics", { headers: { authorization } }))).status).toBe(
      403,
    );
  });

  it("count requests by route, status and outcome, in Prometheus' text, with histograms that add up", async () => {
    const stack = createStack();
    await ask(stack, chat("hello"));
    for (let time = 0; time < 3; time += 1) await ask(stack, chat("hello"));
    await ask(stack, "no JSON");
    await stack.fetch(new Request('http://edge.test/x"} 1'));
    await stack.settled();
    const response = await metrics(stack);
    expect(response.headers.get("content-type")).toContain("version=0.0.4");
    const lines = (await response.text()).split("\n");
    const line = /^[a-z_]+\{([a-z_]+="[^"\\]*",?)+\} \d+(\.\d+)?(e-?\d+)?$/;
    for (const each of lines.slice(0, -1)) if (!each.startsWith("# ")) expect(each).toMatch(line);
    const sum = (prefix: string): number =>
      lines
        .filter((each) => each.startsWith(`coldpath_edge_${prefix}`))
        .reduce((all, each) => all + Number(each.split(" ").at(-1)), 0);
    const chats = 'requests_total{route="/v1/chat/completions",status="200"';
    expect(sum(`${chats},cache="MISS",tier="none"`)).toBe(1);
    expect(sum(`${chats},cache="HIT"`)).toBe(3);
    expect(sum(`${chats},cache="HIT",tier="isolate"`)).toBeGreaterThan(0);
    expect(sum('requests_total{route="other",status="404"')).toBe(1);
    expect(sum('errors_total{code="invalid_json"')).toBe(1);
    expect(sum("used_tokens_total")).toBeGreaterThan(0);
    expect(sum("request_duration_seconds_count")).toBe(sum("requests_total"));
    expect(
      lines.filter((each) => each.includes('le="+Inf"')).reduce((all, each) => all + Number(each.split(" ").at(-1)), 0),
    ).toBe(6);
  });

  it("come from all that share the port, with the operator's own token, and say who is silent", async () => {
    const other = createStack();
    await ask(other, chat("hello"));
    const asked: string[] = [];
    const siblings: Platform["fetch"] = async (url, init) => {
      asked.push(new Headers(init.headers).get("authorization") ?? "");
      if (url.startsWith("http://10.0.0.3:9")) throw new TypeError("connection refused");
      const edge = url.startsWith("http://10.0.0.1:9") ? stack : other;
      return edge.fetch(new Request(url, init));
    };
    const all = "http://10.0.0.1:9,http://10.0.0.2:9, http://10.0.0.3:9/";
    const stack = createStack({ bindings: { COLDPATH_EDGE_SIBLINGS: all }, storeFetch: siblings });
    const response = await metrics(stack);
    const lines = (await response.text()).split("\n");
    expect([response.status, new Set(asked).size, asked.length]).toEqual([200, 1, 3]);
    expect(lines).toContain('coldpath_edge_processes{state="told"} 2');
    expect(lines).toContain('coldpath_edge_processes{state="silent"} 1');
    expect(lines.filter((line) => line.startsWith("coldpath_edge_store_shut"))).toHaveLength(2);
    expect(lines.filter((line) => line.startsWith("# TYPE coldpath_edge_store_shut "))).toHaveLength(1);
    const misses = lines.filter((line) => line.includes('requests_total{route="/v1/chat/completions",status="200"'));
    expect(misses).toHaveLength(1);
  });

  it("are a process' own where no sibling answers", async () => {
    const siblings = { COLDPATH_EDGE_SIBLINGS: "http://10.0.0.1:9" };
    const stack = createStack({ bindings: siblings, storeFetch: away });
    expect(await counted(stack, "permits_overshoot_total")).toBe(0);
    expect(await (await metrics(stack)).text()).toContain("coldpath_edge_store_shut{process=");
  });
});
