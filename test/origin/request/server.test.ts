/** The origin through its front door, on a real engine thread with a fake runtime and a tokenizer of bytes. */
import { setTimeout as sleep } from "node:timers/promises";
import { createParser } from "eventsource-parser";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";
import { Admission } from "../../../origin/request/admit.ts";
import type { EngineClient } from "../../../origin/engine/client.ts";
import { NO_COUNTERS } from "../../../origin/engine/messages.ts";
import type { EngineStatus } from "../../../origin/engine/supervisor.ts";
import { EdgeVerifier } from "../../../origin/request/verify-edge.ts";
import { importSignatureKey, signMessage } from "../../../shared/signature.ts";
import { createByteTokenizer } from "../../fakes/byte-tokenizer.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { BYTE_MODEL as MODEL, createOrigin, NOW_MS, SECRET } from "../../fakes/origin.ts";

const POISON = "\u0001";

let engine: EngineClient;
beforeAll(async () => {
  engine = await startFakeEngine({ runtime: { poisonToken: POISON.charCodeAt(0), shunned: [1, 256, 257] } });
});
afterAll(() => engine.stop());

const CHAT = { model: "bytes", messages: [{ role: "user", content: "Hello" }], max_tokens: 12, temperature: 0 };

/** An engine that nobody gets to. */
function idle(status: EngineStatus) {
  return { submit: refuse, occupancy: { running: 0, waiting: 0 }, counters: NO_COUNTERS, status };
}

function refuse(): never {
  throw new Error("an engine was asked that is not ready");
}

/** The events of a stream, JSON parsed, and whether `[DONE]` ended it. */
async function readEvents(response: Response) {
  const events: { event: string | undefined; data: unknown }[] = [];
  const parser = createParser({
    onEvent: ({ event, data }) => events.push({ event, data: data === "[DONE]" ? data : JSON.parse(data) }),
  });
  parser.feed(await response.text());
  return events;
}

interface Chunk {
  readonly choices: readonly {
    delta?: { role?: string; content?: string };
    text?: string;
    finish_reason: string | null;
  }[];
  readonly usage?: unknown;
}

