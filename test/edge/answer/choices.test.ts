/** Answers with several choices, log probabilities and tool calls: collected, kept, and replayed in both forms. */
import { describe, expect, it } from "vitest";
import type { ChatCompletion, ChatCompletionChunk, Completion } from "../../../shared/completion-response.ts";
import { ask, chat, createStack, errorOf, type Stack } from "../stack.ts";

const say = (index: number, content: string, extra: object = {}) => ({
  index,
  delta: { content },
  finish_reason: null,
  logprobs: null,
  ...extra,
});
const end = (index: number, reason = "stop") => ({ index, delta: {}, finish_reason: reason, logprobs: null });

const piece = (text: string, offset: number) => ({
  index: 0,
  text,
  finish_reason: null,
  logprobs: {
    tokens: [text],
    token_logprobs: [-1],
    top_logprobs: [{ [text]: -1, other: -2 }],
    text_offset: [offset],
  },
});

const call = (index: number, part: object, extra: object = {}) =>
  say(0, "", { delta: { tool_calls: [{ index, ...extra, function: part }] } });

const schema = (properties: object) => ({
  response_format: { type: "json_schema", json_schema: { name: "s", schema: { type: "object", properties } } },
});

const f = (properties: object) => ({
  tools: [{ type: "function", function: { name: "f", parameters: { type: "object", properties } } }],
});

const token = (text: string, logprob: number) => ({
  token: text,
  logprob,
  bytes: [...new TextEncoder().encode(text)],
  top_logprobs: [{ token: text, logprob, bytes: [...new TextEncoder().encode(text)] }],
});
const logprobs = (...content: ReturnType<typeof token>[]) => ({ content, refusal: null });

const answers = (...texts: string[]) =>
  texts.map((text, index) => [{ index, text, finish_reason: "stop", logprobs: null }]);

async function chunksOf<Chunk>(response: Response): Promise<Chunk[]> {
  const data = (await response.text()).split("\n").filter((line) => line.startsWith("data: "));
  expect(data.pop()).toBe("data: [DONE]");
  return data.map((line) => JSON.parse(line.slice("data: ".length)) as Chunk);
}

const USAGE = { stream: true, stream_options: { include_usage: true } };

/** One choice of a streamed chat, put together as a client does it. */
function assemble(chunks: readonly ChatCompletionChunk[], index: number) {
  const own = chunks.flatMap(({ choices }) => choices.filter((choice) => choice.index === index));
  return {
    content: own.map(({ delta }) => delta.content ?? "").join(""),
    calls: own.flatMap(({ delta }) => delta.tool_calls ?? []),
    logprobs: own.flatMap((choice) => choice.logprobs?.content ?? []),
    reasons: own.map((choice) => choice.finish_reason).filter((reason) => reason !== null),
  };
}

/** Asks for the same twice, streamed and whole, whichever was cold; the origin is asked once. */
async function bothForms(stack: Stack, fields: object) {
  const cold = await ask(stack, chat("x", { ...fields, ...USAGE }));
  expect(cold.headers.get("x-cache")).toBe("MISS");
  const live = await chunksOf<ChatCompletionChunk>(cold);
  const replay = await ask(stack, chat("x", { ...fields, ...USAGE }));
  expect(replay.headers.get("x-cache")).toBe("HIT");
  const replayed = await chunksOf<ChatCompletionChunk>(replay);
  const whole = await (await ask(stack, chat("x", { ...fields }))).json<ChatCompletion>();
  expect(stack.origin.asked).toHaveLength(1);
  return { live, replayed, whole };
}

describe("an answer with several choices", () => {
  const events = [
    [say(0, "one ")],
    [say(1, "\u{1F642} two")],
    [say(0, "more"), say(1, "!")],
    [end(1, "length")],
    [end(0)],
  ];

  it("is one entry that serves both forms, each choice with its own text and reason", async () => {
    const stack = createStack();
    stack.origin.script.events = events;
    const { live, replayed, whole } = await bothForms(stack, { n: 2 });
    expect(whole.choices.map(({ index, message, finish_reason: reason }) => [index, message.content, reason])).toEqual([
      [0, "one more", "stop"],
      [1, "\u{1F642} two!", "length"],
    ]);
    for (const index of [0, 1]) expect(assemble(replayed, index)).toEqual(assemble(live, index));
    expect(replayed.at(-1)?.usage).toEqual(whole.usage);
    expect(new Set([...live, ...replayed].map(({ id }) => id))).toEqual(new Set([whole.id]));
  });

  it.each([
    ["whose second choice never ends", [[say(0, "a")], [end(0)], [say(1, "b")]]],
    ["whose second choice never comes", [[say(0, "a")], [end(0)]]],
    ["with a choice that nobody asked for", [[say(0, "a"), say(2, "c")], [end(0)], [end(1)], [end(2)]]],
  ])("%s is broken, and not kept", async (_, broken) => {
    const stack = createStack();
    stack.origin.script.events = broken;
    const failed = await ask(stack, chat("x", { n: 2 }));
    expect([failed.status, (await errorOf(failed)).code]).toEqual([502, "origin_failed"]);
    stack.origin.script.events = events;
    expect((await ask(stack, chat("x", { n: 2 }))).headers.get("x-cache")).toBe("MISS");
  });

  it("reserves the tokens of every choice", async () => {
    const plans = { wide: { requestsPerMinute: 100, tokensPerMinute: 100_000, streamsMax: 10 } };
    const leftAfter = async (n: number) => {
      const stack = createStack({ bindings: { COLDPATH_PLANS: JSON.stringify(plans) } });
      stack.origin.script.events = Array.from({ length: n }, (_, index) => [end(index)]);
      const answered = await ask(stack, chat("x", { n, max_tokens: 100 }), { claims: { plan: "wide" } });
      return Number(/"tokens";r=(\d+)/.exec(answered.headers.get("ratelimit") ?? "")?.[1]);
    };
    const one = await leftAfter(1);
    expect(one).toBeLessThan(100_000);
    // A moment's refill may have come between.
    expect(Math.abs(one - (await leftAfter(4)) - 300)).toBeLessThan(50);
  });
});

