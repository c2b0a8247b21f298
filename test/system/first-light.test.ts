/** The whole stack as `npm start` runs it (real Redis, real model, the edge in workerd) and clients as users have them. */
import OpenAI from "openai";
import { createClient, RESP_TYPES } from "redis";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Stack } from "../../infra/launch/stack.ts";
import type { ChatCompletion } from "../../shared/completion-response.ts";
import { DEFAULT_MODEL } from "../setup/default-model.ts";
import { startPrivateStack } from "../setup/private-stack.ts";

let stack: Stack;
let acme: string;
let other: string;

beforeAll(async () => {
  stack = await startPrivateStack();
  acme = await stack.token({ sub: "alice", tenant: "acme", plan: "bench" });
  other = await stack.token({ sub: "mallory", tenant: "other", plan: "bench" });
});
afterAll(() => stack.stop());

function ask(token: string, body: unknown, path = "/v1/chat/completions"): Promise<Response> {
  return fetch(stack.edgeUrl + path, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token}` },
    body: JSON.stringify(body),
  });
}

function chat(content: string, more: object = {}): object {
  return { model: DEFAULT_MODEL, messages: [{ role: "user", content }], max_tokens: 24, temperature: 0, ...more };
}

/** The sum of a counter over all its labels, from the origin's own /metrics. */
async function originCounter(name: string): Promise<number> {
  const text = await (await fetch(`${stack.originUrl}/metrics`)).text();
  const lines = text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
  expect(lines.length, `the origin has no metric ${name}`).toBeGreaterThan(0);
  return lines.reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
}

interface Streamed {
  readonly cache: string | null;
  readonly id: string;
  readonly text: string;
  /** Chunks that carried text. */
  readonly pieces: number;
  readonly done: boolean;
}

async function askStreaming(token: string, body: object): Promise<Streamed> {
  const response = await ask(token, { ...body, stream: true });
  // A comment keeps a stream alive while it waits for its row.
  const events = (await response.text()).split("\n\n").filter((event) => event !== "" && !event.startsWith(":"));
  const data = events.map((event) => event.replace(/^(?:id: .+\n)?data: /, ""));
  const chunks = data.filter((text) => text !== "[DONE]").map((text) => JSON.parse(text));
  const pieces = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").filter((piece) => piece !== "");
  return {
    cache: response.headers.get("x-cache"),
    id: chunks[0].id,
    text: pieces.join(""),
    pieces: pieces.length,
    done: data.at(-1) === "[DONE]",
  };
}

test("a cold prompt is a MISS that streams token by token; the same again is a HIT that never reaches the origin", async () => {
  const prompt = chat("Name three colours.");
  const cold = await askStreaming(acme, prompt);
  expect(cold).toMatchObject({ cache: "MISS", done: true });
  expect(cold.pieces).toBeGreaterThan(5);

  const generated = await originCounter("coldpath_origin_generation_tokens_total");
  expect(generated).toBeGreaterThan(0);
  expect(await originCounter("coldpath_origin_request_queue_time_seconds_count")).toBeGreaterThan(0);
  expect(await originCounter("coldpath_origin_step_time_seconds_count")).toBeGreaterThanOrEqual(cold.pieces);
  const hit = await ask(acme, prompt);
  expect(hit.headers.get("x-cache")).toBe("HIT");
  expect(hit.headers.get("x-cache-tier")).toBe("regional");
  const answer = (await hit.json()) as ChatCompletion;
  expect(answer.choices[0]?.message.content).toBe(cold.text);
  expect(answer.id).toBe(cold.id);

  const replayed = await askStreaming(acme, prompt);
  expect(replayed).toMatchObject({ cache: "HIT", id: cold.id, text: cold.text, done: true });
  expect(await originCounter("coldpath_origin_generation_tokens_total")).toBe(generated);
});

test("a JSON answer is replayed byte for byte", async () => {
  const prompt = chat("What is a lighthouse?");
  const cold = await ask(acme, prompt);
  expect(cold.headers.get("x-cache")).toBe("MISS");
  const body = await cold.text();
  const hit = await ask(acme, prompt);
  expect(hit.headers.get("x-cache")).toBe("HIT");
  expect(await hit.text()).toBe(body);
});

test("another tenant's identical prompt is a MISS", async () => {
  const prompt = chat("Where is the treasure?");
  expect((await ask(acme, prompt)).headers.get("x-cache")).toBe("MISS");
  expect((await ask(acme, prompt)).headers.get("x-cache")).toBe("HIT");
  expect((await ask(other, prompt)).headers.get("x-cache")).toBe("MISS");
});

test("the simple form and the text form answer", async () => {
  const simple = await ask(acme, { prompt: "Say hello.", max_tokens: 8 }, "/generate");
  expect(((await simple.json()) as { response: string }).response.length).toBeGreaterThan(0);
  const text = await ask(acme, { model: DEFAULT_MODEL, prompt: "Once upon a time", max_tokens: 8 }, "/v1/completions");
  const body = (await text.json()) as {
    choices: [{ text: string; finish_reason: string }];
    usage: { completion_tokens: number };
  };
  expect(body.choices[0].text.length).toBeGreaterThan(0);
  expect(body.usage.completion_tokens).toBeLessThanOrEqual(8);
});

test("over the plan's limit comes 429 with retry-after, and a hit counts as a request too", async () => {
  const token = await stack.token({ sub: "eager", tenant: "acme", plan: "default" });
  const prompt = chat("Name three colours.");
  const answers = await Promise.all(Array.from({ length: 70 }, () => ask(token, prompt)));
  const refused = answers.filter((answer) => answer.status === 429);
  expect(refused.length).toBeGreaterThanOrEqual(8);
  expect(answers.length - refused.length).toBeGreaterThanOrEqual(60);
  expect(Number(refused[0]?.headers.get("retry-after"))).toBeGreaterThanOrEqual(1);
  expect(await refused[0]?.json()).toMatchObject({
    error: { type: "rate_limit_error", code: "request_limit_exceeded" },
  });
});

test("the official openai client works unmodified, streaming and not", async () => {
  const client = new OpenAI({ baseURL: `${stack.edgeUrl}/v1`, apiKey: acme, maxRetries: 0 });
  const messages = [{ role: "user" as const, content: "What do bees make?" }];

  const models = await client.models.list();
  expect(models.data.map((model) => model.id)).toContain(DEFAULT_MODEL);

  const stream = client.chat.completions.stream({
    model: DEFAULT_MODEL,
    messages,
    max_completion_tokens: 16,
    stream_options: { include_usage: true },
  });
  const streamed = await stream.finalChatCompletion();
  expect(streamed.usage?.completion_tokens).toBeGreaterThan(0);

  const plain = await client.chat.completions.create({ model: DEFAULT_MODEL, messages, max_completion_tokens: 16 });
  expect(plain.choices[0]?.message.content).toBe(streamed.choices[0]?.message.content);
  expect(plain.id).toBe(streamed.id);

  await expect(client.chat.completions.create({ model: "gpt-99", messages })).rejects.toMatchObject({
    status: 404,
    code: "model_not_found",
  });
  await expect(
    client.chat.completions.create({ model: DEFAULT_MODEL, messages, max_tokens: 1e6 }),
  ).rejects.toMatchObject({
    status: 400,
    code: "context_length_exceeded",
  });
});

test("a client that goes away frees its row at the origin", async () => {
  const leaving = new AbortController();
  const response = await fetch(`${stack.edgeUrl}/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${acme}` },
    body: JSON.stringify(
      chat("Write a very long story.", { max_tokens: 1500, stream: true, logit_bias: { 2: -100, 0: -100 } }),
    ),
    signal: leaving.signal,
  });
  const reader = response.body?.getReader();
  await reader?.read();
  expect(await originCounter("coldpath_origin_num_requests_running")).toBe(1);
  leaving.abort();
  await expect.poll(() => originCounter("coldpath_origin_num_requests_running"), { timeout: 5_000 }).toBe(0);
});

test("sixteen clients at once all get their own answer", async () => {
  const prompts = Array.from({ length: 16 }, (_, index) => chat(`Count to ${index + 1}.`));
  const together = await Promise.all(prompts.map((prompt) => askStreaming(acme, prompt)));
  for (const answer of together) expect(answer).toMatchObject({ cache: "MISS", done: true });
  expect(new Set(together.map((answer) => answer.id)).size).toBe(16);
  const again = await Promise.all(prompts.map((prompt) => askStreaming(acme, prompt)));
  expect(again.map(({ text }) => text)).toEqual(together.map(({ text }) => text));
});

test("what is stored in Redis holds no conversation in the clear", async () => {
  const secret = "xylophone-quartz";
  const answer = (await (await ask(acme, chat(`Repeat: ${secret}`))).json()) as ChatCompletion;
  const redis = createClient({ url: stack.redisUrl ?? "" });
  await redis.connect();
  try {
    const keys = await redis.keys("cp:*");
    expect(keys.length).toBeGreaterThan(0);
    // A compressed dump would hide words that are there.
    await redis.configSet("rdbcompression", "no");
    for (const key of keys) {
      const dumped = await redis.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }).dump(key);
      const text = dumped.toString("latin1");
      expect(text).not.toContain(secret);
      expect(text).not.toContain(answer.choices[0]?.message.content?.slice(0, 20));
    }
  } finally {
    await redis.close();
  }
});