describe("a chat completion", () => {
  test("is OpenAI's object, with usage", async () => {
    const { ask } = await createOrigin({ engine });
    const response = await ask("/v1/chat/completions", CHAT);
    expect(response.status).toBe(200);
    const promptTokens = MODEL.tokenizer.encodeChat([{ role: "user", content: "Hello" }]).length;
    expect(await response.json()).toEqual({
      id: expect.stringMatching(/^chatcmpl-id-\d+$/),
      object: "chat.completion",
      created: NOW_MS / 1000,
      model: "bytes",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: expect.any(String) },
          finish_reason: "length",
          logprobs: null,
        },
      ],
      usage: {
        prompt_tokens: promptTokens,
        completion_tokens: 12,
        total_tokens: promptTokens + 12,
      },
    });
  });

  test("streamed gives the same text in chunks: the role first, then the reason, the usage if asked, and [DONE]", async () => {
    const { ask } = await createOrigin({ engine });
    const whole = (await (await ask("/v1/chat/completions", CHAT)).json()) as {
      choices: [{ message: { content: string } }];
      usage: unknown;
    };
    const response = await ask("/v1/chat/completions", {
      ...CHAT,
      stream: true,
      stream_options: { include_usage: true },
    });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const events = await readEvents(response);
    expect(events.at(-1)?.data).toBe("[DONE]");

    const chunks = events.slice(0, -1).map(({ data }) => data as Chunk);
    expect(chunks[0]?.choices[0]?.delta).toEqual({ role: "assistant", content: "" });
    const text = chunks.map(({ choices }) => choices[0]?.delta?.content ?? "").join("");
    expect(text).toBe(whole.choices[0].message.content);
    expect(chunks.at(-2)?.choices[0]).toMatchObject({ delta: {}, finish_reason: "length" });
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: whole.usage });
    for (const chunk of chunks.slice(0, -1)) expect(chunk.usage).toBeNull();
  });

  test("without include_usage has no usage in its chunks", async () => {
    const { ask } = await createOrigin({ engine });
    const events = await readEvents(await ask("/v1/chat/completions", { ...CHAT, stream: true }));
    for (const { data } of events.slice(0, -1)) expect(data).not.toHaveProperty("usage");
  });

  test("with a seed is the same again, beside other requests too", async () => {
    const { ask } = await createOrigin({ engine });
    const body = { ...CHAT, temperature: 1.2, seed: 42, max_tokens: 40 };
    const content = async (request: object) => {
      const reply = (await (await ask("/v1/chat/completions", request)).json()) as { choices: [{ message: object }] };
      return reply.choices[0].message;
    };
    const alone = await content(body);
    const crowd = await Promise.all([body, { ...body, seed: 43 }, { ...body, temperature: 0 }, body].map(content));
    expect(crowd[0]).toEqual(alone);
    expect(crowd[3]).toEqual(alone);
    expect(crowd[1]).not.toEqual(alone);
  });

  test("ends before a stop string, and says stop", async () => {
    const { ask } = await createOrigin({ engine });
    const read = async (stop?: string | string[]) =>
      (await (
        await ask("/v1/completions", { model: "bytes", prompt: "ab", max_tokens: 60, temperature: 0, stop })
      ).json()) as {
        choices: [{ text: string; finish_reason: string }];
        usage: { completion_tokens: number };
      };
    const full = (await read()).choices[0].text;
    const stop = /[ -~]{1}/.exec(full.slice(8))?.[0] ?? "";
    expect(stop).not.toBe("");
    const cut = await read(["never there", stop]);
    expect(cut.choices[0]).toMatchObject({ text: full.slice(0, full.indexOf(stop)), finish_reason: "stop" });
    expect(cut.usage.completion_tokens).toBeLessThan(60);
  });

  test("without max_tokens goes on until the context is full", async () => {
    const { ask } = await createOrigin({ engine });
    const { max_tokens: _, ...body } = CHAT;
    const { usage } = (await (await ask("/v1/chat/completions", body)).json()) as { usage: { total_tokens: number } };
    expect(usage.total_tokens).toBe(512);
  });
});

test("a text completion is OpenAI's object, streamed and not", async () => {
  const { ask } = await createOrigin({ engine });
  const body = { model: "bytes", prompt: "Once", max_tokens: 9, temperature: 0 };
  const whole = (await (await ask("/v1/completions", body)).json()) as { choices: [{ text: string }] };
  expect(whole).toMatchObject({
    object: "text_completion",
    choices: [{ index: 0, finish_reason: "length", logprobs: null }],
    usage: { prompt_tokens: 4, completion_tokens: 9, total_tokens: 13 },
  });
  const events = await readEvents(await ask("/v1/completions", { ...body, stream: true }));
  const text = events.slice(0, -1).map(({ data }) => (data as Chunk).choices[0]?.text ?? "");
  expect(text.join("")).toBe(whole.choices[0].text);
  expect(events.at(-1)?.data).toBe("[DONE]");
});

test("the simple form answers with the response alone", async () => {
  const { ask } = await createOrigin({ engine });
  expect(await (await ask("/generate", { prompt: "Hi", max_tokens: 5 })).json()).toEqual({
    response: expect.any(String),
  });
});

test.each([true, false])(
  "an answer says which model gave it, and repeats the question's digest (stream: %s)",
  async (stream) => {
    const { ask } = await createOrigin({ engine });
    const digest = "q".repeat(43);
    const named = await ask("/v1/chat/completions", { ...CHAT, stream }, { context: { digest } });
    expect(named.headers.get("coldpath-model-digest")).toBe(MODEL.digest);
    expect(named.headers.get("coldpath-digest")).toBe(digest);
    const nameless = await ask("/v1/chat/completions", { ...CHAT, stream });
    expect(nameless.headers.get("coldpath-model-digest")).toBe(MODEL.digest);
    expect(nameless.headers.has("coldpath-digest")).toBe(false);
  },
);

