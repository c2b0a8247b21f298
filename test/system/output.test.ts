/** What clients can ask of an answer, through the whole stack with the real model, by OpenAI's own client. */
import OpenAI from "openai";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../infra/launch/stack.ts";
import { DEFAULT_MODEL } from "../setup/default-model.ts";
import { startPrivateStack } from "../setup/private-stack.ts";

let stack: Stack;
let client: OpenAI;

beforeAll(async () => {
  stack = await startPrivateStack();
  const apiKey = await stack.token({ sub: "alice", tenant: "acme", plan: "bench" });
  client = new OpenAI({ baseURL: `${stack.edgeUrl}/v1`, apiKey, maxRetries: 0 });
});
afterAll(() => stack.stop());

const ask = { model: DEFAULT_MODEL, max_completion_tokens: 120, seed: 7 };
const messages = [{ role: "user", content: "Tell me about a famous scientist." }] as const;

test("an answer with a schema is parsed by OpenAI's helper, streamed and not, cold and from the cache", async () => {
  const schema = {
    type: "object",
    properties: {
      name: { type: "string", maxLength: 40 },
      field: { enum: ["physics", "biology", "other"] },
      born: { type: "integer", minimum: 1500, maximum: 2000 },
    },
    required: ["name", "field", "born"],
    additionalProperties: false,
  };
  const response_format = { type: "json_schema", json_schema: { name: "scientist", schema, strict: true } } as const;
  const body = { ...ask, messages: [...messages], response_format };
  const { data, response } = await client.chat.completions.create(body).withResponse();
  expect(response.headers.get("x-cache")).toBe("MISS");
  const [choice] = data.choices;
  expect(choice?.finish_reason).toBe("stop");
  const scientist = JSON.parse(choice?.message.content ?? "") as Record<string, unknown>;
  expect(Object.keys(scientist)).toEqual(["name", "field", "born"]);
  expect(["physics", "biology", "other"]).toContain(scientist["field"]);

  const replayed = await client.chat.completions.stream(body).finalChatCompletion();
  expect(replayed.choices[0]?.message.content).toBe(choice?.message.content);
  expect(replayed.id).toBe(data.id);
});

test("several choices and log probabilities stream, count and come back from the cache", async () => {
  const body = { ...ask, messages: [...messages], max_completion_tokens: 12, n: 3, logprobs: true, top_logprobs: 2 };
  const streamed = await client.chat.completions
    .stream({ ...body, stream_options: { include_usage: true } })
    .finalChatCompletion();
  const { data, response } = await client.chat.completions.create(body).withResponse();
  expect(response.headers.get("x-cache")).toBe("HIT");
  expect(new Set(data.choices.map(({ message }) => message.content)).size).toBe(3);
  expect(data.usage?.completion_tokens).toBe(36);
  for (const [index, choice] of data.choices.entries()) {
    const tokens = choice.logprobs?.content ?? [];
    expect(tokens).toHaveLength(12);
    expect(tokens.map(({ token }) => token).join("")).toBe(choice.message.content);
    expect(tokens.every(({ logprob, top_logprobs: top }) => logprob <= 0 && top.length === 2)).toBe(true);
    expect(streamed.choices[index]?.logprobs?.content).toEqual(tokens);
    expect(streamed.choices[index]?.message.content).toBe(choice.message.content);
  }
});

test("the older form has its log probabilities and its echo", async () => {
  const { choices } = await client.completions.create({
    model: DEFAULT_MODEL,
    prompt: "1, 2, 3,",
    max_tokens: 5,
    logprobs: 3,
    temperature: 0,
  });
  const { tokens = [], text_offset: offsets = [] } = choices[0]?.logprobs ?? {};
  expect(tokens.join("")).toBe(choices[0]?.text);
  expect(offsets).toEqual(tokens.map((_, i) => tokens.slice(0, i).join("").length));
  const echoed = await client.completions.create({
    model: DEFAULT_MODEL,
    prompt: "1, 2, 3,",
    max_tokens: 5,
    echo: true,
    temperature: 0,
  });
  expect(echoed.choices[0]?.text).toBe(`1, 2, 3,${choices[0]?.text}`);
});

test("several prompts have an answer each, the one that each would have alone", async () => {
  const asked = { model: DEFAULT_MODEL, max_tokens: 6, temperature: 0 };
  const prompt = ["1, 2, 3,", "The capital of France is"];
  const together = await client.completions.create({ ...asked, prompt });
  for (const [i, alone] of prompt.entries()) {
    const { choices } = await client.completions.create({ ...asked, prompt: alone });
    expect(together.choices[i]?.text).toBe(choices[0]?.text);
  }
});

test("tools are refused by a model whose template does not carry them, and so is a hostile schema, by name", async () => {
  const tools = [
    { type: "function", function: { name: "f", parameters: { type: "object", properties: {} } } },
  ] as const;
  const refused = client.chat.completions.create({ ...ask, messages: [...messages], tools: [...tools] });
  await expect(refused).rejects.toMatchObject({ status: 400, code: "unsupported_parameter", param: "tools" });
  const schema = { type: "string", pattern: "(?=x)" };
  const hostile = client.chat.completions.create({
    ...ask,
    messages: [...messages],
    response_format: { type: "json_schema", json_schema: { name: "s", schema } },
  });
  await expect(hostile).rejects.toMatchObject({ status: 400, code: "invalid_request" });
});
