/**
 * One suite for every platform the edge runs on, through its port: what a client can see must not depend on the place.
 * The three share one Redis and one region; the origin is fake, so that it can break.
 */
import { request as httpRequest } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, inject, it, vi } from "vitest";
import { issueToken, type TokenOptions } from "../../infra/issue-token.ts";
import { findFreePort } from "../../infra/launch/ports.ts";
import { ORIGIN_SECRET } from "../edge/fake-origin.ts";
import { type EdgeKind, type RunningEdge, startEdge } from "../setup/edges.ts";
import { type ListeningOrigin, startFakeOrigin } from "../setup/listening-origin.ts";

const KINDS: readonly EdgeKind[] = ["workers", "workerd", "node"];
const JWT_SECRET = "a token secret of more than 32 bytes";
const BODY_BYTES_MAX = 200_000;

let fake: ListeningOrigin;
const edges = {} as Record<EdgeKind, RunningEdge>;

function settings(): Record<string, string> {
  const { url, token, redisUrl } = inject("redisRest");
  return {
    COLDPATH_ORIGIN_URL: fake.url,
    COLDPATH_ORIGIN_SECRET: ORIGIN_SECRET,
    COLDPATH_CACHE_SECRET: "a cache secret of more than 32 bytes",
    COLDPATH_JWT_SECRET: JWT_SECRET,
    COLDPATH_REDIS_REST_URL: url,
    COLDPATH_REDIS_REST_TOKEN: token,
    COLDPATH_REDIS_URL: redisUrl,
    COLDPATH_STORE_TIMEOUT_MS: "5000",
    COLDPATH_BODY_BYTES_MAX: String(BODY_BYTES_MAX),
    COLDPATH_KEEPALIVE_MS: "100",
    COLDPATH_PLANS: '{"few":{"requestsPerMinute":3,"tokensPerMinute":100000,"streamsMax":8}}',
  };
}

beforeAll(async () => {
  fake = await startFakeOrigin();
  await Promise.all(
    KINDS.map(async (kind) => {
      edges[kind] = await startEdge(kind, settings());
    }),
  );
});
afterAll(async () => {
  await Promise.all(Object.values(edges).map((edge) => edge.stop()));
  await fake.stop();
});

function bearer(options: Partial<TokenOptions> = {}, secret = JWT_SECRET): Promise<string> {
  const nowSeconds = Math.floor(Date.now() / 1000);
  return issueToken({ sub: crypto.randomUUID(), ...options }, { secret, nowSeconds });
}