test("the models' list tells what an edge needs: digest and context", async () => {
  const { ask } = await createOrigin({ engine });
  expect(await (await ask("/v1/models")).json()).toEqual({
    object: "list",
    data: [
      {
        id: "bytes",
        object: "model",
        created: 1_600_000_000,
        owned_by: "coldpath",
        digest: "d".repeat(64),
        context_length: 512,
        task: "generate",
      },
    ],
  });
});

describe("bad input", () => {
  const long = "x".repeat(600);
  test.each([
    ["malformed JSON", "/v1/chat/completions", '{"model":', 400, "invalid_json", null],
    ["empty messages", "/v1/chat/completions", { ...CHAT, messages: [] }, 400, "invalid_request", "messages"],
    ["a wrong type", "/v1/chat/completions", { ...CHAT, temperature: "hot" }, 400, "invalid_request", "temperature"],
    ["more answers than allowed", "/v1/chat/completions", { ...CHAT, n: 5 }, 400, "invalid_request", "n"],
    ["an unknown model", "/v1/chat/completions", { ...CHAT, model: "gpt-9" }, 404, "model_not_found", "model"],
    [
      "an unknown model in the simple form",
      "/generate",
      { prompt: "x", model: "gpt-9" },
      404,
      "model_not_found",
      "model",
    ],
    [
      "a prompt longer than the context",
      "/v1/chat/completions",
      { ...CHAT, messages: [{ role: "user", content: long }], max_tokens: undefined },
      400,
      "context_length_exceeded",
      "messages",
    ],
    [
      "a bare prompt that fills it",
      "/v1/completions",
      { model: "bytes", prompt: "x".repeat(512) },
      400,
      "context_length_exceeded",
      "prompt",
    ],
    [
      "max_tokens beyond it",
      "/v1/chat/completions",
      { ...CHAT, max_tokens: 512 },
      400,
      "context_length_exceeded",
      "max_tokens",
    ],
    [
      "max_completion_tokens beyond it",
      "/v1/chat/completions",
      { ...CHAT, max_tokens: null, max_completion_tokens: 512 },
      400,
      "context_length_exceeded",
      "max_completion_tokens",
    ],
    [
      "a bias for no token",
      "/v1/chat/completions",
      { ...CHAT, logit_bias: { "258": 1 } },
      400,
      "invalid_request",
      "logit_bias",
    ],
    ["a body over the limit", "/v1/chat/completions", `{"a":"${"x".repeat(10_000)}"}`, 413, "body_too_large", null],
    ["nothing there", "/v1/moderations", {}, 404, "not_found", null],
    ["a name of the language's own", "/constructor", {}, 404, "not_found", null],
  ])("gets its envelope: %s", async (_, path, body, status, code, param) => {
    const { ask, lines } = await createOrigin({ engine });
    const response = await ask(path, body);
    expect(response.status).toBe(status);
    expect(await response.json()).toEqual({
      error: {
        message: expect.any(String),
        type: "invalid_request_error",
        code,
        param,
      },
    });
    expect(response.headers.get("x-request-id")).toMatch(/^edge-/);
    expect(lines).toMatchObject([{ event: "request", status, code }]);
  });

  test("says how long the context is, as OpenAI's clients read it", async () => {
    const { ask } = await createOrigin({ engine });
    const { error } = (await (await ask("/v1/chat/completions", { ...CHAT, max_tokens: 512 })).json()) as {
      error: { message: string; param: string };
    };
    expect(error.message).toMatch(/maximum context length is 512 tokens.*512 for the answer/);
    expect(error.param).toBe("max_tokens");
  });

  test("a wrong method is told the right one", async () => {
    const { ask } = await createOrigin({ engine });
    const response = await ask("/v1/chat/completions");
    expect(response.status).toBe(405);
    expect(response.headers.get("allow")).toBe("POST");
    expect(await response.json()).toMatchObject({ error: { code: "method_not_allowed" } });
  });

  test("bytes that are not UTF-8, and a type that is not JSON", async () => {
    const { app, signed, ask } = await createOrigin({ engine });
    const broken = await app.request(await signed("/generate", Uint8Array.of(0x22, 0xff, 0x22)));
    expect([broken.status, await broken.json()]).toMatchObject([400, { error: { code: "invalid_json" } }]);
    const form = await ask(
      "/generate",
      { prompt: "x" },
      { headers: { "content-type": "application/json-but-not-really" } },
    );
    expect([form.status, await form.json()]).toMatchObject([415, { error: { code: "unsupported_media_type" } }]);
  });
});