describe("several prompts", () => {
  const path = "/v1/completions";

  it("are one question with an answer to each, whose order is part of it", async () => {
    const stack = createStack();
    stack.origin.script.events = answers("A", "B");
    const body = { model: "tiny", prompt: ["a", "b"] };
    const whole = await (await ask(stack, body, { path })).json<Completion>();
    expect(whole.choices.map(({ index, text }) => [index, text])).toEqual([
      [0, "A"],
      [1, "B"],
    ]);
    expect((await ask(stack, body, { path })).headers.get("x-cache")).toBe("HIT");
    const turned = await ask(stack, { ...body, prompt: ["b", "a"] }, { path });
    expect(turned.headers.get("x-cache")).toBe("MISS");
    const ids = await ask(stack, { ...body, prompt: [[97], [98]] }, { path });
    expect(ids.headers.get("x-cache")).toBe("MISS");
  });

  it("that are one are that one", async () => {
    const stack = createStack();
    stack.origin.script.events = answers("A");
    for (const [prompt, again] of [
      ["a", ["a"]],
      [[97], [[97]]],
    ]) {
      expect((await ask(stack, { model: "tiny", prompt }, { path })).headers.get("x-cache")).toBe("MISS");
      expect((await ask(stack, { model: "tiny", prompt: again }, { path })).headers.get("x-cache")).toBe("HIT");
    }
    expect(stack.origin.asked.map(({ body }) => body["prompt"])).toEqual(["a", [97]]);
  });

  it("reserve the tokens of every answer", async () => {
    const plans = { wide: { requestsPerMinute: 100, tokensPerMinute: 100_000, streamsMax: 10 } };
    const leftAfter = async (prompt: readonly string[], n: number) => {
      const stack = createStack({ bindings: { COLDPATH_PLANS: JSON.stringify(plans) } });
      stack.origin.script.events = answers(...Array<string>(prompt.length * n).fill("x"));
      const body = { model: "tiny", prompt, n, max_tokens: 100 };
      const answered = await ask(stack, body, { path, claims: { plan: "wide" } });
      expect(answered.status).toBe(200);
      return Number(/"tokens";r=(\d+)/.exec(answered.headers.get("ratelimit") ?? "")?.[1]);
    };
    const one = await leftAfter(["a"], 1);
    expect(Math.abs(one - (await leftAfter(["a", "b", "c"], 2)) - 500)).toBeLessThan(50);
  });
});

describe("log probabilities", () => {
  it("are joined, kept and replayed with the text, in the chat's form", async () => {
    const stack = createStack();
    stack.origin.script.events = [
      [say(0, "a", { logprobs: logprobs(token("a", -0.1)) })],
      [say(0, "bc", { logprobs: logprobs(token("b", -0.2), token("c", -9999)) })],
      [end(0)],
    ];
    const { live, replayed, whole } = await bothForms(stack, { logprobs: true, top_logprobs: 1 });
    expect(whole.choices[0]?.logprobs).toEqual(logprobs(token("a", -0.1), token("b", -0.2), token("c", -9999)));
    expect(assemble(replayed, 0)).toEqual(assemble(live, 0));
    expect(assemble(replayed, 0).logprobs).toEqual(whole.choices[0]?.logprobs?.content);
  });

  it("are kept in the older form too", async () => {
    const stack = createStack();
    stack.origin.script.events = [
      [piece("a", 0)],
      [piece("__proto__", 1)],
      [{ index: 0, text: "", finish_reason: "stop", logprobs: null }],
    ];
    const body = { model: "tiny", prompt: "x", logprobs: 1 };
    const cold = await (await ask(stack, body, { path: "/v1/completions" })).json<Completion>();
    expect(cold.choices[0]?.logprobs).toMatchObject({
      tokens: ["a", "__proto__"],
      token_logprobs: [-1, -1],
      text_offset: [0, 1],
    });
    const hit = await ask(stack, body, { path: "/v1/completions" });
    expect(hit.headers.get("x-cache")).toBe("HIT");
    expect(await hit.json()).toEqual(cold);
  });

  it("count in an answer's size: what is too large to collect is broken off", async () => {
    const stack = createStack({ bindings: { COLDPATH_ANSWER_BYTES_MAX: "2000" } });
    stack.origin.script.events = [
      ...Array.from({ length: 20 }, () => [say(0, "a", { logprobs: logprobs(token("a", -0.1)) })]),
      [end(0)],
    ];
    expect((await ask(stack, chat("x", { logprobs: true }))).status).toBe(502);
  });
});

