/** Several choices and their log probabilities, through the front door, on a real engine thread with a fake runtime. */
import { createParser } from "eventsource-parser";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Admission } from "../../../origin/request/admit.ts";
import type { EngineClient } from "../../../origin/engine/client.ts";
import type { ChatCompletion, ChatCompletionChunk, Completion } from "../../../shared/completion-response.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { createOrigin } from "../../fakes/origin.ts";

let engine: EngineClient;
beforeAll(async () => {
  // ASCII answers: every token is a letter, and every letter of an answer says which token it was.
  engine = await startFakeEngine({ runtime: { shunned: Array.from({ length: 130 }, (_, i) => 128 + i), stepMs: 1 } });
});
afterAll(() => engine.stop());

const CHAT = {
  model: "bytes",
  messages: [{ role: "user", content: "Hello" }],
  max_tokens: 24,
  temperature: 1,
  seed: 5,
};
const TEXT = { model: "bytes", prompt: "Hello", max_tokens: 24, temperature: 1, seed: 5 };

async function askFor<Answer>(path: string, body: object, status = 200): Promise<Answer> {
  const { ask } = await createOrigin({ engine });
  const response = await ask(path, body);
  expect(response.status).toBe(status);
  return (await response.json()) as Answer;
}

const askChat = (fields: object) => askFor<ChatCompletion>("/v1/chat/completions", { ...CHAT, ...fields });
const askText = (fields: object) => askFor<Completion>("/v1/completions", { ...TEXT, ...fields });

async function stream<Chunk>(path: string, body: object): Promise<Chunk[]> {
  const { ask } = await createOrigin({ engine });
  const response = await ask(path, { ...body, stream: true, stream_options: { include_usage: true } });
  const events: string[] = [];
  createParser({ onEvent: ({ data }) => events.push(data) }).feed(await response.text());
  expect(events.at(-1)).toBe("[DONE]");
  return events.slice(0, -1).map((data) => JSON.parse(data) as Chunk);
}

const textOf = (answer: ChatCompletion | undefined) => answer?.choices.map(({ message }) => message.content);
const utf8 = (text: string) => [...new TextEncoder().encode(text)];

