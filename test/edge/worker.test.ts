/** The whole chain through its front door, on both stores: cache, limits, bad input, and everything that can break. */
import { describe, expect, inject, it } from "vitest";
import type { Platform } from "../../edge/platform/platform.ts";
import { ask, chat, createStack, errorOf, request, STORES, token, type Stack } from "./stack.ts";

/** The text a client of the streaming form ends up with, and every event's data. */
async function readSse(response: Response): Promise<{ text: string; data: string[]; raw: string }> {
  const raw = await response.text();
  const data = raw.split("\n\n").flatMap((block) => /^(?:id: .+\n)?data: (.+)$/.exec(block)?.slice(1) ?? []);
  const chunks = data.filter((line) => line !== "[DONE]").map((line) => JSON.parse(line) as Chunk);
  const text = chunks.map(({ choices: [choice] }) => choice?.delta?.content ?? choice?.text ?? "").join("");
  return { text, data, raw };
}

interface Chunk {
  readonly id: string;
  readonly created: number;
  readonly choices: readonly { readonly delta?: { readonly content?: string }; readonly text?: string }[];
  readonly usage?: { readonly total_tokens: number } | null;
}

interface Completion {
  readonly id: string;
  readonly created: number;
  readonly choices: readonly [{ readonly message: { readonly content: string }; readonly finish_reason: string }];
  readonly usage: { readonly total_tokens: number };
}

/** The usage of the event before `[DONE]`. */
function usageOf(data: readonly string[]): unknown {
  return (JSON.parse(data.at(-2) ?? "") as Chunk).usage;
}

/** A store whose connection is refused. */
async function dead(): Promise<Response> {
  throw new TypeError("connection refused");
}

/** A store that never answers. */
function silent(_url: string, { signal }: RequestInit): Promise<Response> {
  return new Promise((_resolve, reject) => {
    signal?.addEventListener("abort", () => reject(signal.reason as Error));
  });
}

function get(path: string, headers: Readonly<Record<string, string>> = {}): Request {
  return new Request(`http://edge.test${path}`, { headers });
}

/** One item of the `ratelimit` header. */
function left(response: Response, name: string): number {
  const item = new RegExp(`"${name}";r=(\\d+)`).exec(response.headers.get("ratelimit") ?? "");
  return Number(item?.[1]);
}