describe("tool calls", () => {
  const tools = [{ type: "function", function: { name: "f" } }];

  it("are put together from their pieces, kept, and replayed whole", async () => {
    const stack = createStack();
    stack.origin.script.events = [
      [call(0, { name: "f", arguments: "" }, { id: "call_1", type: "function" })],
      [call(0, { arguments: '{"city": "\u5317' })],
      [call(0, { arguments: '\u4eac"}' })],
      [call(1, { name: "g", arguments: "{}" }, { id: "call_2", type: "function" })],
      [end(0, "tool_calls")],
    ];
    const { replayed, whole } = await bothForms(stack, { tools });
    const calls = [
      { id: "call_1", type: "function", function: { name: "f", arguments: '{"city": "\u5317\u4eac"}' } },
      { id: "call_2", type: "function", function: { name: "g", arguments: "{}" } },
    ];
    expect(whole.choices[0]).toMatchObject({
      message: { role: "assistant", content: null, tool_calls: calls },
      finish_reason: "tool_calls",
    });
    expect(assemble(replayed, 0)).toMatchObject({
      content: "",
      calls: calls.map(({ id, type, function: called }, index) => ({ index, id, type, function: called })),
      reasons: ["tool_calls"],
    });
  });

  it("come after what was said with them", async () => {
    const stack = createStack();
    stack.origin.script.events = [
      [say(0, "Let me look.")],
      [call(0, { name: "f", arguments: "{}" }, { id: "call_1", type: "function" })],
      [end(0, "tool_calls")],
    ];
    const { replayed, whole } = await bothForms(stack, { tools });
    expect(whole.choices[0]?.message.content).toBe("Let me look.");
    expect(assemble(replayed, 0).content).toBe("Let me look.");
  });
});

describe("the cache tells apart", () => {
  it.each([
    ["n", { n: 1 }, { n: 2 }],
    ["seed", { seed: 1 }, { seed: 2 }],
    ["min_p", { min_p: 0.1 }, { min_p: 0.2 }],
    ["repetition_penalty", { repetition_penalty: 1.1 }, {}],
    ["min_tokens", { min_tokens: 2 }, {}],
    ["ignore_eos", { ignore_eos: true }, {}],
    ["logprobs", { logprobs: true }, {}],
    ["top_logprobs", { logprobs: true, top_logprobs: 1 }, { logprobs: true, top_logprobs: 2 }],
    ["logit_bias", { logit_bias: { "5": 1 } }, { logit_bias: { "5": 2 } }],
    ["stop", { stop: "a" }, { stop: ["b"] }],
    ["response_format", schema({ a: {} }), { response_format: { type: "json_object" } }],
    ["the order of a schema's fields", schema({ a: {}, b: {} }), schema({ b: {}, a: {} })],
    ["tools", f({ a: {} }), f({ b: {} })],
    ["the order of a tool's parameters", f({ a: {}, b: {} }), f({ b: {}, a: {} })],
    ["tool_choice", { ...f({}), tool_choice: "auto" }, { ...f({}), tool_choice: "required" }],
    ["parallel_tool_calls", { ...f({}), parallel_tool_calls: true }, { ...f({}), parallel_tool_calls: false }],
  ])("%s", async (_, one, other) => {
    const stack = createStack();
    for (const fields of [one, other]) {
      const n = (fields as { n?: number }).n ?? 1;
      stack.origin.script.events = Array.from({ length: n }, (__, index) => [end(index)]);
      const cold = await ask(stack, chat("x", fields));
      expect([cold.status, cold.headers.get("x-cache")]).toEqual([200, "MISS"]);
      await cold.text();
      expect((await ask(stack, chat("x", { ...fields, user: "u", stream: false }))).headers.get("x-cache")).toBe("HIT");
    }
  });

  it("and hands schemas to the origin as they came, order and all", async () => {
    const stack = createStack();
    const fields = { ...f({ zebra: {}, apple: {} }), tool_choice: "none", ...schema({ b: {}, a: {} }) };
    await (await ask(stack, chat("x", fields))).text();
    const body = stack.origin.asked[0]?.body ?? {};
    expect(JSON.stringify([body["tools"], body["response_format"]])).toBe(
      JSON.stringify([fields.tools, fields.response_format]),
    );
  });
});
