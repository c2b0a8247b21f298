/** `POST /v1/embeddings` through the edge: who may, what is cached and shared, what it costs, and what is refused. */
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import type { EmbeddingList } from "../../shared/embedding-request.ts";
import { ask, chat, createStack, errorOf, type Stack, STORES, token } from "./stack.ts";

const PATH = "/v1/embeddings";
const TEXT = { model: "tiny", input: "热路径 and cold" };

async function embed(stack: Stack, body: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  const response = await ask(stack, body, { path: PATH, headers });
  await stack.settled();
  return response;
}

function askedTimes({ origin }: Stack): number {
  return origin.asked.filter(({ path }) => path === PATH).length;
}

describe.each(STORES)("with the store %s", (store) => {
  it("asks the origin once, for base64, and answers the next from memory and from the region", async () => {
    const stack = createStack({ store });
    const first = await embed(stack, TEXT);
    expect([first.status, first.headers.get("x-cache")]).toEqual([200, "MISS"]);
    const body = await first.json<EmbeddingList>();
    expect(body).toEqual({
      object: "list",
      data: [{ object: "embedding", index: 0, embedding: [12, -0.100000001, 1.00000001e-7] }],
      model: "tiny",
      usage: { prompt_tokens: 4, total_tokens: 4 },
    });
    expect(stack.origin.asked[0]?.body).toEqual({ model: "tiny", input: [TEXT.input], encoding_format: "base64" });
    const tiers: (string | null)[] = [];
    for (let i = 0; i < 2; i++) {
      const again = await embed(stack, TEXT);
      expect(again.headers.get("x-cache")).toBe("HIT");
      expect(await again.json()).toEqual(body);
      tiers.push(again.headers.get("x-cache-tier"));
    }
    // The first to come back brings the permits that later ones are answered from memory with.
    expect(tiers).toEqual(["regional", "isolate"]);
    const elsewhere = await stack.newIsolate().fetch(
      new Request(`http://edge.test${PATH}`, {
        method: "POST",
        headers: {
          authorization: `Bearer ${await token({ sub: "alice", tid: stack.tenant })}`,
          "content-type": "application/json",
        },
        body: JSON.stringify(TEXT),
      }),
      stack.waitUntil,
    );
    if (store === "redis") expect(elsewhere.headers.get("x-cache")).toBe("HIT");
    expect(await elsewhere.json()).toEqual(body);
    await stack.settled();
    if (store === "redis") expect(askedTimes(stack)).toBe(1);
  });

  it("has one entry for a text however it is sent and however its vector is written", async () => {
    const stack = createStack({ store });
    const plain = await (await embed(stack, TEXT)).json<EmbeddingList>();
    const others = [
      { ...TEXT, input: [TEXT.input] },
      { input: TEXT.input, model: "tiny", user: "somebody", dimensions: null },
      { ...TEXT, encoding_format: "float" },
    ];
    for (const other of others) expect(await (await embed(stack, other)).json()).toEqual(plain);
    const base64 = await (await embed(stack, { ...TEXT, encoding_format: "base64" })).json<EmbeddingList>();
    const bytes = Uint8Array.from(atob(String(base64.data[0]?.embedding)), (letter) => letter.charCodeAt(0));
    expect(Array.from(new Float32Array(bytes.buffer))).toEqual([12, Math.fround(-0.1), Math.fround(1e-7)]);
    expect(askedTimes(stack)).toBe(1);
  });
});