describe("the edge's signature", () => {
  const refused = { error: { code: "invalid_signature", type: "authentication_error" } };

  test("is asked of every route but the probes", async () => {
    const { app, lines } = await createOrigin({ engine });
    for (const path of ["/v1/models", "/v1/chat/completions", "/generate", "/anything"]) {
      const response = await app.request(path, path === "/v1/models" ? {} : { method: "POST", body: "{}" });
      expect(response.status, path).toBe(401);
      expect(await response.json()).toMatchObject(refused);
    }
    for (const path of ["/health", "/ready", "/metrics"]) expect((await app.request(path)).status).toBe(200);
    expect(lines).toHaveLength(4);
  });

  test("covers the body and the path", async () => {
    const { app, signed } = await createOrigin({ engine });
    const request = await signed("/generate", '{"prompt":"x"}');
    const { headers } = request;
    const other = await app.request("/generate", { method: "POST", headers, body: '{"prompt":"y"}' });
    expect([other.status, await other.json()]).toMatchObject([401, refused]);
    const elsewhere = await app.request("/v1/completions", { method: "POST", headers, body: '{"prompt":"x"}' });
    expect([elsewhere.status, await elsewhere.json()]).toMatchObject([401, refused]);
  });

  test("covers what the edge says beside the question, and what is signed must still make sense", async () => {
    const { app, signed, ask } = await createOrigin({ engine });
    const priority = await signed("/generate", '{"prompt":"x"}', { context: { priority: "low" } });
    priority.headers.set("coldpath-priority", "high");
    const changed = await app.request(priority);
    expect([changed.status, await changed.json()]).toMatchObject([401, refused]);
    const context = { priority: "urgent" as "high" };
    const senseless = await ask("/generate", { prompt: "x" }, { context });
    expect([senseless.status, await senseless.json()]).toMatchObject([401, refused]);
    expect((await ask("/generate", { prompt: "x", max_tokens: 1 }, { context: { priority: "high" } })).status).toBe(
      200,
    );
  });

  test("is good for one request only", async () => {
    const { app, signed } = await createOrigin({ engine });
    const request = await signed("/generate", '{"prompt":"x","max_tokens":1}');
    expect((await app.request(request.clone())).status).toBe(200);
    const again = await app.request(request);
    expect([again.status, await again.json()]).toMatchObject([401, refused]);
  });

  test("is taken with the previous key, too, where there is one, and with no third", async () => {
    const now = 1000;
    const [current, previous, other] = await Promise.all(["current", "previous", "other"].map(importSignatureKey));
    if (current === undefined || previous === undefined || other === undefined) throw new Error("no keys");
    const send = async (key: typeof current, previousKey?: typeof current) => {
      const verifier = new EdgeVerifier({ key: current, previousKey, replayIdsMax: 9, nowSeconds: () => now });
      const message = { method: "GET", path: "/v1/models", requestId: "a", body: new Uint8Array() };
      const headers = new Headers(await signMessage(key, message, now));
      const outcome = () =>
        verifier.verify({ ...message, headers }).then(
          () => "accepted",
          (error: { code: string }) => error.code,
        );
      return [await outcome(), await outcome()];
    };
    expect(await send(current, previous)).toEqual(["accepted", "invalid_signature"]);
    expect(await send(previous, previous)).toEqual(["accepted", "invalid_signature"]);
    expect(await send(previous)).toEqual(["invalid_signature", "invalid_signature"]);
    expect(await send(other, previous)).toEqual(["invalid_signature", "invalid_signature"]);
  });

  test("is remembered only as long as it could be sent again, and in bounded numbers", async () => {
    const key = await importSignatureKey(SECRET);
    let now = 1000;
    const verifier = new EdgeVerifier({ key, replayIdsMax: 2, nowSeconds: () => now });
    const send = async (requestId: string, createdSeconds: number) => {
      const message = { method: "GET", path: "/v1/models", requestId, body: new Uint8Array() };
      const headers = new Headers(await signMessage(key, message, createdSeconds));
      return verifier.verify({ ...message, headers }).then(
        () => "accepted",
        (error: { code: string }) => error.code,
      );
    };
    expect(await send("a", 1060)).toBe("accepted");
    expect(await send("b", 1000)).toBe("accepted");
    expect(await send("c", 1000)).toBe("queue_full");
    now = 1120;
    expect(await send("a", 1060)).toBe("invalid_signature");
    now = 1121;
    expect(await send("a", 1060)).toBe("invalid_signature");
    expect(await send("d", 1121)).toBe("accepted");
  });
});