interface AskOptions {
  readonly token: string;
  readonly path?: string;
  readonly method?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

function ask(
  { url }: RunningEdge,
  body: unknown,
  { token, path = "/v1/chat/completions", method = "POST", headers = {}, signal }: AskOptions,
): Promise<Response> {
  return fetch(url + path, {
    method,
    headers: { "content-type": "application/json", authorization: `Bearer ${token}`, ...headers },
    ...(method === "GET" ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
  });
}

function chat(content: string, fields: object = {}): object {
  return { model: "tiny", messages: [{ role: "user", content }], ...fields };
}

async function idOf(response: Response): Promise<string> {
  return ((await response.json()) as { readonly id: string }).id;
}

async function codeOf(response: Response): Promise<string> {
  const { error } = (await response.json()) as { readonly error: { readonly code: string } };
  return `${response.status} ${error.code}`;
}

describe.each(KINDS)("the edge on %s", (kind) => {
  it("is up, ready and lists the origin's models", async () => {
    const edge = edges[kind];
    const token = await bearer();
    expect(await (await fetch(`${edge.url}/healthz`)).json()).toEqual({ status: "ok" });
    expect(await (await fetch(`${edge.url}/readyz`)).json()).toEqual({ hit: true, miss: true });
    const models = await ask(edge, undefined, { token, path: "/v1/models", method: "GET" });
    expect(await models.json()).toMatchObject({ object: "list", data: [{ id: "tiny" }] });
  });

  it("refuses whoever it does not know", async () => {
    const edge = edges[kind];
    const other = await bearer({}, "another token secret of more than 32 bytes");
    expect(await codeOf(await fetch(`${edge.url}/v1/models`))).toBe("401 invalid_token");
    expect(await codeOf(await ask(edge, chat("hi"), { token: other }))).toBe("401 invalid_token");
    expect(await codeOf(await ask(edge, chat("hi"), { token: "a.b.c" }))).toBe("401 invalid_token");
    expect(await codeOf(await ask(edge, chat("hi"), { token: await bearer({ plan: "gold" }) }))).toBe(
      "403 unknown_plan",
    );
    expect(await codeOf(await ask(edge, chat("hi"), { token: await bearer({ scope: ["admin"] }) }))).toBe(
      "403 insufficient_scope",
    );
  });

  it("lets a page in a browser ask, and read the answer, its headers and an error", async () => {
    const edge = edges[kind];
    const token = await bearer();
    const origin = "https://chat.example.com";
    const asked = {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "authorization,x-a",
    };
    for (const path of ["/v1/chat/completions", "/v1/models"]) {
      const preflight = await fetch(edge.url + path, { method: "OPTIONS", headers: asked });
      expect(preflight.status).toBe(204);
      expect(preflight.headers.get("access-control-allow-origin")).toBe("*");
      expect(preflight.headers.get("access-control-allow-methods")).toContain("POST");
      expect(preflight.headers.get("access-control-allow-headers")).toBe("authorization,x-a");
    }
    const question = chat(crypto.randomUUID());
    const answers = [
      await ask(edge, question, { token, headers: { origin } }),
      await ask(edge, question, { token, headers: { origin } }),
      await ask(edge, { ...question, stream: true }, { token, headers: { origin } }),
      await ask(edge, {}, { token, headers: { origin } }),
      await ask(edge, question, { token: "a.b.c", headers: { origin } }),
    ];
    for (const answer of answers) {
      await answer.text();
      expect(answer.headers.get("access-control-allow-origin")).toBe("*");
      expect(answer.headers.get("access-control-expose-headers")).toContain("x-cache");
    }
    expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 400, 401]);
    const elsewhere = await ask(edge, question, { token });
    await elsewhere.text();
    expect(elsewhere.headers.get("access-control-allow-origin")).toBeNull();
    const noPreflight = await fetch(`${edge.url}/v1/chat/completions`, { method: "OPTIONS" });
    expect(await codeOf(noPreflight)).toBe("405 method_not_allowed");
  });

  it("refuses a second token, and a second media type, even of the same value", async () => {
    const edge = edges[kind];
    const token = await bearer();
    const other = await bearer({}, "another token secret of more than 32 bytes");
    const json = "application/json";
    const tokens = (...all: string[]) => headerLines(all, [json]);
    const types = (...all: string[]) => headerLines([token], all);
    const cases: readonly (readonly [readonly string[], number])[] = [
      [tokens(token, other), 401],
      [tokens(other, token), 401],
      [tokens(token, token), 401],
      [types(json, "text/plain"), 415],
      [types("text/plain", json), 415],
      [types(`${json}; charset=utf-8`, json), 415],
      [types(json), 200],
    ];
    for (const [headers, status] of cases) {
      expect([headers, await postLines(edge.url, headers, JSON.stringify(chat("twice")))]).toEqual([headers, status]);
    }
  });

  it("refuses what can't be answered", async () => {
    const edge = edges[kind];
    const token = await bearer({ plan: "bench" });
    const plain = { token, headers: { "content-type": "text/plain" } };
    expect(await codeOf(await ask(edge, "{", { token }))).toBe("400 invalid_json");
    expect(await codeOf(await ask(edge, "", { token }))).toBe("400 invalid_json");
    expect(await codeOf(await ask(edge, { model: "tiny", messages: [] }, { token }))).toBe("400 invalid_request");
    expect(await codeOf(await ask(edge, { ...chat("hi"), model: "huge" }, { token }))).toBe("404 model_not_found");
    expect(await codeOf(await ask(edge, chat("hi"), plain))).toBe("415 unsupported_media_type");
    expect(await codeOf(await ask(edge, chat("hi"), { token, path: "/v1/images" }))).toBe("404 not_found");
    const get = await ask(edge, undefined, { token, method: "GET" });
    expect(get.headers.get("allow")).toBe("POST");
    expect(await codeOf(get)).toBe("405 method_not_allowed");
  });

  it("answers a cold prompt from the origin and a known one from the region, in the same bytes", async () => {
    const edge = edges[kind];
    const token = await bearer();
    const cold = await ask(edge, chat("hello"), { token });
    expect([cold.status, cold.headers.get("x-cache")]).toEqual([200, "MISS"]);
    expect(cold.headers.get("content-type")).toMatch(/^application\/json/);
    expect(cold.headers.get("x-request-id")).toMatch(/./);
    const text = await cold.text();
    expect(text).toContain("热路径 🙂");
    const hit = await ask(edge, chat("hello"), { token, headers: { "x-request-id": "mine" } });
    expect(hit.headers.get("x-cache")).toBe("HIT");
    expect(hit.headers.get("x-request-id")).toBe("mine");
    expect(Number(hit.headers.get("age"))).toBeGreaterThanOrEqual(0);
    expect(hit.headers.get("ratelimit")).toMatch(/"requests";r=\d+/);
    expect(await hit.text()).toBe(text);
  });

  it("streams a cold prompt and replays a known one as events with the same id, text and usage", async () => {
    const edge = edges[kind];
    const token = await bearer();
    const streamed = chat("stream", { stream: true, stream_options: { include_usage: true } });
    const cold = await ask(edge, streamed, { token });
    expect(cold.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const coldEvents = eventsOf(await cold.text());
    const first = await (await ask(edge, streamed, { token })).text();
    const second = await ask(edge, streamed, { token });
    expect(second.headers.get("x-cache")).toBe("HIT");
    expect(await second.text()).toBe(first);
    expect(summaryOf(eventsOf(first))).toEqual(summaryOf(coldEvents));
    const json = (await (await ask(edge, chat("stream"), { token })).json()) as { readonly id: string };
    expect(json.id).toBe(summaryOf(coldEvents).id);
  });

  it("passes the first piece on while the origin is still writing", async () => {
    const edge = edges[kind];
    const token = await bearer();
    fake.origin.script.pieceDelayMs = 300;
    try {
      const startedMs = performance.now();
      const response = await ask(edge, chat("slow", { stream: true }), { token });
      const reader = response.body?.getReader();
      const { value } = (await reader?.read()) ?? {};
      expect(new TextDecoder().decode(value)).not.toBe("");
      expect(performance.now() - startedMs).toBeLessThan(1_100);
      await reader?.cancel();
    } finally {
      fake.origin.script.pieceDelayMs = 0;
    }
  });

  it("counts requests in the region, whichever process they meet", async () => {
    const edge = edges[kind];
    const token = await bearer({ plan: "few" });
    const statuses: number[] = [];
    for (let n = 0; n < 5; n++) {
      // A new connection each time: the kernel picks a process by connection.
      const response = await ask(edge, chat(`n ${n}`), { token, headers: { connection: "close" } });
      statuses.push(response.status);
      if (response.status === 429) expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
      await response.arrayBuffer();
    }
    expect(statuses).toEqual([200, 200, 200, 429, 429]);
  });

  it("ends a broken stream with an error event, and keeps nothing of it", async () => {
    const edge = edges[kind];
    const token = await bearer();
    fake.origin.script.breaks = { how: "cut", after: 2 };
    try {
      const text = await (await ask(edge, chat("break", { stream: true }), { token })).text();
      expect(text).toContain("event: error");
      expect(text).not.toContain("[DONE]");
      expect(await codeOf(await ask(edge, chat("break"), { token }))).toBe("502 origin_failed");
    } finally {
      fake.origin.script.breaks = undefined;
    }
    expect((await ask(edge, chat("break"), { token })).headers.get("x-cache")).toBe("MISS");
  });

  it("asks the origin again on a connection that it has", async () => {
    const edge = edges[kind];
    const token = await bearer({ plan: "bench" });
    const askCold = async (count: number): Promise<void> => {
      for (let asked = 0; asked < count; asked++) {
        const body = chat(crypto.randomUUID(), { stream: asked % 2 === 0 });
        const response = await ask(edge, body, { token });
        expect(response.headers.get("x-cache")).toBe("MISS");
        await response.text();
      }
    };
    await askCold(8);
    const before = fake.connections;
    await askCold(20);
    expect(fake.connections - before).toBeLessThanOrEqual(2);
  });

  it("passes the origin's refusal on", async () => {
    const edge = edges[kind];
    const token = await bearer();
    const error = { message: "no room", type: "rate_limit_error", code: "queue_full", param: null };
    fake.origin.script.refusal = () => Response.json({ error }, { status: 429, headers: { "retry-after": "7" } });
    try {
      const refused = await ask(edge, chat("refuse"), { token });
      expect(refused.headers.get("retry-after")).toBe("7");
      expect(await codeOf(refused)).toBe("429 queue_full");
    } finally {
      fake.origin.script.refusal = undefined;
    }
  });

  it("ends the origin's call soon after a streaming client left, and gives its slot back", async () => {
    const edge = edges[kind];
    const token = await bearer();
    const { script, asked, cancelled } = fake.origin;
    script.breaks = { how: "silence", after: 1 };
    try {
      const leave = new AbortController();
      const response = await ask(edge, chat("leave", { stream: true }), { token, signal: leave.signal });
      await response.body?.getReader().read();
      const { requestId } = asked.at(-1) ?? { requestId: "" };
      leave.abort();
      await vi.waitFor(() => expect(cancelled).toContain(requestId), { timeout: 5_000 });
    } finally {
      script.breaks = undefined;
    }
    await vi.waitFor(
      async () => {
        const next = await ask(edge, chat(`after ${crypto.randomUUID()}`), { token });
        await next.arrayBuffer();
        expect(next.headers.get("ratelimit")).toMatch(/"streams";r=7/);
      },
      { timeout: 5_000 },
    );
  });

  it("takes a body up to its limit, and refuses a larger one however it is sent", async () => {
    const edge = edges[kind];
    const token = await bearer({ plan: "bench" });
    const fits = JSON.stringify(chat("x".repeat(BODY_BYTES_MAX - 200)));
    expect((await ask(edge, fits, { token })).status).toBe(200);
    const large = JSON.stringify(chat("x".repeat(BODY_BYTES_MAX)));
    expect(await codeOf(await ask(edge, large, { token }))).toBe("413 body_too_large");
    // Fits, and large, without a length said first.
    expect(await postChunked(edge.url, token, fits)).toMatch(/^200 /);
    expect(await postChunked(edge.url, token, large)).toMatch(/^413 .*body_too_large/);
  });

  it("answers the next request on a connection whose last one was refused half read", async () => {
    const edge = edges[kind];
    const token = await bearer({ plan: "bench" });
    for (let n = 0; n < 5; n++) {
      const [refused, ok] = await Promise.all([
        ask(edge, chat("x".repeat(BODY_BYTES_MAX * 2)), { token: "a.b.c" }),
        ask(edge, chat("hello"), { token }),
      ]);
      expect([refused.status, ok.status]).toEqual([401, 200]);
      await Promise.all([refused.arrayBuffer(), ok.arrayBuffer()]);
    }
  });

  it("answers many tenants at once from the region, each its own, also while others leave", async () => {
    const edge = edges[kind];
    const tenants = Array.from({ length: 30 }, () => crypto.randomUUID());
    // A token that is new each time holds no permits, so every answer is the region's.
    const askAs = async (tenant: string, signal?: AbortSignal) => {
      const token = await bearer({ tenant, plan: "bench" });
      return ask(edge, chat("whose is it"), { token, ...(signal === undefined ? {} : { signal }) });
    };
    const ids = await Promise.all(tenants.map(async (tenant) => idOf(await askAs(tenant))));
    expect(new Set(ids).size).toBe(tenants.length);
    for (let round = 0; round < 3; round++) {
      const leaving = tenants.map(async (tenant, index) => {
        const leaves = new AbortController();
        setTimeout(() => leaves.abort(), index / 2);
        // Rejects for those who left in time.
        await askAs(tenant, leaves.signal).then(
          (response) => response.text(),
          () => undefined,
        );
      });
      const answers = tenants.map(async (tenant) => {
        const response = await askAs(tenant);
        const { headers } = response;
        return [headers.get("x-cache"), headers.get("x-degraded"), await idOf(response)];
      });
      expect(await Promise.all(answers)).toEqual(ids.map((id) => ["HIT", null, id]));
      await Promise.allSettled(leaving);
    }
  });

  it("answers many at once, each its own", async () => {
    const edge = edges[kind];
    const token = await bearer({ plan: "bench" });
    const answers = await Promise.all(
      Array.from({ length: 40 }, async (_, n) => {
        const response = await ask(edge, chat(`many ${n % 8}`), { token });
        return ((await response.json()) as { readonly id: string }).id;
      }),
    );
    expect(answers).toHaveLength(40);
    const again = await ask(edge, chat("many 3"), { token });
    expect(again.headers.get("x-cache")).toBe("HIT");
    await again.arrayBuffer();
  });
});

function processesOf(figures: string): ReadonlySet<string | undefined> {
  return new Set([...figures.matchAll(/process="(\w+)"/g)].map(([, name]) => name));
}

describe.each(["workerd", "node"] as const)("the figures of two processes on %s", (kind) => {
  it("come in one scrape, whichever is asked, each under its own name", async () => {
    const edge = edges[kind];
    const headers = { authorization: `Bearer ${await bearer({ scope: ["admin"] })}`, connection: "close" };
    const scrape = async () => (await fetch(`${edge.url}/metrics`, { headers })).text();
    const first = await scrape();
    expect(processesOf(first).size).toBe(2);
    for (let time = 0; time < 6; time++) expect(processesOf(await scrape())).toEqual(processesOf(first));
    expect(first).toContain('coldpath_edge_processes{state="told"} 2\ncoldpath_edge_processes{state="silent"} 0\n');
    // Each metric is described once, and its lines follow.
    const names = first
      .split("\n")
      .filter((line) => line.startsWith("# TYPE"))
      .map((line) => line.split(" ")[2]);
    expect(new Set(names).size).toBe(names.length);
    let name = "";
    for (const line of first.split("\n").slice(0, -1)) {
      if (line.startsWith("# ")) name = line.split(" ")[2] ?? "";
      else expect(line.startsWith(name)).toBe(true);
    }
    expect(await codeOf(await fetch(`${edge.url}/metrics`))).toBe("401 invalid_token");
  });
});

describe("the region", () => {
  it.each(KINDS)("serves on every platform what %s stored", async (kind) => {
    const token = await bearer();
    const question = chat(`shared by ${kind}`);
    const cold = await ask(edges[kind], question, { token });
    expect(cold.headers.get("x-cache")).toBe("MISS");
    const text = await cold.text();
    for (const other of KINDS) {
      const hit = await ask(edges[other], question, { token });
      expect([other, hit.headers.get("x-cache"), await hit.text()]).toEqual([other, "HIT", text]);
    }
  });
});

describe.each(KINDS)("without its Redis, the edge on %s", (kind) => {
  it.each([
    ["open", "200 limiter-unreachable"],
    ["closed", "503 null"],
  ])("fails %s as it was told, in a moment", async (limiterFails, outcome) => {
    const port = await findFreePort();
    const edge = await startEdge(
      kind,
      {
        ...settings(),
        COLDPATH_REDIS_REST_URL: `http://127.0.0.1:${port}`,
        COLDPATH_REDIS_URL: `redis://127.0.0.1:${port}`,
        COLDPATH_STORE_TIMEOUT_MS: "500",
        COLDPATH_LIMITER_FAILS: limiterFails,
      },
      1,
    );
    try {
      const token = await bearer();
      // The first request may wait for the isolate to start.
      await (await ask(edge, chat("warm"), { token })).arrayBuffer();
      const startedMs = performance.now();
      const response = await ask(edge, chat("degraded"), { token });
      expect(`${response.status} ${response.headers.get("x-degraded")}`).toBe(outcome);
      expect(performance.now() - startedMs).toBeLessThan(3_000);
      await response.arrayBuffer();
    } finally {
      await edge.stop();
    }
  });
});

describe.each(["workerd", "node"] as const)("stopping, the edge on %s", (kind) => {
  it("lets a running answer end, and takes no other", async () => {
    const edge = await startEdge(kind, settings(), 1);
    const token = await bearer();
    fake.origin.script.pieceDelayMs = 300;
    try {
      const response = await ask(edge, chat(`stop ${crypto.randomUUID()}`, { stream: true }), { token });
      const startedMs = performance.now();
      const stopped = edge.stop();
      await sleep(100);
      await expect(fetch(`${edge.url}/healthz`)).rejects.toThrow("fetch failed");
      expect(eventsOf(await response.text()).length).toBeGreaterThan(3);
      await stopped;
      // Not its whole grace: nothing was left to wait for.
      expect(performance.now() - startedMs).toBeLessThan(4_500);
    } finally {
      fake.origin.script.pieceDelayMs = 0;
    }
  });
});

interface StreamEvent {
  readonly id: string;
  readonly choices: readonly {
    readonly delta?: { readonly content?: string };
    readonly finish_reason: string | null;
  }[];
  readonly usage?: unknown;
}

function eventsOf(text: string): readonly StreamEvent[] {
  expect(text).toMatch(/data: \[DONE\]\n\n$/);
  return text
    .split("\n")
    .filter((line) => line.startsWith("data: {"))
    .map((line) => JSON.parse(line.slice("data: ".length)) as StreamEvent);
}

function summaryOf(events: readonly StreamEvent[]) {
  return {
    id: events[0]?.id ?? "",
    text: events.map(({ choices }) => choices[0]?.delta?.content ?? "").join(""),
    finish: events.flatMap(({ choices }) => choices.map((choice) => choice.finish_reason ?? [])).flat(),
    usage: events.at(-1)?.usage,
  };
}

function headerLines(tokens: readonly string[], types: readonly string[]): readonly string[] {
  return [
    ...tokens.flatMap((each) => ["authorization", `Bearer ${each}`]),
    ...types.flatMap((each) => ["content-type", each]),
  ];
}

/** @param lines - names and values in turn, each pair a header line of its own */
function postLines(url: string, lines: readonly string[], body: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      `${url}/v1/chat/completions`,
      { method: "POST", headers: [...lines, "host", new URL(url).host] },
      (incoming) => {
        incoming.resume().once("end", () => resolve(incoming.statusCode));
      },
    );
    outgoing.on("error", reject).end(body);
  });
}

/** Sends the body in two chunks without a content-length, and ends it. */
function postChunked(url: string, token: string, body: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/json", authorization: `Bearer ${token}` };
    const outgoing = httpRequest(`${url}/v1/chat/completions`, { method: "POST", headers }, (incoming) => {
      let text = "";
      incoming.on("data", (chunk) => (text += String(chunk)));
      incoming.on("end", () => resolve(`${incoming.statusCode} ${text}`));
    });
    outgoing.on("error", reject);
    outgoing.write(body.slice(0, 1_000));
    void sleep(20).then(() => outgoing.end(body.slice(1_000)));
  });
}