describe.each(STORES)("the edge, with its store in %s", (store) => {
  it("answers the same again from the cache, byte-equal, and asks the origin once", async () => {
    const stack = createStack({ store });
    const first = await ask(stack, chat("hello"));
    expect(first.headers.get("x-cache")).toBe("MISS");
    const body = await first.text();
    const second = await ask(stack, chat("hello"));
    expect(second.headers.get("x-cache")).toBe("HIT");
    expect(second.headers.get("x-cache-tier")).toBe("regional");
    expect(Number(second.headers.get("age"))).toBeGreaterThanOrEqual(0);
    expect(await second.text()).toBe(body);
    expect(stack.origin.asked).toHaveLength(1);
  });

  it("serves both forms from one entry, with the original id, created, usage and finish reason", async () => {
    const stack = createStack({ store });
    stack.origin.script.finishReason = "length";
    const missed = await ask(stack, chat("hello", { stream: true, stream_options: { include_usage: true } }));
    expect(missed.headers.get("x-cache")).toBe("MISS");
    const streamed = await readSse(missed);
    expect(streamed.text).toBe("Cold paths, 热路径 🙂.");
    expect(streamed.data.at(-1)).toBe("[DONE]");

    const json = await (await ask(stack, chat("hello"))).json<Completion>();
    const replay = await ask(stack, chat("hello", { stream: true, stream_options: { include_usage: true } }));
    expect(replay.headers.get("x-cache")).toBe("HIT");
    const replayed = await readSse(replay);
    const chunk = JSON.parse(streamed.data[0] ?? "") as Chunk;
    expect(json).toMatchObject({ id: chunk.id, created: chunk.created });
    expect(json.choices[0]).toMatchObject({ finish_reason: "length", message: { content: streamed.text } });
    expect(replayed.text).toBe(streamed.text);
    expect(usageOf(replayed.data)).toEqual(json.usage);
    expect(usageOf(replayed.data)).toEqual(usageOf(streamed.data));
    expect(replayed.raw).toContain('"finish_reason":"length"');
    expect(new Set(replayed.data.slice(0, -1).map((line) => (JSON.parse(line) as Chunk).id))).toEqual(
      new Set([json.id]),
    );
    expect(stack.origin.asked).toHaveLength(1);
  });

  it("sends no usage chunk to a client that did not ask for one, missed or replayed", async () => {
    const stack = createStack({ store });
    for (const cache of ["MISS", "HIT"]) {
      const response = await ask(stack, chat("hello", { stream: true }));
      expect(response.headers.get("x-cache")).toBe(cache);
      const { data } = await readSse(response);
      expect(data.slice(0, -1).map((line) => (JSON.parse(line) as Chunk).choices.length)).not.toContain(0);
    }
  });

  it("answers text completions and /generate, which shares the chat's answers", async () => {
    const stack = createStack({ store });
    const text = { model: "tiny", prompt: "hello" };
    const completion = await (await ask(stack, text, { path: "/v1/completions" })).json<{ choices: unknown[] }>();
    expect(completion).toMatchObject({ object: "text_completion", choices: [{ text: "Cold paths, 热路径 🙂." }] });
    expect((await ask(stack, text, { path: "/v1/completions" })).headers.get("x-cache")).toBe("HIT");
    const streamed = await ask(stack, { ...text, stream: true }, { path: "/v1/completions" });
    expect((await readSse(streamed)).text).toBe("Cold paths, 热路径 🙂.");

    const generated = await ask(stack, { prompt: "hello" }, { path: "/generate" });
    expect(generated.headers.get("x-cache")).toBe("MISS");
    expect(await generated.json()).toEqual({ response: "Cold paths, 热路径 🙂." });
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("HIT");
    expect(stack.origin.asked.map(({ path }) => path)).toEqual(["/v1/completions", "/v1/chat/completions"]);
  });

  it("sends the origin exactly what was identified: no duplicate key, no null, nothing without influence", async () => {
    const stack = createStack({ store });
    const body = `{"model":"other","seed":null,"user":"u","metadata":{"a":1},"future":[1],"model":"tiny",
      "messages":[{"role":"user","content":"x"}]}`;
    expect((await ask(stack, body)).status).toBe(200);
    expect(stack.origin.asked[0]?.body).toEqual({
      model: "tiny",
      future: [1],
      messages: [{ role: "user", content: "x" }],
      stream: true,
      stream_options: { include_usage: true },
    });
  });

  it("keeps an answer only under the model that gave it, and asks for the models anew", async () => {
    for (const answerHeaders of [{ "coldpath-model-digest": "another" }, { "coldpath-model-digest": undefined }]) {
      const stack = createStack({ store });
      stack.origin.script.answerHeaders = answerHeaders;
      for (const stream of [true, false]) {
        const response = await ask(stack, chat("hello", { stream }));
        expect([response.status, response.headers.get("x-cache")]).toEqual([200, "MISS"]);
        await response.text();
        await stack.settled();
        expect(stack.logs.at(-1)).toMatchObject({ notKept: "other-model", ended: "complete", usedTokens: 11 });
      }
      // Nobody waits for the new list: it is asked for behind one request, and right for those after it.
      stack.origin.script.models = [{ id: "tiny", digest: "another", context_length: 2048 }];
      stack.origin.script.answerHeaders = {};
      const caches: (string | null)[] = [];
      for (let i = 0; i < 5; i++) {
        const response = await ask(stack, chat("hello"));
        caches.push(response.headers.get("x-cache"));
        await response.text();
        await stack.settled();
      }
      expect(caches).toEqual(expect.arrayContaining(["MISS", "HIT"]));
      expect(caches.at(-1)).toBe("HIT");
      expect(stack.logs.at(-1)).not.toHaveProperty("notKept");
    }
  });

  it("tells the origin the question's digest, its tenant without the name, the priority and the time", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_ANSWER_TIMEOUT_MS: "54321" } });
    await ask(stack, chat("hello"));
    await ask(stack, chat("hello"), { claims: { priority: "high", tid: `${stack.tenant}-other` } });
    await ask(stack, chat("other"), { claims: { sub: "bob", priority: "low" } });
    const [first, other, low] = stack.origin.asked.map(({ context }) => context);
    expect(first).toMatchObject({
      digest: expect.stringMatching(/^digest_of_ti-[\w-]{43}$/),
      priority: "normal",
      timeoutMs: 54_321,
    });
    expect(first?.tenant).toMatch(/^[\w-]{43}$/);
    expect(JSON.stringify(first)).not.toContain(stack.tenant);
    expect(other?.priority).toBe("high");
    expect(other?.tenant).not.toBe(first?.tenant);
    expect(other?.digest).not.toBe(first?.digest);
    expect(low).toMatchObject({ priority: "low", tenant: first?.tenant });
  });

  it("lets a question be shared in flight only where its client takes a shared answer, and says so", async () => {
    const stack = createStack({ store });
    stack.origin.script.answerHeaders = { "coldpath-coalesced": "1" };
    const shared = await ask(stack, chat("hello"));
    expect(shared.headers.get("x-cache")).toBe("COALESCED");
    expect(stack.logs.at(-1)).toMatchObject({ cache: "COALESCED" });
    stack.origin.script.answerHeaders = {};
    await ask(stack, chat("fresh"), { headers: { "cache-control": "no-cache" } });
    await ask(stack, chat("secret"), { headers: { "cache-control": "no-store" } });
    expect(stack.origin.asked.map(({ context }) => context.digest === undefined)).toEqual([false, true, true]);
  });

  it("never shares an answer between tenants, and does between subjects of one", async () => {
    const stack = createStack({ store });
    await ask(stack, chat("secret"));
    const other = { sub: "alice", tid: `${stack.tenant}-other` };
    expect((await ask(stack, chat("secret"), { claims: other })).headers.get("x-cache")).toBe("MISS");
    expect((await ask(stack, chat("secret"), { claims: { sub: "bob" } })).headers.get("x-cache")).toBe("HIT");
  });

  it("misses when the model behind the name changed", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_MODELS_TTL_SECONDS: "0" } });
    await ask(stack, chat("hello"));
    stack.origin.script.models = [{ id: "tiny", digest: "another", context_length: 2048 }];
    await ask(stack, chat("unrelated")); // Sees the old list, and refreshes it behind the answer.
    await stack.settled();
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("MISS");
  });

  it("obeys the client's cache-control", async () => {
    const stack = createStack({ store });
    const asked = (cacheControl: string): Promise<Response> =>
      ask(stack, chat("hello"), { headers: { "cache-control": cacheControl } });

    const absent = await asked("only-if-cached");
    expect(absent.status).toBe(504);
    expect((await errorOf(absent)).code).toBe("not_cached");
    expect((await asked("no-store")).headers.get("x-cache")).toBe("BYPASS");
    expect((await asked("only-if-cached")).status).toBe(504);
    expect((await asked("no-cache")).headers.get("x-cache")).toBe("BYPASS");
    expect((await asked("only-if-cached")).headers.get("x-cache")).toBe("HIT");
    expect((await asked("max-age=1000")).headers.get("x-cache")).toBe("HIT");
    expect(stack.origin.asked).toHaveLength(2);
    // An answer is made at most now, so a whole second later it is too old for max-age=0.
    await new Promise((resolve) => setTimeout(resolve, 1_050));
    expect((await asked("max-age=0")).headers.get("x-cache")).toBe("MISS");
  });

  it("refuses over the request limit with a retry-after, and tells the truth in ratelimit", async () => {
    const plans = JSON.stringify({ tight: { requestsPerMinute: 2, tokensPerMinute: 100_000, streamsMax: 9 } });
    const stack = createStack({ store, bindings: { COLDPATH_PLANS: plans } });
    const claims = { plan: "tight" };
    const first = await ask(stack, chat("hello"), { claims });
    expect(first.headers.get("ratelimit-policy")).toContain('"requests";q=2;w=60');
    expect(left(first, "requests")).toBe(1);
    expect(left(await ask(stack, chat("hello"), { claims }), "requests")).toBe(0);
    const over = await ask(stack, chat("hello"), { claims });
    expect(over.status).toBe(429);
    const error = await errorOf(over);
    expect(error).toMatchObject({ code: "request_limit_exceeded", type: "rate_limit_error" });
    expect(Number(over.headers.get("retry-after"))).toBeGreaterThan(25);
    expect(Number(over.headers.get("retry-after"))).toBeLessThanOrEqual(30);
    expect(left(over, "requests")).toBe(0);
    // Another subject of the same tenant has a limit of its own.
    expect((await ask(stack, chat("hello"), { claims: { ...claims, sub: "bob" } })).status).toBe(200);
  });

  it("keeps a budget of the day and the month, gives hits beyond it, and says when it begins anew", async () => {
    const rates = { requestsPerMinute: 100, tokensPerMinute: 100_000, streamsMax: 9 };
    const plans = JSON.stringify({
      tight: { ...rates, tokensPerDay: 150, tenant: { ...rates, tokensPerMonth: 5_000 } },
    });
    const stack = createStack({ store, bindings: { COLDPATH_PLANS: plans } });
    const small = { max_tokens: 5 };
    const asked = (text: string, fields = {}) =>
      ask(stack, chat(text, { ...small, ...fields }), { claims: { plan: "tight" } });
    const first = await asked("hello");
    expect(first.status).toBe(200);
    expect(first.headers.get("ratelimit-policy")).toContain('"tokens-day";q=150;w=86400;qu="tokens"');
    expect(first.headers.get("ratelimit-policy")).toMatch(
      /"tenant-tokens-month";q=5000;w=(2419200|2505600|2592000|2678400);/,
    );
    await stack.settled();
    const used = (await first.json<Completion>()).usage.total_tokens;
    const hit = await asked("hello");
    expect([hit.headers.get("x-cache"), left(hit, "tokens-day")]).toEqual(["HIT", 150 - used]);

    const over = await asked("something else", { max_tokens: 150 });
    expect([over.status, (await errorOf(over)).code]).toEqual([429, "token_budget_exceeded"]);
    const untilMidnight = 86_400 - (Math.floor(Date.now() / 1000) % 86_400);
    expect(Math.abs(Number(over.headers.get("retry-after")) - untilMidnight)).toBeLessThanOrEqual(3);
    expect(left(over, "tokens-day")).toBe(150 - used);
    expect((await asked("hello")).headers.get("x-cache")).toBe("HIT");
    expect((await asked("another")).status).toBe(200);
    expect(stack.origin.asked).toHaveLength(2);
  });

  it("lets through exactly the limit out of 100 requests at once", async () => {
    const plans = JSON.stringify({ tight: { requestsPerMinute: 10, tokensPerMinute: 1_000_000, streamsMax: 100 } });
    const stack = createStack({ store, bindings: { COLDPATH_PLANS: plans } });
    const all = await Promise.all(
      Array.from({ length: 100 }, (_, index) => ask(stack, chat(`hello ${index}`), { claims: { plan: "tight" } })),
    );
    expect(all.filter(({ status }) => status === 200)).toHaveLength(10);
    expect(all.filter(({ status }) => status === 429)).toHaveLength(90);
    expect(stack.origin.asked).toHaveLength(10);
  });

  it("bills what was used, not what was reserved, and gives the slot back", async () => {
    const plans = JSON.stringify({ tight: { requestsPerMinute: 100, tokensPerMinute: 10_000, streamsMax: 1 } });
    const stack = createStack({ store, bindings: { COLDPATH_PLANS: plans } });
    const claims = { plan: "tight" };
    const first = await ask(stack, chat("one", { max_tokens: 1_900 }), { claims });
    expect(left(first, "streams")).toBe(0);
    expect(left(first, "tokens")).toBeLessThan(8_100);
    await first.text();
    await stack.settled();
    const second = await ask(stack, chat("one", { max_tokens: 1_900 }), { claims });
    expect(second.headers.get("x-cache")).toBe("HIT");
    expect(left(second, "streams")).toBe(1);
    expect(left(second, "tokens")).toBeGreaterThanOrEqual(10_000 - 11);
  });

  it("limits answers at once, and takes them one after the other", async () => {
    const plans = JSON.stringify({ tight: { requestsPerMinute: 100, tokensPerMinute: 1_000_000, streamsMax: 1 } });
    const stack = createStack({ store, bindings: { COLDPATH_PLANS: plans } });
    stack.origin.script.pieceDelayMs = 50;
    const claims = { plan: "tight" };
    const running = await ask(stack, chat("one", { stream: true }), { claims });
    const refused = await ask(stack, chat("two"), { claims });
    expect(refused.status).toBe(429);
    expect((await errorOf(refused)).code).toBe("stream_limit_exceeded");
    expect(refused.headers.get("retry-after")).toBe("1");
    await running.text();
    await stack.settled();
    expect((await ask(stack, chat("two"), { claims })).status).toBe(200);
  });

  it("refunds everything, and stores nothing, when the origin refuses", async () => {
    const stack = createStack({ store });
    const envelope = { error: { message: "no room", type: "rate_limit_error", code: "queue_full", param: null } };
    stack.origin.script.refusal = () => Response.json(envelope, { status: 429, headers: { "retry-after": "7" } });
    const refused = await ask(stack, chat("hello"));
    expect(refused.status).toBe(429);
    expect(refused.headers.get("retry-after")).toBe("7");
    expect(await errorOf(refused)).toEqual(envelope.error);
    await stack.settled();
    stack.origin.script.refusal = undefined;
    const next = await ask(stack, chat("hello"));
    expect(next.headers.get("x-cache")).toBe("MISS");
    // One reservation; a clock that is set back a little on the way looks like a few more tokens, never like another.
    expect(left(next, "tokens")).toBeGreaterThan(60_000 - 1_024 - 1_000);
  });

  it.each(["cut", "reset", "error-event", "garbage", "no-usage"] as const)(
    "ends a stream that breaks (%s) with an error event and no [DONE], stores nothing and refunds",
    async (how) => {
      const stack = createStack({ store });
      stack.origin.script.breaks = { how, after: 2 };
      const response = await ask(stack, chat("hello", { stream: true }));
      const raw = await response.text();
      expect(raw).toMatch(/\n\nevent: error\ndata: \{"error":\{.*"code":"origin_failed".*\}\}\n\n$/);
      expect(raw).not.toContain("[DONE]");
      await stack.settled();
      const json = await ask(stack, chat("hello"));
      expect(json.status).toBe(502);
      expect((await errorOf(json)).code).toBe("origin_failed");
      await stack.settled();
      expect(stack.logs.at(-1)).toMatchObject({ status: 502, ended: "broken", usedTokens: 0 });
      stack.origin.script.breaks = undefined;
      const next = await ask(stack, chat("hello"));
      expect(next.headers.get("x-cache")).toBe("MISS");
      expect(left(next, "streams")).toBe(7);
      // One reservation; a clock that is set back a little on the way looks like a few more tokens, never like another.
      expect(left(next, "tokens")).toBeGreaterThan(60_000 - 1_024 - 1_000);
    },
  );

  it("passes on a place in line, and no other comment, to a client that streams", async () => {
    const stack = createStack({ store });
    stack.origin.script.before = { comments: ["queue position 2", "queue position 1", "a secret of the origin's"] };
    const streamed = await readSse(await ask(stack, chat("hello", { stream: true })));
    expect(streamed.raw).toMatch(/^: queue position 2\n\n: queue position 1\n\nid: /);
    expect(streamed.raw).not.toContain("secret");
    expect(streamed.text).toBe("Cold paths, 热路径 🙂.");
    const json = await (await ask(stack, chat("other"))).json<Completion>();
    expect(json.choices[0].message.content).toBe("Cold paths, 热路径 🙂.");
  });

  it.each([
    ["queue_full", 429, "queue_full"],
    ["not_ready", 503, "not_ready"],
    ["origin_timeout", 504, "origin_timeout"],
    ["internal_error", 502, "origin_failed"],
    ["invalid_signature", 502, "origin_failed"],
    ["constructor", 502, "origin_failed"],
  ])("says %s after a wait as %i %s: by status, or in a stream by an error event", async (said, status, code) => {
    const stack = createStack({ store });
    stack.origin.script.before = { comments: ["queue position 1"], errorCode: said };
    const json = await ask(stack, chat("hello"));
    expect([json.status, (await errorOf(json)).code]).toEqual([status, code]);
    const { raw } = await readSse(await ask(stack, chat("hello", { stream: true })));
    expect(raw).toMatch(new RegExp(`event: error\ndata: \\{.*"code":"${code}".*\n\n$`));
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ ended: "broken", usedTokens: 0, error: code });
  });

  it("frees the origin and bills what was generated when a streaming client leaves", async () => {
    const stack = createStack({ store });
    stack.origin.script.pieces = Array.from({ length: 1_000 }, (_, index) => `w${index} `);
    stack.origin.script.pieceDelayMs = 5;
    const response = await ask(stack, chat("hello", { stream: true }));
    const reader = response.body?.getReader();
    await reader?.read();
    await reader?.read();
    await reader?.cancel();
    await stack.settled();
    expect(stack.origin.cancelled.size).toBe(1);
    const line = stack.logs.at(-1);
    expect(line).toMatchObject({ ended: "aborted" });
    expect(Number(line?.["usedTokens"])).toBeGreaterThan(20);
    expect(Number(line?.["usedTokens"])).toBeLessThan(200);
    stack.origin.script.pieces = ["short"];
    const next = await ask(stack, chat("hello", { max_tokens: 1 }));
    expect(left(next, "tokens")).toBeLessThan(60_000 - 20);
    expect(next.headers.get("x-cache")).toBe("MISS");
  });
});

