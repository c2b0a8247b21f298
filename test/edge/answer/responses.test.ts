/** `POST /v1/responses`: the chat's answers in the newer form, whole, live and from the cache, as OpenAI's client reads it. */
import OpenAI from "openai";
import { describe, expect, it } from "vitest";
import type { ChatCompletion } from "../../../shared/completion-response.ts";
import { ask, chat, createStack, errorOf, type Stack, STORES, token } from "../stack.ts";

const path = "/v1/responses";
const MODEL = "tiny";

const say = (content: string, extra: object = {}) => ({
  index: 0,
  delta: { content },
  finish_reason: null,
  logprobs: null,
  ...extra,
});
const end = (reason = "stop") => ({ index: 0, delta: {}, finish_reason: reason, logprobs: null });
const call = (index: number, part: object, extra: object = {}) =>
  say("", { delta: { tool_calls: [{ index, ...extra, function: part }] } });

const tools = [
  { type: "function", name: "weather", parameters: { type: "object", properties: {} }, strict: null },
] as const;

/** OpenAI's client at a stack's edge, and the last response it got. */
async function clientOf(stack: Stack) {
  const seen: { last?: Response } = {};
  const client = new OpenAI({
    baseURL: "http://edge.test/v1",
    apiKey: await token({ sub: "alice", tid: stack.tenant }),
    maxRetries: 0,
    fetch: async (url, init) => (seen.last = await stack.fetch(new Request(url, init))),
  });
  return { client, cacheOf: () => seen.last?.headers.get("x-cache") };
}

/** The events of a stream without what is different by intent: their numbers' gaps and the cuts between pieces. */
async function eventsOf(response: Response) {
  const blocks = (await response.text()).split("\n\n").filter((block) => block !== "" && !block.startsWith(":"));
  return blocks.map((block) => {
    const [, name, data] = /^event: (\S+)\ndata: ([^\n]*)$/.exec(block) ?? [];
    const event = JSON.parse(data ?? "") as { type: string; sequence_number: number } & Record<string, unknown>;
    expect(event.type).toBe(name);
    return event;
  });
}

describe.each(STORES)("with the region in %s", (store) => {
  it("is the chat's answer: one entry serves both, and every form of both", async () => {
    const stack = createStack({ store });
    stack.origin.script.events = [[say("Hel")], [say("lo")], [end()]];
    const { client, cacheOf } = await clientOf(stack);
    const cold = await client.responses.create({ model: MODEL, input: "Hi", instructions: "Be brief." });
    expect([cold.output_text, cold.status, cacheOf()]).toEqual(["Hello", "completed", "MISS"]);

    const messages = [
      { role: "system", content: "Be brief." },
      { role: "user", content: "Hi" },
    ];
    const asChat = await ask(stack, { model: MODEL, messages });
    expect(asChat.headers.get("x-cache")).toBe("HIT");
    const { id, created, usage } = await asChat.json<ChatCompletion>();
    expect(cold.id).toBe(id.replace("chatcmpl-", "resp_"));
    expect([cold.created_at, cold.usage?.input_tokens, cold.usage?.output_tokens]).toEqual([
      created,
      usage.prompt_tokens,
      usage.completion_tokens,
    ]);

    // The same conversation written as items is the same question.
    const input = [{ role: "user" as const, content: "Hi" }];
    const again = await client.responses.create({ model: MODEL, input, instructions: "Be brief.", store: false });
    expect([again, cacheOf()]).toEqual([cold, "HIT"]);
    const streamed = await client.responses.stream({ model: MODEL, input, instructions: "Be brief." }).finalResponse();
    expect([{ ...streamed, output_text: streamed.output_text }, cacheOf()]).toMatchObject([cold, "HIT"]);
    expect(stack.origin.asked).toHaveLength(1);
    expect(stack.origin.asked[0]).toMatchObject({ path: "/v1/chat/completions", body: { messages } });
  });

  it("says again what this request said, whoever asked first", async () => {
    const stack = createStack({ store });
    const { client, cacheOf } = await clientOf(stack);
    for (const metadata of [{ a: "1" }, { a: "2" }, { a: "1" }]) {
      expect((await client.responses.create({ model: MODEL, input: "Hi", metadata })).metadata).toEqual(metadata);
    }
    expect(cacheOf()).toBe("HIT");
    expect(stack.origin.asked).toHaveLength(1);
  });
});