describe("POST /v1/embeddings", () => {
  it("tells apart what has other vectors: text, order, ids, dimensions, tenant, and a chat", async () => {
    const stack = createStack();
    await embed(stack, { model: "tiny", input: ["a", "b"] });
    const others = [
      ["b", "a"],
      ["a"],
      ["a", "b", ""].slice(0, 2).map((each) => each.toUpperCase()),
      [97, 98],
      [[97], [98]],
    ];
    for (const input of others)
      expect((await embed(stack, { model: "tiny", input })).headers.get("x-cache")).toBe("MISS");
    const shorter = await embed(stack, { model: "tiny", input: ["a", "b"], dimensions: 2 });
    expect(shorter.headers.get("x-cache")).toBe("MISS");
    const stranger = await ask(stack, { model: "tiny", input: ["a", "b"] }, { path: PATH, claims: { tid: "other" } });
    expect(stranger.headers.get("x-cache")).toBe("MISS");
    expect(askedTimes(stack)).toBe(others.length + 3);
    expect((await ask(stack, chat("a"))).headers.get("x-cache")).toBe("MISS");
  });

  it("shares an answer between spellings where the operator lets them", async () => {
    const stack = createStack({ bindings: { COLDPATH_NORMALIZE: "width" } });
    await embed(stack, { model: "tiny", input: "Ａ１" });
    expect((await embed(stack, { model: "tiny", input: ["A1"] })).headers.get("x-cache")).toBe("HIT");
  });

  it("obeys cache-control, and keeps nothing that a client does not want kept", async () => {
    const stack = createStack();
    expect((await embed(stack, TEXT, { "cache-control": "only-if-cached" })).status).toBe(504);
    expect((await embed(stack, TEXT, { "cache-control": "no-store" })).headers.get("x-cache")).toBe("BYPASS");
    expect((await embed(stack, TEXT)).headers.get("x-cache")).toBe("MISS");
    expect((await embed(stack, TEXT, { "cache-control": "only-if-cached" })).headers.get("x-cache")).toBe("HIT");
  });

  it("lets nobody in without a token, and charges tokens, not a context's worth of an answer", async () => {
    const plans = { small: { requestsPerMinute: 100, tokensPerMinute: 30, streamsMax: 4 } };
    const stack = createStack({ bindings: { COLDPATH_PLANS: JSON.stringify(plans) } });
    const body = JSON.stringify(TEXT);
    const headers = { "content-type": "application/json" };
    const stranger = await stack.fetch(new Request(`http://edge.test${PATH}`, { method: "POST", headers, body }));
    expect(stranger.status).toBe(401);
    const as = (input: string) => ask(stack, { model: "tiny", input }, { path: PATH, claims: { plan: "small" } });
    expect((await as("a")).status).toBe(200);
    await stack.settled();
    const refused = await as("long ".repeat(60));
    expect(refused.status).toBe(429);
    expect((await errorOf(refused)).code).toBe("token_limit_exceeded");
    expect((await as("b")).status).toBe(200);
  });

  it("passes the origin's refusal on, and neither keeps nor charges it", async () => {
    const stack = createStack();
    const error = {
      message: "too long",
      type: "invalid_request_error",
      code: "context_length_exceeded",
      param: "input",
    };
    stack.origin.script.refusal = () => Response.json({ error }, { status: 400 });
    const refused = await embed(stack, TEXT);
    expect(refused.status).toBe(400);
    expect(await errorOf(refused)).toMatchObject({ code: "context_length_exceeded", param: "input" });
    stack.origin.script.refusal = undefined;
    expect((await embed(stack, TEXT)).headers.get("x-cache")).toBe("MISS");
  });

  const broken: readonly (readonly [string, () => Response])[] = [
    ["what is no JSON", () => new Response("<html>")],
    ["a chat", () => Response.json({ object: "chat.completion", choices: [] })],
    [
      "fewer vectors",
      () => Response.json({ object: "list", data: [], model: "tiny", usage: { prompt_tokens: 1, total_tokens: 1 } }),
    ],
    [
      "numbers in place of base64",
      () =>
        Response.json({
          object: "list",
          data: [{ index: 0, embedding: [1] }],
          model: "tiny",
          usage: { prompt_tokens: 1, total_tokens: 1 },
        }),
    ],
    ["a body that breaks", () => new Response(new ReadableStream({ start: (c) => c.error(new Error("reset")) }))],
    ["nothing", () => new Response(null)],
  ];
  it.each(broken)("says origin_failed to %s, and keeps nothing", async (_, refusal) => {
    const stack = createStack();
    stack.origin.script.refusal = refusal;
    const failed = await embed(stack, TEXT);
    expect([failed.status, (await errorOf(failed)).code]).toEqual([502, "origin_failed"]);
    stack.origin.script.refusal = undefined;
    expect((await embed(stack, TEXT)).headers.get("x-cache")).toBe("MISS");
  });

  it("refuses what is no question before anybody is asked", async () => {
    const stack = createStack();
    for (const input of [[], "", [""], [1.5], [[]], {}, null, ["a", 1]]) {
      const response = await embed(stack, { model: "tiny", input });
      expect([response.status, (await errorOf(response)).param?.split(".")[0]]).toEqual([400, "input"]);
    }
    expect((await embed(stack, { model: "other", input: "a" })).status).toBe(404);
    expect((await stack.fetch(new Request(`http://edge.test${PATH}`))).status).toBe(405);
    expect(stack.origin.asked).toEqual([]);
  });

  it("serves OpenAI's own client, which asks for base64 where nobody says otherwise", async () => {
    const stack = createStack();
    const client = new OpenAI({
      apiKey: await token({ sub: "alice", tid: stack.tenant }),
      baseURL: "http://edge.test/v1",
      fetch: (url, init) => stack.fetch(new Request(url, init)),
      dangerouslyAllowBrowser: true,
    });
    const { data, model, usage } = await client.embeddings.create({ model: "tiny", input: ["one", "three"] });
    expect(data.map(({ index, embedding }) => [index, embedding])).toEqual([
      [0, [3, Math.fround(-0.1), Math.fround(1e-7)]],
      [1, [5, Math.fround(-0.1), Math.fround(1e-7)]],
    ]);
    expect([model, usage]).toEqual(["tiny", { prompt_tokens: 8, total_tokens: 8 }]);
    const floats = await client.embeddings.create({ model: "tiny", input: ["one", "three"], encoding_format: "float" });
    expect(floats.data[1]?.embedding[0]).toBe(5);
    expect(askedTimes(stack)).toBe(1);
  });
});