/** Asks until the isolate answers by itself. */
async function warm(stack: Stack, body: unknown, options: Parameters<typeof ask>[2] = {}): Promise<Response> {
  for (let asked = 0; asked < 5; asked += 1) {
    const response = await ask(stack, body, options);
    await stack.settled();
    if (response.headers.get("x-cache-tier") === "isolate") return response;
    await response.text();
  }
  throw new Error("the isolate never answered by itself");
}

describe.each(STORES)("the isolate's own tier, with the region in %s", (store) => {
  it("is for the one body, path and tenant, and forgets nothing of what the chain would check", async () => {
    const stack = createStack({ store });
    await warm(stack, chat("hello"));
    const asked = async (body: unknown, options: Parameters<typeof ask>[2]): Promise<[number, string | null]> => {
      const { status, headers } = await ask(stack, body, options);
      return [status, headers.get("x-cache-tier")];
    };
    expect(await asked(chat("hello"), { claims: { tid: "another" } })).toEqual([200, null]);
    expect(await asked(chat("hello"), { path: "/v1/completions" })).toEqual([400, null]);
    expect(await asked(chat("hello"), { headers: { "content-type": "text/plain" } })).toEqual([415, null]);
    expect(await asked(chat("hello"), { headers: { "content-encoding": "gzip" } })).toEqual([415, null]);
    expect(await asked(chat("hello"), { headers: { authorization: "Bearer a.b.c" } })).toEqual([401, null]);
    expect(await asked(chat("hello"), { headers: { "cache-control": "no-cache" } })).toEqual([200, null]);
    expect(await asked(chat("hello"), { headers: { "cache-control": "only-if-cached" } })).toEqual([200, "isolate"]);
    // A byte more is another body, and the same question.
    expect(await asked(` ${JSON.stringify(chat("hello"))}`, {})).toEqual([200, "isolate"]);
  });

  it("answers no token that has expired, and no answer that has", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_CACHE_TTL_SECONDS: "100" } });
    const claims = { exp: Math.floor(Date.now() / 1000) + 50 };
    await warm(stack, chat("hello"), { claims });
    stack.clock.offsetMs = 56_000;
    expect((await ask(stack, chat("hello"), { claims })).status).toBe(401);
    await warm(stack, chat("hello"));
    stack.clock.offsetMs = 101_000;
    const late = await ask(stack, chat("hello"));
    expect(late.headers.get("x-cache-tier")).not.toBe("isolate");
  });

  it("answers no token that expires while its body comes", async () => {
    const stack = createStack({ store });
    const claims = { exp: Math.floor(Date.now() / 1000) + 50 };
    await warm(stack, chat("hello"), { claims });
    const { url, headers, body } = await request(stack, chat("hello"), { claims });
    const late = new TransformStream<Uint8Array, Uint8Array>({
      transform: (chunk, controller) => {
        stack.clock.offsetMs = 56_000;
        controller.enqueue(chunk);
      },
    });
    const slow = new Request(url, { method: "POST", headers, body: body?.pipeThrough(late) ?? null });
    expect((await errorOf(await stack.fetch(slow))).code).toBe("token_expired");
  });

  it("misses when the model behind the name changed", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_MODELS_TTL_SECONDS: "0" } });
    await warm(stack, chat("hello"));
    stack.origin.script.models = [{ id: "tiny", digest: "another", context_length: 2048 }];
    await ask(stack, chat("hello")); // Sees the old list, and refreshes it behind the answer.
    await stack.settled();
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("MISS");
  });

  it("answers 100 at once exactly as often as the limit allows", async () => {
    const plans = JSON.stringify({ tight: { requestsPerMinute: 20, tokensPerMinute: 1_000_000, streamsMax: 100 } });
    const stack = createStack({ store, bindings: { COLDPATH_PLANS: plans } });
    const claims = { plan: "tight", exp: Math.floor(Date.now() / 1000) + 600 };
    const first = await ask(stack, chat("hello"), { claims });
    expect(left(first, "requests")).toBe(19);
    await stack.settled();
    const all = await Promise.all(Array.from({ length: 100 }, () => ask(stack, chat("hello"), { claims })));
    await stack.settled();
    const answered = all.filter(({ status }) => status === 200).length;
    expect(answered).toBeLessThanOrEqual(19);
    // What is paid for and not yet used is still there.
    let more = 0;
    while ((await ask(stack, chat("hello"), { claims })).status === 200) more += 1;
    expect(answered + more).toBe(19);
  });

  it("says truly what is left while it answers by itself", async () => {
    const stack = createStack({ store });
    const claims = { exp: Math.floor(Date.now() / 1000) + 600 };
    const said: number[] = [];
    for (let asked = 0; asked < 8; asked += 1) said.push(left(await ask(stack, chat("hello"), { claims }), "requests"));
    expect(said).toEqual([59, 58, 57, 56, 55, 54, 53, 52]);
  });
});