describe("several choices", () => {
  test("are as many answers, numbered, all counted, the first one the only answer of a request for one", async () => {
    const one = await askChat({});
    const three = await askChat({ n: 3 });
    expect(three.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(three.choices[0]).toEqual(one.choices[0]);
    expect(new Set(textOf(three)).size).toBe(3);
    expect(three.usage.prompt_tokens).toBe(one.usage.prompt_tokens);
    expect(three.usage.completion_tokens).toBe(3 * one.usage.completion_tokens);
    expect(three.usage.total_tokens).toBe(three.usage.prompt_tokens + three.usage.completion_tokens);
  });

  test("are the same again with the same seed, beside other requests, and none is the next seed's answer", async () => {
    const alone = textOf(await askChat({ n: 3 }));
    const crowd = await Promise.all([askChat({ n: 3 }), askChat({ n: 2, seed: 6 }), askChat({ temperature: 0 })]);
    expect(textOf(crowd[0])).toEqual(alone);
    for (const text of textOf(crowd[1]) ?? []) expect(alone).not.toContain(text);
  });

  test("are all the best answer when nothing is drawn", async () => {
    expect(new Set(textOf(await askChat({ n: 3, temperature: 0 }))).size).toBe(1);
  });

  test("stream beside each other, each with its number, its role first and its reason last, and one usage", async () => {
    const whole = await askChat({ n: 3 });
    const chunks = await stream<ChatCompletionChunk>("/v1/chat/completions", { ...CHAT, n: 3 });
    const order = chunks.flatMap(({ choices }) => choices.map(({ index }) => index));
    // Not one after the other: the second speaks before the first has ended.
    const firstEnds = chunks.findIndex(({ choices: [choice] }) => choice?.index === 0 && choice.finish_reason !== null);
    expect(order.slice(3, firstEnds)).toContain(1);
    for (const index of [0, 1, 2]) {
      const own = chunks.flatMap(({ choices }) => choices.filter((choice) => choice.index === index));
      expect(own[0]?.delta).toEqual({ role: "assistant", content: "" });
      expect(own.map(({ delta }) => delta.content ?? "").join("")).toBe(whole.choices[index]?.message.content);
      expect(own.map((choice) => choice.finish_reason).filter((reason) => reason !== null)).toEqual(["length"]);
      expect(own.at(-1)?.finish_reason).toBe("length");
    }
    expect(chunks.filter(({ choices }) => choices.length === 0).map(({ usage }) => usage)).toEqual([whole.usage]);
  });

  test("each take a place at the door: more than there are is refused at once, and all are given back", async () => {
    const admission = new Admission({ openMax: 3, followersMax: 0, waitMs: () => undefined });
    const { ask } = await createOrigin({ engine, admission });
    const full = await ask("/v1/chat/completions", { ...CHAT, n: 4 });
    expect([full.status, full.headers.get("retry-after")]).toEqual([429, "1"]);
    expect((await ask("/v1/chat/completions", { ...CHAT, n: 3 })).status).toBe(200);
    expect(admission.open).toBe(0);
  });

  test("that go beyond the operator's limit are refused, whatever their prompt", async () => {
    const refused = await askFor<{ error: object }>("/v1/chat/completions", { ...CHAT, n: 100 }, 400);
    expect(refused.error).toMatchObject({
      code: "invalid_request",
      param: "n",
      message: "n: at most 4 answers at once",
    });
  });

  test("end with their stop string each for itself", async () => {
    const full = textOf(await askChat({ n: 4 })) ?? [];
    const stop = full[1]?.slice(3, 6) ?? "";
    const cut = await askChat({ n: 4, stop });
    expect(textOf(cut)).toEqual(
      full.map((text) => ((text ?? "").includes(stop) ? text?.slice(0, text.indexOf(stop)) : text)),
    );
    const reasons = full.map((text) => ((text ?? "").includes(stop) ? "stop" : "length"));
    expect(cut.choices.map((choice) => choice.finish_reason)).toEqual(reasons);
    expect(reasons).toContain("length");
  });
});

describe("several prompts", () => {
  const PROMPTS = ["Hello", "Good morning", "\u4f60\u597d"];

  test("get what each would get alone, in their order, and are counted together", async () => {
    const alone = await Promise.all(PROMPTS.map((prompt) => askText({ prompt })));
    const together = await askText({ prompt: PROMPTS });
    expect(together.choices.map(({ index }) => index)).toEqual([0, 1, 2]);
    expect(together.choices.map(({ text }) => text)).toEqual(alone.map(({ choices }) => choices[0]?.text));
    const sum = (field: "prompt_tokens" | "completion_tokens") =>
      alone.reduce((total, { usage }) => total + (usage?.[field] ?? 0), 0);
    expect(together.usage).toMatchObject({
      prompt_tokens: sum("prompt_tokens"),
      completion_tokens: sum("completion_tokens"),
    });
  });

  test("have all choices of the first before any of the second, and count each prompt once", async () => {
    const [hello, morning] = await Promise.all(PROMPTS.slice(0, 2).map((prompt) => askText({ prompt, n: 2 })));
    const together = await askText({ prompt: PROMPTS.slice(0, 2), n: 2 });
    const texts = [hello, morning].flatMap((answer) => answer?.choices.map(({ text }) => text) ?? []);
    expect(together.choices.map(({ text }) => text)).toEqual(texts);
    expect(together.usage?.prompt_tokens).toBe(
      (hello?.usage?.prompt_tokens ?? 0) + (morning?.usage?.prompt_tokens ?? 0),
    );
  });

  test("may be token ids, and are then the model's own tokens whatever they spell", async () => {
    const texts = await askText({ prompt: PROMPTS, echo: true });
    expect(await askText({ prompt: PROMPTS.map(utf8), echo: true })).toMatchObject({
      choices: texts.choices,
      usage: texts.usage,
    });
    const one = await askText({ prompt: utf8("Hello") });
    expect(one.choices[0]?.text).toBe(`${texts.choices[0]?.text}`.slice("Hello".length));
  });

  test("stream beside each other, each with its number", async () => {
    const whole = await askText({ prompt: PROMPTS, echo: true });
    const chunks = await stream<Completion>("/v1/completions", { ...TEXT, prompt: PROMPTS, echo: true });
    for (const { index, text } of whole.choices) {
      const own = chunks.flatMap(({ choices }) => choices.filter((choice) => choice.index === index));
      expect(own.map((choice) => choice.text).join("")).toBe(text);
      expect(own.map((choice) => choice.finish_reason).filter((reason) => reason !== null)).toEqual(["length"]);
    }
    const { completion_tokens: generated, prompt_tokens: read } = whole.usage ?? {};
    expect(chunks.at(-1)?.usage).toMatchObject({ completion_tokens: generated, prompt_tokens: read });
  });

  test.each<[string, object, string, string]>([
    ["more answers than the operator allows", { prompt: PROMPTS, n: 2 }, "invalid_request", "n"],
    ["more prompts than that", { prompt: ["a", "b", "c", "d", "e"] }, "invalid_request", "prompt"],
    ["an id that is no token", { prompt: [[72], [72, 100_000]] }, "invalid_request", "prompt.1"],
    ["one that is too long", { prompt: ["a", "b".repeat(5_000)] }, "context_length_exceeded", "prompt.1"],
    ["ids that are too many", { prompt: Array(5_000).fill(72) }, "context_length_exceeded", "prompt"],
  ])("are refused for %s, and nothing is begun", async (_, fields, code, param) => {
    const admission = new Admission({ openMax: 9, followersMax: 0, waitMs: () => undefined });
    const { ask } = await createOrigin({ engine, admission, bodyBytesMax: 100_000 });
    const refused = await ask("/v1/completions", { ...TEXT, ...fields });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ error: { code, param } });
    expect(admission.open).toBe(0);
  });
});

