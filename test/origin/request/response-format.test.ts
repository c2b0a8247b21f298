/** Structured output through the front door: a real engine thread with a fake runtime, and the real grammar engine. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Admission } from "../../../origin/request/admit.ts";
import type { EngineClient, GenerationEvent } from "../../../origin/engine/client.ts";
import type { ChatCompletion } from "../../../shared/completion-response.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { GREEDY } from "../../fakes/greedy.ts";
import { BYTE_MODEL, createGrammars, createOrigin } from "../../fakes/origin.ts";

let engine: EngineClient;
const grammars = createGrammars();
beforeAll(async () => {
  engine = await startFakeEngine();
});
afterAll(async () => {
  await Promise.all([engine.stop(), grammars.stop()]);
});

const CHAT = { model: "bytes", messages: [{ role: "user", content: "Hello" }], max_tokens: 300, temperature: 1 };
const form = (schema: unknown, strict?: boolean) => ({
  response_format: {
    type: "json_schema",
    json_schema: { name: "s", schema, ...(strict === undefined ? {} : { strict }) },
  },
});
const PERSON = {
  type: "object",
  properties: { name: { type: "string", pattern: "^[a-z]{2,5}$" }, old: { type: "boolean" } },
  required: ["name", "old"],
  additionalProperties: false,
};

async function post(fields: object, options: Partial<Parameters<typeof createOrigin>[0]> = {}): Promise<Response> {
  const { ask } = await createOrigin({ engine, grammars, ...options });
  return ask("/v1/chat/completions", { ...CHAT, ...fields });
}

async function askFor(fields: object): Promise<ChatCompletion> {
  const response = await post(fields);
  expect(response.status).toBe(200);
  return (await response.json()) as ChatCompletion;
}

async function refusal(fields: object, options = {}) {
  const response = await post(fields, options);
  const { error } = (await response.json()) as { error: { code: string; param: string | null; message: string } };
  return { status: response.status, ...error };
}

describe("an answer with a schema", () => {
  test("is what the schema says, from a model that knows nothing of it, in every choice", async () => {
    const { choices } = await askFor({ ...form(PERSON, true), n: 4, seed: 3 });
    const people = choices.map(({ message, finish_reason: reason }) => {
      expect(reason).toBe("stop");
      return JSON.parse(message.content ?? "") as Record<string, unknown>;
    });
    for (const person of people) {
      expect(Object.keys(person)).toEqual(["name", "old"]);
      expect(person).toMatchObject({ name: expect.stringMatching(/^[a-z]{2,5}$/), old: expect.any(Boolean) });
    }
    expect(new Set(people.map((person) => person["name"])).size).toBeGreaterThan(1);
  });

  test("names its fields in the schema's order", async () => {
    const properties = { zebra: { const: 1 }, apple: { const: 2 }, mole: { const: 3 } };
    const schema = { type: "object", properties, required: Object.keys(properties), additionalProperties: false };
    const { choices } = await askFor(form(schema));
    expect(choices[0]?.message.content).toBe('{"zebra": 1, "apple": 2, "mole": 3}');
  });

  test("is the same beside other requests, with a form and without", async () => {
    const body = { ...form(PERSON), seed: 9 };
    const alone = await askFor(body);
    const crowd = await Promise.all([
      askFor(body),
      askFor({ seed: 1 }),
      askFor({ ...form({ enum: [1, 2] }), seed: 2 }),
    ]);
    expect(crowd[0]?.choices).toEqual(alone.choices);
  });

  test("ends in the middle, and says length, where max_tokens ends it", async () => {
    const { choices } = await askFor({ ...form(PERSON), max_tokens: 5 });
    expect(choices[0]).toMatchObject({ finish_reason: "length", message: { content: '{"nam' } });
  });

  test("keeps to it with greedy choice, bias, top-k and log probabilities too", async () => {
    const { choices } = await askFor({
      ...form({ enum: ["yes", "no"] }),
      temperature: 0,
      top_k: 1,
      logit_bias: { "120": 100 },
      logprobs: true,
      top_logprobs: 3,
    });
    expect(['"yes"', '"no"']).toContain(choices[0]?.message.content);
    const content = choices[0]?.logprobs?.content ?? [];
    expect(content.map(({ token }) => token).join("")).toBe(choices[0]?.message.content);
    // The model's own opinion, which knows no schema: other tokens than the allowed are likelier.
    expect(content.some(({ token, top_logprobs: top }) => top.every((each) => each.token !== token))).toBe(true);
  });
});

test("json_object gives an object, whatever is in it", async () => {
  for (const seed of [1, 2, 3]) {
    const { choices } = await askFor({
      response_format: { type: "json_object" },
      seed,
      logit_bias: { "125": 9, "34": 6 },
    });
    const [{ message, finish_reason: reason } = { message: { content: "" }, finish_reason: null }] = choices;
    expect(message.content?.startsWith("{")).toBe(true);
    if (reason === "stop") expect(JSON.parse(message.content ?? "")).toBeTypeOf("object");
  }
});

test("a text format is no format", async () => {
  const plain = await askFor({ seed: 4, max_tokens: 10 });
  expect((await askFor({ seed: 4, max_tokens: 10, response_format: { type: "text" } })).choices).toEqual(plain.choices);
});

describe("refuses", () => {
  const param = "response_format.json_schema.schema";
  let deep: object = { type: "string" };
  for (let depth = 0; depth < 40; depth++) deep = { type: "array", items: deep };

  test.each([
    ["a keyword that would not be kept to", { type: "integer", multipleOf: 3 }, "unsupported_parameter"],
    ["one deep inside", { anyOf: [{ type: "array", items: { not: {} } }] }, "unsupported_parameter"],
    ["schemas of elsewhere", { $ref: "https://example.com/schema" }, "unsupported_parameter"],
    ["a schema that is too deep", deep, "invalid_request"],
    ["a schema that is too large", { enum: ["x".repeat(5_000)] }, "invalid_request"],
    ["a schema that is none, inside", { type: "array", items: 5 }, "invalid_request"],
  ])("%s", async (_, schema, code) => {
    expect(await refusal(form(schema))).toMatchObject({ status: 400, code, param });
  });

  test("does not take a field's name for a keyword", async () => {
    const schema = {
      type: "object",
      properties: { not: { const: 1 } },
      required: ["not"],
      additionalProperties: false,
    };
    expect((await askFor(form(schema))).choices[0]?.message.content).toBe('{"not": 1}');
  });

  test("a schema that nothing satisfies, with the reason", async () => {
    const impossible = await refusal(form({ type: "integer", minimum: 5, maximum: 1 }));
    expect(impossible).toMatchObject({ status: 400, code: "invalid_request" });
    expect(impossible.message).toContain("minimum greater than maximum");
  });

  test("with 429 when every thread keeps other answers", async () => {
    const busy = createGrammars({ threadsMax: 1, compileMs: 1_500 });
    await busy.lease({ type: "json_schema", schema: '{"const":1}', closed: true }, new AbortController().signal);
    expect(await refusal(form({ const: 2 }), { grammars: busy })).toMatchObject({ status: 429, code: "queue_full" });
    await busy.stop();
  });
});

describe("what goes wrong on the way", () => {
  test("a client that leaves while its schema compiles takes no row, and gives its place back", async () => {
    const admission = new Admission({ openMax: 1, followersMax: 1, waitMs: () => undefined });
    const slow = createGrammars();
    const submitted: unknown[] = [];
    const submit: EngineClient["submit"] = (sequence, listen) => (
      submitted.push(sequence),
      engine.submit(sequence, listen)
    );
    const { app, signed } = await createOrigin({
      engine: Object.assign(Object.create(engine) as EngineClient, { submit }),
      grammars: slow,
      admission,
    });
    const leaving = new AbortController();
    const request = await signed("/v1/chat/completions", JSON.stringify({ ...CHAT, ...form(PERSON) }));
    const asked = app.request(new Request(request, { signal: leaving.signal }));
    await expect.poll(() => admission.open).toBe(1);
    leaving.abort();
    await asked;
    expect(admission.open).toBe(0);
    expect(submitted).toEqual([]);
    await slow.stop();
  });

  test("an answer whose grammar's thread is lost ends with an error, and the others go on", async () => {
    const lost = createGrammars();
    const slow = await startFakeEngine({ runtime: { stepMs: 5 } });
    const ask = (options: object, fields: object) =>
      post({ max_tokens: 60, seed: 1, ...fields }, { engine: slow, ...options });
    const streaming = await ask({ grammars: lost }, { ...form({ type: "string", minLength: 200 }), stream: true });
    const beside = ask({}, {});
    await lost.stop();
    const text = await streaming.text();
    expect(text).toContain("event: error");
    expect(text).not.toContain("[DONE]");
    expect((await beside).status).toBe(200);
    await slow.stop();
  });

  test("a step waits for a mask no longer than it may", async () => {
    const impatient = await startFakeEngine({ maskWaitMs: 50 });
    const sequence = {
      prompt: BYTE_MODEL.tokenizer.encodePrompt("x"),
      maxTokens: 5,
      sampling: GREEDY,
      // Nobody answers on this channel.
      mask: { channel: sharedWords([1, 0, 0, -1, ...Array.from({ length: 9 }, () => 0)]), bell: sharedWords([0]) },
    };
    const { promise, resolve } = Promise.withResolvers<GenerationEvent>();
    impatient.submit(sequence, (event) => event.type !== "queued" && resolve(event));
    expect(await promise).toMatchObject({ type: "error", error: { reason: "stuck" } });
    await impatient.stop();
  });
});

function sharedWords(values: readonly number[]): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(values.length * Int32Array.BYTES_PER_ELEMENT);
  new Int32Array(memory).set(values);
  return memory;
}