/** Redis has a clock of its own, so the answer is made a while ago; not so long that the origin refuses its signature. */
async function storedAgo(stack: Stack, seconds: number): Promise<void> {
  stack.clock.offsetMs = -seconds * 1_000;
  await (await ask(stack, chat("hello"), { claims: { exp: Math.floor(Date.now() / 1000) + 600 } })).text();
  await stack.settled();
  stack.clock.offsetMs = 0;
  stack.origin.script.pieces = ["new"];
}
describe.each(STORES)("an answer past its time, with the region in %s", (store) => {
  const bindings = { COLDPATH_CACHE_TTL_SECONDS: "10", COLDPATH_CACHE_STALE_SECONDS: "20" };
  it("is given once more while one request makes it anew, however many ask", async () => {
    const stack = createStack({ store, bindings });
    await storedAgo(stack, 20);
    stack.origin.script.pieceDelayMs = 100;
    const all = await Promise.all(Array.from({ length: 20 }, () => ask(stack, chat("hello"))));
    for (const response of all) {
      expect(response.headers.get("x-cache")).toBe("STALE");
      expect(Number(response.headers.get("age"))).toBeGreaterThanOrEqual(20);
      expect(await response.text()).toContain("Cold");
    }
    await stack.settled();
    expect(stack.origin.asked).toHaveLength(2);
    const fresh = await ask(stack, chat("hello"), { claims: { sub: "bob" } });
    expect(fresh.headers.get("x-cache")).toBe("HIT");
    expect(await fresh.text()).toContain("new");
    const next = await ask(stack, chat("cold"));
    expect(left(next, "streams")).toBe(7);
  });

  it("is refreshed by the next one where a refresh failed", async () => {
    const stack = createStack({ store, bindings });
    await storedAgo(stack, 20);
    stack.origin.script.down = true;
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("STALE");
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ cache: "STALE", degraded: "not-refreshed" });
    stack.origin.script.down = false;
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("STALE");
    await stack.settled();
    expect(await (await ask(stack, chat("hello"))).text()).toContain("new");
  });

  it("is given by who can't pay for a refresh, and to no client that names an age", async () => {
    const plans = JSON.stringify({ tight: { requestsPerMinute: 100, tokensPerMinute: 1_100, streamsMax: 9 } });
    const stack = createStack({ store, bindings: { ...bindings, COLDPATH_PLANS: plans } });
    await storedAgo(stack, 20);
    const claims = { plan: "tight" };
    expect((await ask(stack, chat("other", { max_tokens: 1_000 }), { claims })).status).toBe(200);
    const spent = await ask(stack, chat("another", { max_tokens: 2_000 }), { claims: { ...claims, sub: "bob" } });
    expect(spent.status).toBe(200);
    const headers = { "cache-control": "max-age=15" };
    expect((await ask(stack, chat("hello"), { headers })).headers.get("x-cache")).toBe("MISS");
  });

  it("is given where no origin answers, and only there", async () => {
    const stack = createStack({ store, bindings: { ...bindings, COLDPATH_CACHE_ERROR_SECONDS: "45" } });
    await storedAgo(stack, 50);
    stack.origin.script.down = true;
    for (const form of [{}, { stream: true }]) {
      const response = await ask(stack, chat("hello", form));
      expect([response.status, response.headers.get("x-cache")]).toEqual([200, "STALE"]);
      expect(await response.text()).toContain("Cold");
    }
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ cache: "STALE", degraded: "stale-if-error" });
    // A mistake of the client's own stays one.
    stack.origin.script.down = false;
    const error = { message: "too long", type: "invalid_request_error", code: "context_length_exceeded", param: null };
    stack.origin.script.refusal = () => Response.json({ error }, { status: 400 });
    expect((await ask(stack, chat("hello"))).status).toBe(400);
    stack.origin.script.refusal = undefined;
    const fresh = await ask(stack, chat("hello"));
    expect(fresh.headers.get("x-cache")).toBe("MISS");
    expect(left(fresh, "streams")).toBe(7);
  });

  it("is a miss where the knobs allow nothing", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_CACHE_TTL_SECONDS: "1" } });
    await (await ask(stack, chat("hello"))).text();
    await new Promise((resolve) => setTimeout(resolve, 1_100));
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("MISS");
  });
});