describe("log probabilities of a chat", () => {
  test("name every token, its bytes and the likeliest ones, in order", async () => {
    const { choices } = await askChat({ temperature: 0, logprobs: true, top_logprobs: 4 });
    const content = choices[0]?.logprobs?.content ?? [];
    expect(content).toHaveLength(24);
    expect(new TextDecoder().decode(Uint8Array.from(content.flatMap(({ bytes }) => bytes ?? [])))).toBe(
      choices[0]?.message.content,
    );
    for (const { token, logprob, top_logprobs: top } of content) {
      // Greedy, so the chosen one is the likeliest.
      expect(top[0]).toMatchObject({ token, logprob });
      expect(top).toHaveLength(4);
      const logprobs = top.map((each) => each.logprob);
      expect(logprobs).toEqual(logprobs.toSorted((a, b) => b - a));
      expect(logprobs.reduce((sum, each) => sum + Math.exp(each), 0)).toBeLessThanOrEqual(1);
    }
  });

  test("change nothing about the answer, and are not there for who did not ask", async () => {
    const plain = await askChat({ n: 2 });
    const asked = await askChat({ n: 2, logprobs: true });
    expect(textOf(asked)).toEqual(textOf(plain));
    expect(plain.choices.map(({ logprobs }) => logprobs)).toEqual([null, null]);
    expect(asked.choices[1]?.logprobs?.content.every((token) => token.top_logprobs.length === 0)).toBe(true);
  });

  test("are the model's own, whatever bias and temperature made of them", async () => {
    const plain = await askChat({ temperature: 0, max_tokens: 1, logprobs: true, top_logprobs: 20 });
    const forced = await askChat({
      temperature: 1.7,
      max_tokens: 1,
      logit_bias: { "65": 100 },
      repetition_penalty: 1.5,
      logprobs: true,
      top_logprobs: 20,
    });
    const [own, bent] = [plain, forced].map(({ choices }) => choices[0]?.logprobs?.content[0]);
    expect(bent?.token).toBe("A");
    expect(bent?.top_logprobs).toEqual(own?.top_logprobs);
    expect(bent?.logprob).toBeLessThan(0);
  });

  test("spell out bytes that are no character", async () => {
    const any = await startFakeEngine();
    const { ask } = await createOrigin({ engine: any });
    const body = { ...CHAT, max_tokens: 1, logit_bias: { "228": 100 }, logprobs: true };
    const answer = (await (await ask("/v1/chat/completions", body)).json()) as ChatCompletion;
    await any.stop();
    expect(answer.choices[0]?.message.content).toBe("\uFFFD");
    expect(answer.choices[0]?.logprobs?.content[0]).toMatchObject({ token: "\\xe4", bytes: [228] });
  });

  test("stream with the text that they belong to", async () => {
    const whole = await askChat({ n: 2, logprobs: true, top_logprobs: 2 });
    const chunks = await stream<ChatCompletionChunk>("/v1/chat/completions", {
      ...CHAT,
      n: 2,
      logprobs: true,
      top_logprobs: 2,
    });
    for (const index of [0, 1]) {
      const own = chunks.flatMap(({ choices }) => choices.filter((choice) => choice.index === index));
      expect(own.flatMap(({ logprobs }) => logprobs?.content ?? [])).toEqual(whole.choices[index]?.logprobs?.content);
    }
  });

  test("end where a stop string cut the text", async () => {
    const full = await askChat({ logprobs: true });
    const text = full.choices[0]?.message.content ?? "";
    const stop = /[ -~]/.exec(text.slice(4))?.[0] ?? "none";
    const cut = await askChat({ logprobs: true, stop });
    const kept = cut.choices[0]?.logprobs?.content ?? [];
    expect(cut.choices[0]?.message.content).toBe(text.slice(0, text.indexOf(stop)));
    expect(kept).toEqual(full.choices[0]?.logprobs?.content.slice(0, kept.length));
    expect(kept.length).toBeGreaterThan(0);
    expect(kept.length).toBeLessThan(full.choices[0]?.logprobs?.content.length ?? 0);
  });
});