describe("limits", () => {
  test("a request beyond the queue is refused at once, and the door opens again", async () => {
    const slow = await startFakeEngine({ runtime: { stepMs: 5 } });
    onTestFinished(() => slow.stop());
    const { ask } = await createOrigin({
      engine: slow,
      admission: new Admission({ openMax: 2, followersMax: 10, waitMs: () => undefined }),
    });
    const answers = await Promise.all([1, 2, 3, 4].map(() => ask("/v1/chat/completions", CHAT)));
    expect(answers.map(({ status }) => status).toSorted((a, b) => a - b)).toEqual([200, 200, 429, 429]);
    const refused = answers.find(({ status }) => status === 429);
    expect(refused?.headers.get("retry-after")).toBe("1");
    expect(await refused?.json()).toMatchObject({ error: { code: "queue_full", type: "rate_limit_error" } });
    expect((await ask("/v1/chat/completions", CHAT)).status).toBe(200);
  });

  test.each([
    [undefined, "1"],
    [0, "1"],
    [12_300, "13"],
    [Number.MAX_SAFE_INTEGER, "60"],
  ])("whoever is refused is told when those who wait will have their rows: %s ms", async (ms, seconds) => {
    const admission = new Admission({ openMax: 0, followersMax: 9, waitMs: () => ms });
    const { ask } = await createOrigin({ engine, admission });
    const refused = await ask("/v1/chat/completions", CHAT);
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([429, seconds]);
  });

  test("the edge's priority decides who gets the next row, and its time when an answer is given up", async () => {
    const slow = await startFakeEngine({ runtime: { slots: 1, stepMs: 3 } });
    onTestFinished(() => slow.stop());
    const { ask } = await createOrigin({ engine: slow });
    const running = ask("/v1/chat/completions", { ...CHAT, max_tokens: 100 });
    while (slow.occupancy.running === 0) await sleep(1);
    const order: string[] = [];
    const waiting = (["low", "normal", "high"] as const).map(async (priority) => {
      const response = await ask("/v1/chat/completions", CHAT, { context: { priority } });
      order.push(priority);
      return response.status;
    });
    expect(await Promise.all(waiting)).toEqual([200, 200, 200]);
    expect(order).toEqual(["high", "normal", "low"]);
    expect((await running).status).toBe(200);

    const late = await ask("/v1/chat/completions", { ...CHAT, max_tokens: 400 }, { context: { timeoutMs: 60 } });
    expect([late.status, await late.json()]).toMatchObject([504, { error: { code: "origin_timeout" } }]);
  });

  test("a stream that waits says its place in line, and what goes wrong after that is an event", async () => {
    const slow = await startFakeEngine({ runtime: { slots: 1, stepMs: 5 }, queueWaitMs: 500 });
    onTestFinished(() => slow.stop());
    const { ask } = await createOrigin({ engine: slow });
    const first = ask("/v1/chat/completions", { ...CHAT, max_tokens: 400 });
    while (slow.occupancy.running === 0) await sleep(1);
    const response = await ask("/v1/chat/completions", { ...CHAT, stream: true });
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "text/event-stream; charset=utf-8"]);
    const text = await response.text();
    expect(text).toMatch(/^: queue position 1\n\nevent: error\ndata: \{"error":\{.*"code":"queue_full".*\}\n\n$/);
    expect((await first).status).toBe(200);
  });

  test("a request that waits too long for a row is refused while it still has a status", async () => {
    const slow = await startFakeEngine({ runtime: { slots: 1, stepMs: 5 }, queueWaitMs: 50 });
    onTestFinished(() => slow.stop());
    const { ask } = await createOrigin({ engine: slow });
    const first = ask("/v1/chat/completions", { ...CHAT, max_tokens: 100 });
    while (slow.occupancy.running === 0) await sleep(1);
    const second = await ask("/v1/chat/completions", { ...CHAT, stream: true });
    expect([second.status, await second.json()]).toMatchObject([429, { error: { code: "queue_full" } }]);
    expect((await first).status).toBe(200);
  });
});