async function administer(stack: Stack, path: string, body?: unknown, scope = "admin"): Promise<Response> {
  const authorization = `Bearer ${await token({ sub: "operator", scope })}`;
  const headers = { authorization, "content-type": "application/json" };
  const init = body === undefined ? { headers } : { method: "POST", headers, body: JSON.stringify(body) };
  return stack.fetch(new Request(`http://edge.test${path}`, init));
}

async function cacheOf(stack: Stack, content: string, claims = {}): Promise<string | null> {
  return (await ask(stack, chat(content), { claims })).headers.get("x-cache");
}

describe.each(STORES)("the operator, with the region in %s", (store) => {
  it("purges one tenant's answers, and no other's", async () => {
    const stack = createStack({ store, bindings: REGION_ONLY });
    const other = { tid: `${stack.tenant}*` };
    for (const claims of [{}, other]) {
      await cacheOf(stack, "one", claims);
      await cacheOf(stack, "two", claims);
    }
    const stats = await administer(stack, `/admin/stats?tenant=${encodeURIComponent(stack.tenant)}`);
    expect(await stats.json()).toEqual({ answers: 2 });
    // A tenant whose name is a pattern is only itself.
    expect(await (await administer(stack, "/admin/purge", { tenant: other.tid })).json()).toEqual({ purged: 2 });
    expect(await cacheOf(stack, "one")).toBe("HIT");
    expect(await cacheOf(stack, "one", other)).toBe("MISS");
    expect(await (await administer(stack, "/admin/purge", { tenant: stack.tenant })).json()).toEqual({ purged: 2 });
    expect(await cacheOf(stack, "two")).toBe("MISS");
  });

  it("purges by model and by digest", async () => {
    const stack = createStack({ store, bindings: REGION_ONLY });
    await cacheOf(stack, "one");
    const digest = stack.origin.asked[0]?.context.digest ?? "";
    await cacheOf(stack, "two");
    const { tenant } = stack;
    const purge = async (target: object): Promise<unknown> => (await administer(stack, "/admin/purge", target)).json();
    expect(await purge({ tenant, model: "another" })).toEqual({ purged: 0 });
    expect(await purge({ digest, model: "another" })).toEqual({ purged: 0 });
    expect(await purge({ digest })).toEqual({ purged: 1 });
    expect(await purge({ tenant, model: "tiny" })).toEqual({ purged: 1 });
    expect(await cacheOf(stack, "one")).toBe("MISS");
  });

  it("is obeyed by an isolate that answers by itself, once its permits are old", async () => {
    const stack = createStack({ store });
    const claims = { exp: Math.floor(Date.now() / 1000) + 600 };
    await warm(stack, chat("hello"), { claims });
    await administer(stack, "/admin/purge", { tenant: stack.tenant });
    const at = async (ms: number): Promise<string | null> => {
      stack.clock.offsetMs = ms;
      const { headers } = await stack.fetch(await request(stack, chat("hello"), { claims }));
      return headers.get("x-cache-tier");
    };
    expect(await at(5_001)).toBeNull();
    expect(stack.origin.asked).toHaveLength(2);
  });

  it("must be one, and say what it wants", async () => {
    const stack = createStack({ store });
    expect((await administer(stack, "/admin/purge", { tenant: "x" }, "chat")).status).toBe(403);
    expect((await administer(stack, "/admin/stats", undefined, "chat")).status).toBe(403);
    for (const body of [{}, { everything: false }, { tenant: 1 }, { tenat: "x" }, { tenant: "x", everything: true }]) {
      expect((await administer(stack, "/admin/purge", body)).status).toBe(400);
    }
  });
});

describe("the operator of a region of its own", () => {
  it("purges everything, also what only isolates still hold", async () => {
    const stack = createStack({ store: "memory" });
    const claims = { exp: Math.floor(Date.now() / 1000) + 600 };
    await warm(stack, chat("hello"), { claims });
    const authorization = `Bearer ${await token({ sub: "operator", scope: "admin" })}`;
    const init = { method: "POST", headers: { authorization }, body: '{"everything":true}' };
    const response = await stack.fetch(new Request("http://edge.test/admin/purge", init));
    expect(await response.json()).toEqual({ purged: 1 });
    stack.clock.offsetMs = 5_001;
    expect((await ask(stack, chat("hello"), { claims })).headers.get("x-cache")).toBe("MISS");
  });
});

describe("the isolate's own tier", () => {
  it("answers without asking anybody, in each form, the same as the region does", async () => {
    let storeCalls = 0;
    const storeFetch: Platform["fetch"] = (url, init) => {
      storeCalls += 1;
      return fetch(url, init);
    };
    const stack = createStack({ store: "redis", storeFetch });
    // One token throughout: permits are a token's.
    const claims = { exp: Math.floor(Date.now() / 1000) + 600 };
    const forms = [{}, { stream: true }, { stream: true, stream_options: { include_usage: true } }];
    for (const form of forms) {
      const other = stack.newIsolate();
      const warmed = await warm(stack, chat("hello", form), { claims });
      const regional = await other.fetch(await request(stack, chat("hello", form), { claims }), stack.waitUntil);
      expect(regional.headers.get("x-cache-tier")).toBe("regional");
      expect(await warmed.text()).toBe(await regional.text());
      expect(warmed.headers.get("content-type")).toBe(regional.headers.get("content-type"));
      expect(warmed.headers.get("x-cache")).toBe("HIT");
      expect(Number(warmed.headers.get("age"))).toBeGreaterThanOrEqual(0);
      expect(warmed.headers.get("ratelimit-policy")).toBe(regional.headers.get("ratelimit-policy"));
    }
    await stack.settled();
    const before = storeCalls;
    const response = await stack.fetch(await request(stack, chat("hello"), { claims }));
    expect(response.headers.get("x-cache-tier")).toBe("isolate");
    // Whatever it asks, it asks behind the answer.
    expect(storeCalls).toBe(before);
    expect(stack.origin.asked).toHaveLength(1);
  });
});

function inTenMinutes(): number {
  return Math.floor(Date.now() / 1000) + 600;
}

function revoke(stack: Stack, body: unknown, claims: Readonly<Record<string, unknown>> = {}): Promise<Response> {
  return ask(stack, body, { path: "/admin/revoke", claims: { sub: "operator", scope: "admin", ...claims } });
}