describe("log probabilities of a text completion", () => {
  test("have the older form: four lists of one length, the chosen token always among the alternatives", async () => {
    const { choices } = await askText({ logprobs: 3 });
    const {
      tokens = [],
      token_logprobs: chosen = [],
      top_logprobs: top = [],
      text_offset: offsets = [],
    } = choices[0]?.logprobs ?? {};
    expect([tokens, chosen, top, offsets].map(({ length }) => length)).toEqual([24, 24, 24, 24]);
    tokens.forEach((token, i) => {
      expect(top[i]?.[token]).toBe(chosen[i]);
      expect([3, 4]).toContain(Object.keys(top[i] ?? {}).length);
    });
    const letters = Array.from(choices[0]?.text ?? "");
    expect(tokens).toEqual(letters);
    expect(offsets).toEqual(letters.map((_, i) => i));
  });

  test("are there with 0 alternatives too: the chosen token's alone", async () => {
    const { choices } = await askText({ logprobs: 0 });
    const { tokens = [], top_logprobs: top = [] } = choices[0]?.logprobs ?? {};
    expect(top.map((each) => Object.keys(each))).toEqual(tokens.map((token) => [token]));
  });
});

test("echo puts the prompt before every choice's text, and costs no completion tokens", async () => {
  const plain = await askText({ n: 2 });
  const echoed = await askText({ n: 2, echo: true });
  expect(echoed.choices.map(({ text }) => text)).toEqual(plain.choices.map(({ text }) => `Hello${text}`));
  expect(echoed.usage).toEqual(plain.usage);
  const chunks = await stream<Completion>("/v1/completions", { ...TEXT, n: 2, echo: true });
  const second = chunks.flatMap(({ choices }) => choices.filter(({ index }) => index === 1));
  expect(second.map(({ text }) => text).join("")).toBe(echoed.choices[1]?.text);
});

describe("the answer's end", () => {
  test("is forbidden to the model by ignore_eos, and before min_tokens", async () => {
    // The byte that the model says third is made one that ends its answers.
    const bytes = utf8((await askText({ temperature: 0 })).choices[0]?.text ?? "");
    const ending = await startFakeEngine({
      endTokens: [bytes[2] ?? 0],
      runtime: { shunned: Array.from({ length: 130 }, (_, i) => 128 + i) },
    });
    const { ask } = await createOrigin({ engine: ending });
    const count = async (fields: object) => {
      const response = await ask("/v1/completions", { ...TEXT, temperature: 0, ...fields });
      const { usage, choices } = (await response.json()) as Completion;
      return [usage?.completion_tokens, choices[0]?.finish_reason];
    };
    expect(await count({})).toEqual([bytes.indexOf(bytes[2] ?? 0) + 1, "stop"]);
    expect(await count({ ignore_eos: true })).toEqual([24, "length"]);
    expect((await count({ min_tokens: 10 }))[0]).toBeGreaterThanOrEqual(10);
    await ending.stop();
  });

  test("can't be forbidden for longer than the answer may be", async () => {
    const refused = await askFor<{ error: object }>("/v1/completions", { ...TEXT, min_tokens: 25 }, 400);
    expect(refused.error).toMatchObject({ code: "invalid_request", param: "min_tokens" });
  });
});