describe("trouble inside", () => {
  test("a poisoned request gets a 500 without detail, alone", async () => {
    const { ask, lines } = await createOrigin({ engine });
    const [poisoned, healthy] = await Promise.all([
      ask("/v1/completions", { model: "bytes", prompt: `a${POISON}`, max_tokens: 5 }),
      ask("/v1/completions", { model: "bytes", prompt: "b", max_tokens: 5 }),
    ]);
    expect([poisoned.status, await poisoned.json()]).toMatchObject([500, { error: { code: "internal_error" } }]);
    expect(healthy.status).toBe(200);
    expect(lines.find(({ status }) => status === 500)).toMatchObject({ cause: expect.stringContaining("not numbers") });
  });

  test("a stream that breaks ends with an error event, never with [DONE], and gives its place back", async () => {
    const dying = await startFakeEngine({ runtime: { stepMs: 5 }, onCrash: () => {} });
    const admission = new Admission({ openMax: 1, followersMax: 10, waitMs: () => undefined });
    const { ask, lines } = await createOrigin({ engine: dying, admission });
    const response = await ask("/v1/chat/completions", { ...CHAT, max_tokens: 400, stream: true });
    expect(response.status).toBe(200);
    await dying.stop();
    const events = await readEvents(response);
    expect(events.at(-1)).toMatchObject({
      event: "error",
      data: { error: { code: "not_ready", type: "server_error" } },
    });
    expect(events.map(({ data }) => data)).not.toContain("[DONE]");
    expect(admission.open).toBe(0);
    expect(lines).toMatchObject([{ status: 503, code: "not_ready" }]);
    const next = await ask("/v1/chat/completions", CHAT);
    expect([next.status, await next.json()]).toMatchObject([503, { error: { code: "not_ready" } }]);
  });

  test.each([
    ["loading", "ready", ["other"], undefined],
    ["restarting", "restarting", [], undefined],
    ["failed", "failed", [], undefined],
    ["draining", "ready", [], "draining"],
    ["failed", "ready", [], "failed"],
  ] as const)("while %s, its model %s, it is up but not ready", async (status, ofModel, loading, closed) => {
    const { app, ask, models } = await createOrigin({ engine: idle(ofModel), loading });
    if (closed !== undefined) models.close(closed);
    expect((await app.request("/health")).status).toBe(200);
    const ready = await app.request("/ready");
    const each = { bytes: ofModel, ...(loading.length > 0 && { other: "loading" }) };
    expect([ready.status, await ready.json()]).toEqual([503, { status, models: each }]);
    const asked = [await ask("/v1/chat/completions", CHAT), await ask("/generate", { prompt: "x" })];
    const list = await ask("/v1/models");
    // Whoever has answers of a model that is away may still give them.
    const isListed = closed === undefined && loading.length === 0;
    if (isListed) expect(list.status).toBe(200);
    for (const response of isListed ? asked : [...asked, list]) {
      expect(response.headers.get("retry-after")).toBe("1");
      expect([response.status, await response.json()]).toMatchObject([503, { error: { code: "not_ready" } }]);
    }
  });
});

test("the log has one line for a request, with its numbers and without its words", async () => {
  const { ask, lines } = await createOrigin({ engine });
  const body = { ...CHAT, messages: [{ role: "user", content: "a secret plan" }] };
  await readEvents(await ask("/v1/chat/completions", { ...body, stream: true }));
  expect(lines).toEqual([
    expect.objectContaining({
      level: "info",
      event: "request",
      requestId: expect.stringMatching(/^edge-/),
      method: "POST",
      path: "/v1/chat/completions",
      status: 200,
      promptTokens: expect.any(Number),
      completionTokens: 12,
      finish: "length",
    }),
  ]);
  expect(JSON.stringify(lines)).not.toContain("secret");
});