describe.each(STORES)("a revoked token, with the region in %s", (store) => {
  it("is refused by the region at once, and by an isolate that answers by itself once its permits are too old", async () => {
    const stack = createStack({ store, bindings: { COLDPATH_PERMIT_MS: "5000" } });
    const claims = { jti: "stolen" };
    const question = chat("hello");
    // The same bytes each time: a token is signed with the second it is made in.
    const sent = await request(stack, question, { claims });
    const again = () => stack.fetch(sent.clone());
    for (let n = 0; n < 20; n++) {
      await (await again()).text();
      await stack.settled();
    }
    expect((await again()).headers.get("x-cache-tier")).toBe("isolate");
    expect(await (await revoke(stack, { tenant: stack.tenant, jti: "stolen", exp: inTenMinutes() })).json()).toEqual({
      revoked: "stolen",
    });
    expect((await errorOf(await ask(stack, chat("cold"), { claims }))).code).toBe("token_revoked");
    stack.clock.offsetMs += 5_000;
    const refused = await again();
    expect(refused.status).toBe(401);
    expect(refused.headers.get("www-authenticate")).toBe('Bearer error="invalid_token"');
    expect((await errorOf(refused)).code).toBe("token_revoked");
    expect((await ask(stack, question, { claims: { jti: "another" } })).status).toBe(200);
  });

  it("lists no models and revokes none", async () => {
    const stack = createStack({ store });
    const exp = inTenMinutes();
    const claims = { jti: "stolen", tid: stack.tenant, scope: "chat admin" };
    await revoke(stack, { tenant: stack.tenant, jti: "stolen", exp });
    expect((await errorOf(await revoke(stack, { tenant: "t", jti: "j", exp }, claims))).code).toBe("token_revoked");
    const bearer = await token({ sub: "alice", ...claims });
    const models = await stack.fetch(
      new Request("http://edge.test/v1/models", { headers: { authorization: `Bearer ${bearer}` } }),
    );
    expect((await errorOf(models)).code).toBe("token_revoked");
  });

  it("is the operator's to revoke, and nobody else's", async () => {
    const stack = createStack({ store });
    const body = { tenant: stack.tenant, jti: "j", exp: inTenMinutes() };
    expect((await errorOf(await revoke(stack, body, { scope: "chat" }))).code).toBe("insufficient_scope");
    for (const bad of ["{", "[]", {}, { ...body, jti: "" }, { ...body, exp: "soon" }, { ...body, more: 1 }]) {
      expect((await errorOf(await revoke(stack, bad))).code).toMatch(/^invalid_(json|request)$/);
    }
  });
});

it("is not said to be revoked where the region can't be told", async () => {
  const stack = createStack({ store: "redis", storeFetch: async () => Promise.reject(new TypeError("refused")) });
  const body = { tenant: "t", jti: "j", exp: 2_000_000_000 };
  const answer = await ask(stack, body, { path: "/admin/revoke", claims: { scope: "admin" } });
  expect([answer.status, (await errorOf(answer)).code]).toEqual([503, "store_unavailable"]);
});

describe("an isolate whose region is away", () => {
  it("answers what it remembers, and says that nobody limited it", async () => {
    let alive = true;
    const storeFetch: Platform["fetch"] = (url, init) => (alive ? fetch(url, init) : dead());
    const stack = createStack({ store: "redis", storeFetch });
    await (await ask(stack, chat("hello"))).text();
    await stack.settled();
    alive = false;
    const response = await ask(stack, chat("hello"));
    expect(response.headers.get("x-cache-tier")).toBe("isolate");
    expect(response.headers.get("x-degraded")).toBe("limiter-unreachable");
    expect(response.headers.get("ratelimit")).toBeNull();
    expect(stack.origin.asked).toHaveLength(1);
  });
});

/** Settings of an edge whose isolate remembers nothing and pays nothing in advance. */
const REGION_ONLY = { COLDPATH_ISOLATE_ANSWER_BYTES_MAX: "0", COLDPATH_PERMIT_MS: "0" };

describe("an entry at rest in Redis", () => {
  const { url, token: restToken } = inject("redisRest");
  const redis = async (...command: readonly string[]): Promise<unknown> => {
    const headers = { authorization: `Bearer ${restToken}` };
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(command) });
    return (await response.json<{ result: unknown }>()).result;
  };
  const entryKeys = async ({ tenant }: Stack): Promise<string[]> =>
    (await redis("KEYS", `cp:{${tenant}}:entry:*`)) as string[];

  it("holds neither question nor answer in the clear, and lives as long as it was told", async () => {
    const stack = createStack({ store: "redis", bindings: { COLDPATH_CACHE_TTL_SECONDS: "77" } });
    await ask(stack, chat("a very secret question"));
    const [key = ""] = await entryKeys(stack);
    const value = String(await redis("GET", key));
    for (const clear of [value, atob(value.split(".")[1]?.slice(8) ?? "")])
      expect(clear).not.toMatch(/secret|Cold|tiny/);
    expect(Number(await redis("TTL", key))).toBeGreaterThan(70);
    expect(Number(await redis("TTL", key))).toBeLessThanOrEqual(77);
  });

  it.each<[string, (value: string, other: string) => string]>([
    ["has a bit changed", (value) => value.replace(/.(?=.{10}$)/, (char) => (char === "A" ? "B" : "A"))],
    ["is another question's", (_, other) => other],
    ["is made younger", (value) => value.replace(/^\d+/, (seconds) => String(Number(seconds) + 1))],
    ["is cut", (value) => value.slice(0, 20)],
    ["is no entry at all", () => "hello"],
    ["is empty", () => ""],
  ])("is a miss when it %s, for one request's charge", async (what, change) => {
    const stack = createStack({ store: "redis", bindings: REGION_ONLY });
    await ask(stack, chat("other"));
    const [otherKey = ""] = await entryKeys(stack);
    await ask(stack, chat("hello"));
    const key = (await entryKeys(stack)).find((candidate) => candidate !== otherKey) ?? "";
    await redis("SET", key, change(String(await redis("GET", key)), String(await redis("GET", otherKey))));

    const response = await ask(stack, chat("hello"));
    expect(response.headers.get("x-cache")).toBe("MISS");
    expect(left(response, "requests")).toBe(57);
    expect((await response.json<Completion>()).choices[0].message.content).toBe("Cold paths, 热路径 🙂.");
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("HIT");

    // What only looks like none is found by nobody; whatever else was there is counted.
    const figures = await (await administer(stack, "/metrics")).text();
    expect(figures).toMatch(
      new RegExp(
        `unreadable_entries_total\\{process="\\w+"\\} ${what === "is empty" || what === "is no entry at all" ? 0 : 1}\n`,
      ),
    );
  });
});