describe("a stream", () => {
  it("has the same events live and replayed, numbered without a gap, and builds what comes whole", async () => {
    const stack = createStack();
    stack.origin.script.events = [
      [say("I look.")],
      [call(0, { name: "weather", arguments: "" }, { id: "c1", type: "function" })],
      [call(0, { arguments: '{"a"' }), call(0, { arguments: ":1}" })],
      [call(1, { name: "weather", arguments: "{}" }, { id: "c2", type: "function" })],
      [end("tool_calls")],
    ];
    const body = { model: MODEL, input: "Weather?", tools, stream: true };
    const live = await eventsOf(await ask(stack, body, { path }));
    const replay = await ask(stack, body, { path });
    expect([replay.headers.get("x-cache"), replay.headers.get("content-type")]).toEqual([
      "HIT",
      "text/event-stream; charset=utf-8",
    ]);
    const replayed = await eventsOf(replay);
    const whole = await (await ask(stack, { ...body, stream: false }, { path })).json<{ output: object[] }>();
    for (const events of [live, replayed]) {
      expect(events.map(({ sequence_number: number }) => number)).toEqual(events.map((_, i) => i));
      expect(events.map(({ type }) => type.replace(/^response\./, ""))).toEqual([
        ..."created in_progress output_item.added content_part.added output_text.delta".split(" "),
        ..."output_text.done content_part.done output_item.done".split(" "),
        "output_item.added",
        ...events
          .filter(({ type, output_index: at }) => type.endsWith("arguments.delta") && at === 1)
          .map(() => "function_call_arguments.delta"),
        ..."function_call_arguments.done output_item.done".split(" "),
        ..."output_item.added function_call_arguments.delta function_call_arguments.done output_item.done".split(" "),
        "completed",
      ]);
      expect(events.at(-1)?.["response"]).toEqual(whole);
    }
    expect(whole.output).toMatchObject([
      { type: "message", content: [{ type: "output_text", text: "I look." }] },
      { type: "function_call", call_id: "c1", name: "weather", arguments: '{"a":1}' },
      { type: "function_call", call_id: "c2", name: "weather", arguments: "{}" },
    ]);
  });

  it("is read by OpenAI's client, log probabilities and all", async () => {
    const stack = createStack();
    const logprob = { token: "a", logprob: -0.5, bytes: [97], top_logprobs: [] };
    stack.origin.script.events = [
      [say("a", { logprobs: { content: [logprob], refusal: null } })],
      [say("b")],
      [end("length")],
    ];
    const { client } = await clientOf(stack);
    const asked = {
      model: MODEL,
      input: "Hi",
      include: ["message.output_text.logprobs" as const],
      max_output_tokens: 2,
    };
    const pieces: string[] = [];
    const stream = await client.responses.create({ ...asked, stream: true });
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") pieces.push(event.delta);
      if (event.type !== "response.incomplete") continue;
      expect(event.response.incomplete_details).toEqual({ reason: "max_output_tokens" });
      expect(event.response.output).toMatchObject([
        { type: "message", status: "incomplete", content: [{ text: "ab", logprobs: [logprob] }] },
      ]);
    }
    expect(pieces).toEqual(["a", "b"]);
    expect(await client.responses.create(asked)).toMatchObject({ status: "incomplete", max_output_tokens: 2 });
  });

  it("that breaks ends with an error that the client throws, and is not kept", async () => {
    const stack = createStack();
    stack.origin.script.breaks = { how: "cut", after: 2 };
    const { client, cacheOf } = await clientOf(stack);
    const reading = (async () => {
      for await (const event of await client.responses.create({ model: MODEL, input: "Hi", stream: true })) {
        expect(event.type).not.toBe("response.completed");
      }
    })();
    await expect(reading).rejects.toMatchObject({ code: "origin_failed" });
    stack.origin.script.breaks = undefined;
    stack.origin.script.events = [[say("whole")], [end()]];
    const { output_text: text } = await client.responses.create({ model: MODEL, input: "Hi" });
    expect([text, cacheOf()]).toEqual(["whole", "MISS"]);
  });
});

it("an answer of no words is a message of none", async () => {
  const stack = createStack();
  stack.origin.script.events = [[end()]];
  const { client } = await clientOf(stack);
  for (const _ of ["cold", "from memory"]) {
    const { output } = await client.responses.create({ model: MODEL, input: "Hi" });
    expect(output).toMatchObject([{ type: "message", content: [{ type: "output_text", text: "" }] }]);
  }
});

it("what it can't do is refused before anybody is asked, in this form's words", async () => {
  const stack = createStack();
  const refused = await ask(stack, { model: MODEL, input: "Hi", previous_response_id: "resp_1" }, { path });
  expect([refused.status, (await errorOf(refused)).param]).toEqual([400, "previous_response_id"]);
  const tooLong = await ask(stack, { model: MODEL, input: "Hi", max_output_tokens: 1_000_000 }, { path });
  expect(await errorOf(tooLong)).toMatchObject({ code: "context_length_exceeded" });
  expect(stack.origin.asked).toEqual([]);
  // It is no back door to another tenant's answers, nor around the cache's rules.
  await ask(stack, chat("Hi"));
  const other = await ask(stack, { model: MODEL, input: "Hi" }, { path, claims: { tid: "another" } });
  expect(other.headers.get("x-cache")).toBe("MISS");
  const fresh = await ask(stack, { model: MODEL, input: "Hi" }, { path, headers: { "cache-control": "no-cache" } });
  expect(fresh.headers.get("x-cache")).toBe("BYPASS");
});