test("the metrics count what was asked and generated", async () => {
  const { app, ask } = await createOrigin({ engine });
  await ask("/v1/chat/completions", CHAT);
  await ask("/v1/chat/completions", { ...CHAT, model: "other" });
  await ask("/somewhere", {});
  const text = await (await app.request("/metrics")).text();
  const promptTokens = MODEL.tokenizer.encodeChat([{ role: "user", content: "Hello" }]).length;
  expect(text).toContain('coldpath_origin_requests_total{route="/v1/chat/completions",status="200"} 1');
  expect(text).toContain('coldpath_origin_requests_total{route="/v1/chat/completions",status="404"} 1');
  expect(text).toContain('coldpath_origin_requests_total{route="other",status="404"} 1');
  expect(text).toContain(`coldpath_origin_prompt_tokens_total{model_name="bytes"} ${promptTokens}`);
  expect(text).toContain('coldpath_origin_generation_tokens_total{model_name="bytes"} 12');
  expect(text).toContain('coldpath_origin_time_to_first_token_seconds_count{model_name="bytes"} 1');
  expect(text).toMatch(/^coldpath_origin_inter_token_latency_seconds_count\{model_name="bytes"\} \d+$/m);
  expect(text).toContain('coldpath_origin_num_requests_running{model_name="bytes"} 0');
  expect(text).toMatch(/^coldpath_origin_prefix_cache_queries_total\{model_name="bytes"\} \d+$/m);
  expect(text).toMatch(/^coldpath_origin_kv_cache_bytes\{model_name="bytes"\} \d+$/m);
});

test("what the prefix cache spared is in the usage, and stays in its tenant", async () => {
  const { ask } = await createOrigin({ engine });
  const prompt = "a prompt of more than one block of tokens, and then some more of it ".repeat(3);
  const cached = async (tenant: string) => {
    const response = await ask(
      "/v1/completions",
      { model: "bytes", prompt, max_tokens: 2 },
      { context: { tenant: tenant.repeat(43) } },
    );
    const { usage } = (await response.json()) as { usage: { prompt_tokens_details?: { cached_tokens: number } } };
    return usage.prompt_tokens_details?.cached_tokens ?? 0;
  };
  expect(await cached("a")).toBe(0);
  expect(await cached("a")).toBeGreaterThan(100);
  expect(await cached("b")).toBe(0);
});

describe("a base model, which has no chat template,", () => {
  const model = { ...MODEL, tokenizer: createByteTokenizer({ chatTemplate: undefined }) };

  test("goes on with texts and is listed", async () => {
    const { ask } = await createOrigin({ engine, model });
    const text = await ask("/v1/completions", { model: "bytes", prompt: "ab", max_tokens: 5, temperature: 0 });
    expect([text.status, await text.json()]).toMatchObject([200, { choices: [{ text: expect.stringMatching(/./) }] }]);
    const list = (await (await ask("/v1/models")).json()) as { readonly data: readonly { readonly id: string }[] };
    expect(list.data.map(({ id }) => id)).toEqual(["bytes"]);
  });

  const tool = { type: "function", function: { name: "look" } };
  test.each([
    ["a chat", "/v1/chat/completions", CHAT],
    ["a chat that streams", "/v1/chat/completions", { ...CHAT, stream: true }],
    ["a chat with tools", "/v1/chat/completions", { ...CHAT, tools: [tool] }],
    ["the simple form, which is a chat", "/generate", { prompt: "Hello" }],
  ])("refuses %s with one sentence that says where to ask", async (_, path, body) => {
    const { ask } = await createOrigin({ engine, model });
    const response = await ask(path, body);
    expect([response.status, await response.json()]).toEqual([
      400,
      {
        error: {
          message: "this model has no chat template and can't chat; it goes on with texts, at /v1/completions",
          type: "invalid_request_error",
          code: "invalid_request",
          param: "messages",
        },
      },
    ]);
  });
});