describe("bad input", () => {
  const cases: readonly [string, string | object, number, string, string | null][] = [
    ["malformed JSON", '{"model":', 400, "invalid_json", null],
    ["an empty body", "", 400, "invalid_json", null],
    ["an array", "[]", 400, "invalid_request", null],
    ["a message of the wrong type", chat("x", { messages: "hi" }), 400, "invalid_request", "messages"],
    ["no messages", chat("x", { messages: [] }), 400, "invalid_request", "messages"],
    ["a temperature that is text", chat("x", { temperature: "hot" }), 400, "invalid_request", "temperature"],
    ["no model", { messages: [{ role: "user", content: "x" }] }, 400, "invalid_request", "model"],
    ["an unknown model", chat("x", { model: "gpt-99" }), 404, "model_not_found", "model"],
    ["too many choices", chat("x", { n: 129 }), 400, "invalid_request", "n"],
    ["max_tokens beyond the context", chat("x", { max_tokens: 2_049 }), 400, "context_length_exceeded", "max_tokens"],
    [
      "max_completion_tokens beyond the context",
      chat("x", { max_completion_tokens: 9e9 }),
      400,
      "context_length_exceeded",
      "max_completion_tokens",
    ],
    [
      "text that is not Unicode",
      '{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}',
      400,
      "invalid_request",
      null,
    ],
    ["nesting without end", `{"model":"tiny","x":${"[".repeat(200_000)}`, 400, "invalid_json", null],
  ];
  it.each(cases)("gets an envelope and costs nothing: %s", async (_, body, status, code, param) => {
    const stack = createStack();
    const response = await ask(stack, body);
    expect(response.status).toBe(status);
    expect(await errorOf(response)).toMatchObject({ code, param });
    expect(stack.origin.asked).toHaveLength(0);
    expect(left(await ask(stack, chat("fine")), "requests")).toBe(59);
  });

  it("survives nesting that is valid, and passes it on", async () => {
    const stack = createStack();
    const deep = `${"[".repeat(50_000)}${"]".repeat(50_000)}`;
    const response = await ask(stack, `{"model":"tiny","deep":${deep},"messages":[{"role":"user","content":"x"}]}`);
    expect(response.status).toBe(200);
  });

  it("passes the origin's own refusal on: a prompt longer than the context", async () => {
    const stack = createStack();
    const error = {
      message: "too long",
      type: "invalid_request_error",
      code: "context_length_exceeded",
      param: "messages",
    };
    stack.origin.script.refusal = () => Response.json({ error }, { status: 400 });
    const response = await ask(stack, chat("x".repeat(20_000), { stream: true }));
    expect(response.status).toBe(400);
    expect(await errorOf(response)).toEqual(error);
  });

  it("refuses a body over the limit, with or without a length", async () => {
    const stack = createStack({ bindings: { COLDPATH_BODY_BYTES_MAX: "1000" } });
    const declared = await ask(stack, chat("x".repeat(1_000)));
    expect(declared.status).toBe(413);
    expect((await errorOf(declared)).code).toBe("body_too_large");

    const valid = await request(stack, chat("x"));
    const endless = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.enqueue(new Uint8Array(300).fill(32)),
    });
    const undeclared = new Request(valid.url, { method: "POST", headers: valid.headers, body: endless });
    expect((await stack.fetch(undeclared)).status).toBe(413);
    expect((await ask(stack, chat("x"))).status).toBe(200);
  });

  it.each([
    ["a form", { "content-type": "application/x-www-form-urlencoded" }],
    ["no type", { "content-type": "" }],
    ["a compressed body", { "content-encoding": "gzip" }],
  ])("refuses %s as a media type", async (_, headers) => {
    const response = await ask(createStack(), chat("x"), { headers });
    expect(response.status).toBe(415);
    expect((await errorOf(response)).code).toBe("unsupported_media_type");
  });

  it("refuses a body that is not UTF-8", async () => {
    const stack = createStack();
    const valid = await request(stack, chat("x"));
    const body = new Uint8Array([...new TextEncoder().encode('{"model":"'), 0xff, 0xfe, 0x22, 0x7d]);
    const response = await stack.fetch(new Request(valid.url, { method: "POST", headers: valid.headers, body }));
    expect((await errorOf(response)).code).toBe("invalid_json");
  });

  it("refuses who is not known before it reads the body", async () => {
    const stack = createStack();
    let pulled = 0;
    const body = new ReadableStream<Uint8Array>({ pull: () => void (pulled += 1) }, { highWaterMark: 0 });
    const response = await stack.fetch(new Request("http://edge.test/v1/chat/completions", { method: "POST", body }));
    expect(response.status).toBe(401);
    expect(response.headers.get("www-authenticate")).toContain("Bearer");
    expect(pulled).toBe(0);
  });

  it("has envelopes for paths and methods it does not know", async () => {
    const stack = createStack();
    const missing = await stack.fetch(new Request("http://edge.test/v1/moderations"));
    expect([missing.status, (await errorOf(missing)).code]).toEqual([404, "not_found"]);
    const wrong = await stack.fetch(new Request("http://edge.test/v1/chat/completions"));
    expect([wrong.status, (await errorOf(wrong)).code]).toEqual([405, "method_not_allowed"]);
    expect(wrong.headers.get("allow")).toBe("POST");
  });

  it("takes a client's request id only where it is harmless", async () => {
    const stack = createStack();
    const kept = await ask(stack, chat("x"), { headers: { "x-request-id": "my-id_1.2" } });
    expect(kept.headers.get("x-request-id")).toBe("my-id_1.2");
    expect(stack.origin.asked[0]?.requestId).toMatch(/^my-id_1\.2\./);
    const made = await ask(stack, chat("x"), { headers: { "x-request-id": 'a"b' } });
    expect(made.headers.get("x-request-id")).toMatch(/^[\da-f-]{36}$/);
  });
});

describe("without its origin", () => {
  it("still serves hits, also from an isolate born meanwhile, and says 503 for the rest", async () => {
    const stack = createStack({ store: "redis" });
    await ask(stack, chat("hello"));
    await stack.settled();
    stack.origin.script.down = true;
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("HIT");

    const cold = await ask(stack, chat("cold"));
    expect(cold.status).toBe(503);
    expect(await errorOf(cold)).toMatchObject({ code: "origin_unavailable", type: "server_error" });
    expect(Number(cold.headers.get("retry-after"))).toBeGreaterThan(0);

    const young = stack.newIsolate();
    const hit = await young.fetch(await request(stack, chat("hello")), stack.waitUntil);
    expect(hit.headers.get("x-cache")).toBe("HIT");
  });

  it("keeps neither slot nor tokens for what it could not ask", async () => {
    const stack = createStack();
    await ask(stack, chat("hello"));
    await stack.settled();
    stack.origin.script.down = true;
    for (let tries = 0; tries < 20; tries += 1) expect((await ask(stack, chat("cold"))).status).toBe(503);
    stack.origin.script.down = false;
    const next = await ask(stack, chat("cold"));
    expect(left(next, "streams")).toBe(7);
    // One reservation; a clock that is set back a little on the way looks like a few more tokens, never like another.
    expect(left(next, "tokens")).toBeGreaterThan(60_000 - 1_024 - 1_000);
  });

  it("says 503 when it never heard of a model", async () => {
    const stack = createStack();
    stack.origin.script.down = true;
    expect((await errorOf(await ask(stack, chat("hello")))).code).toBe("origin_unavailable");
  });

  it("gives up on a silent origin, before and after the first byte", async () => {
    const stack = createStack({ bindings: { COLDPATH_ORIGIN_TIMEOUT_MS: "80" } });
    stack.origin.script.breaks = { how: "silence", after: 1 };
    const raw = await (await ask(stack, chat("hello", { stream: true }))).text();
    expect(raw).toContain('"code":"origin_timeout"');
    expect(raw).not.toContain("[DONE]");
    const json = await ask(stack, chat("hello"));
    expect([json.status, (await errorOf(json)).code]).toEqual([504, "origin_timeout"]);
    stack.origin.script.refusal = () => new Promise<Response>(() => {});
    expect((await ask(stack, chat("again"))).status).toBe(504);
  });

  it("gives up on an answer that never ends", async () => {
    const stack = createStack({ bindings: { COLDPATH_ANSWER_TIMEOUT_MS: "150" } });
    stack.origin.script.pieces = Array.from({ length: 10_000 }, () => "word ");
    stack.origin.script.pieceDelayMs = 5;
    expect((await ask(stack, chat("hello"))).status).toBe(504);
    expect(stack.origin.cancelled.size).toBe(1);
  });

  it("breaks off an answer larger than it collects", async () => {
    const stack = createStack({ bindings: { COLDPATH_ANSWER_BYTES_MAX: "1000" } });
    stack.origin.script.pieces = Array.from({ length: 200 }, () => "热路径");
    const response = await ask(stack, chat("hello"));
    expect([response.status, (await errorOf(response)).code]).toEqual([502, "origin_failed"]);
  });

  it.each<[string, () => Response, number, string]>([
    [
      "401 for our signature",
      () => Response.json({ error: { message: "m", code: "invalid_signature" } }, { status: 401 }),
      502,
      "origin_failed",
    ],
    [
      "500",
      () => Response.json({ error: { message: "m", code: "internal_error" } }, { status: 500 }),
      502,
      "origin_failed",
    ],
    [
      "503 not ready",
      () => Response.json({ error: { message: "m", code: "not_ready" } }, { status: 503 }),
      503,
      "not_ready",
    ],
    [
      "an unknown code",
      () => Response.json({ error: { message: "m", code: "odd" } }, { status: 400 }),
      502,
      "origin_failed",
    ],
    ["a web page", () => new Response("<html>", { status: 503 }), 502, "origin_failed"],
    [
      "a redirect",
      () => new Response(null, { status: 302, headers: { location: "http://evil.test" } }),
      502,
      "origin_failed",
    ],
    ["JSON instead of a stream", () => Response.json({ choices: [] }), 502, "origin_failed"],
  ])("turns the origin's answer into the client's: %s", async (_, refusal, status, code) => {
    const stack = createStack();
    stack.origin.script.refusal = refusal;
    const response = await ask(stack, chat("hello"));
    expect([response.status, (await errorOf(response)).code]).toEqual([status, code]);
  });

  it("keeps a silent stream alive with comments that no client sees", async () => {
    const stack = createStack({ bindings: { COLDPATH_KEEPALIVE_MS: "20" } });
    stack.origin.script.pieceDelayMs = 100;
    const { raw, text } = await readSse(await ask(stack, chat("hello", { stream: true })));
    expect(raw).toContain(": keep-alive\n\n");
    expect(text).toBe("Cold paths, 热路径 🙂.");
  });

  it("counts a client that takes nothing as gone", async () => {
    const stack = createStack({ bindings: { COLDPATH_CLIENT_TIMEOUT_MS: "60" } });
    stack.origin.script.pieces = Array.from({ length: 1_000 }, () => "word ");
    await ask(stack, chat("hello", { stream: true })); // And never reads.
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ ended: "aborted" });
    expect(stack.origin.cancelled.size).toBe(1);
  });
});

describe("without its regional store", () => {
  const failures: readonly [string, Platform["fetch"]][] = [
    ["dead", dead],
    ["silent", silent],
    ["talking garbage", async () => new Response("<html>502 Bad Gateway</html>", { status: 502 })],
  ];
  it.each(failures)("answers from the origin and names the outcome, when the store is %s", async (_, storeFetch) => {
    const stack = createStack({ store: "redis", storeFetch, bindings: { COLDPATH_STORE_TIMEOUT_MS: "50" } });
    for (const asked of [chat("hello"), chat("hello", { stream: true })]) {
      const response = await ask(stack, asked);
      expect(response.status).toBe(200);
      expect(response.headers.get("x-degraded")).toBe("limiter-unreachable");
      expect(response.headers.get("x-cache")).toBe("BYPASS");
      expect(await response.text()).toContain("Cold");
    }
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ status: 200, degraded: "limiter-unreachable" });
    expect((await ask(stack, chat("x"), { headers: { "cache-control": "only-if-cached" } })).status).toBe(504);
  });

  it("refuses instead where the operator chose that", async () => {
    const bindings = { COLDPATH_LIMITER_FAILS: "closed" };
    const stack = createStack({ store: "redis", storeFetch: dead, bindings });
    const response = await ask(stack, chat("hello"));
    expect([response.status, (await errorOf(response)).code]).toEqual([503, "limiter_unavailable"]);
    expect(response.headers.get("retry-after")).toBe("1");
    expect(stack.origin.asked).toHaveLength(0);
  });

  it("finishes what it began when the store dies in between, and does not limit the next by it", async () => {
    let alive = true;
    const storeFetch: Platform["fetch"] = (url, init) => (alive ? fetch(url, init) : dead());
    const stack = createStack({ store: "redis", storeFetch });
    stack.origin.script.pieceDelayMs = 20;
    const response = await ask(stack, chat("hello", { stream: true }));
    alive = false;
    expect((await readSse(response)).data.at(-1)).toBe("[DONE]");
    await stack.settled();
    expect(stack.logs.at(-1)).toMatchObject({ ended: "complete", degraded: "not-settled" });
    alive = true;
    expect((await ask(stack, chat("hello"))).headers.get("x-cache")).toBe("MISS");
  });
});

describe("the smaller routes", () => {
  it("list the origin's models to whoever has a token", async () => {
    const stack = createStack();
    expect((await stack.fetch(get("/v1/models"))).status).toBe(401);
    const bearer = await token({ sub: "alice" });
    const response = await stack.fetch(get("/v1/models", { authorization: `Bearer ${bearer}` }));
    expect(await response.json()).toMatchObject({ object: "list", data: [{ id: "tiny", object: "model" }] });
  });

  it("show one model to whoever has a token, whatever its name is", async () => {
    const stack = createStack();
    expect((await stack.fetch(get("/v1/models/tiny"))).status).toBe(401);
    const authorization = `Bearer ${await token({ sub: "alice" })}`;
    const shown = await stack.fetch(get("/v1/models/tiny", { authorization }));
    expect(await shown.json()).toMatchObject({ id: "tiny", object: "model" });
    for (const [path, name] of [
      ["owner/other", "owner/other"],
      ["owner%2Fother", "owner/other"],
      ["%E4%BD%A0%", "你%"],
    ] as const) {
      const missing = await stack.fetch(get(`/v1/models/${path}`, { authorization }));
      expect(missing.status).toBe(404);
      const error = await errorOf(missing);
      expect(error).toMatchObject({ code: "model_not_found", param: "model" });
      expect(error.message).toContain(`"${name}"`);
    }
  });

  it("tell that the edge is up, and what it can serve", async () => {
    const stack = createStack({ store: "redis" });
    expect((await stack.fetch(get("/healthz"))).status).toBe(200);
    expect(await (await stack.fetch(get("/readyz"))).json()).toEqual({ hit: true, miss: true });
    stack.origin.script.down = true;
    const unready = await stack.fetch(get("/readyz"));
    expect([unready.status, (await errorOf(unready)).code]).toEqual([503, "not_ready"]);
    expect((await stack.fetch(get("/healthz"))).status).toBe(200);
  });

  it("write one log line a request, without prompt, answer or token", async () => {
    const stack = createStack();
    const sent = await request(stack, chat("a very secret question"));
    await (await stack.fetch(sent)).text();
    await (await ask(stack, chat("a very secret question", { stream: true }))).text();
    await ask(stack, '{"messages":[{"content": secret question}]}');
    stack.origin.script.breaks = { how: "garbage", after: 1 };
    await ask(stack, chat("another secret question"));
    await stack.settled();
    expect(stack.logs.map(({ status }) => status)).toEqual([200, 200, 400, 502]);
    expect(stack.logs[0]).toMatchObject({
      status: 200,
      cache: "MISS",
      tenant: stack.tenant,
      subject: "alice",
      model: "tiny",
    });
    const all = JSON.stringify(stack.logs);
    for (const secret of [
      "secret",
      "question",
      "Cold",
      "not json",
      sent.headers.get("authorization")?.slice(7) ?? "",
    ]) {
      expect(all).not.toContain(secret);
    }
  });

  it("time every step", async () => {
    const response = await ask(createStack(), chat("x"));
    expect(response.headers.get("server-timing")).toMatch(
      /^recall;dur=\d+, authenticate;dur=\d+, validate;dur=\d+, identify;dur=\d+, admit;dur=\d+, forward;dur=\d+$/,
    );
  });
});
