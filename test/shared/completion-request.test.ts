import { describe, expect, test } from "vitest";
import { type CompletionPath, generateAsChat, parseCompletionRequest } from "../../shared/completion-request.ts";
import { ColdpathError } from "../../shared/errors.ts";

const CHAT = { model: "m", messages: [{ role: "user", content: "hi" }] };

function refusal(path: CompletionPath, body: unknown): { code: string; param: string | null } {
  try {
    parseCompletionRequest(path, typeof body === "string" ? body : JSON.stringify(body));
  } catch (error) {
    if (error instanceof ColdpathError) return { code: error.code, param: error.param };
    throw error;
  }
  throw new Error("the request was accepted");
}

test("accepts a chat request and keeps fields it does not know", () => {
  const body = { ...CHAT, seed: 7, some_future_field: { deep: [1] } };
  expect(parseCompletionRequest("/v1/chat/completions", JSON.stringify(body))).toEqual(body);
});

test("accepts null wherever OpenAI's clients send it for absent", () => {
  const body = { ...CHAT, max_tokens: null, stop: null, temperature: null, tools: null, n: null, stream_options: null };
  expect(parseCompletionRequest("/v1/chat/completions", JSON.stringify(body))).toEqual(body);
});

test("accepts text parts as content", () => {
  const body = { model: "m", messages: [{ role: "user", content: [{ type: "text", text: "hi" }] }] };
  expect(parseCompletionRequest("/v1/chat/completions", JSON.stringify(body))).toEqual(body);
});

test("reads the simple form as the chat it stands for", () => {
  const simple = parseCompletionRequest("/generate", JSON.stringify({ prompt: "hi", max_tokens: 5 }));
  expect(generateAsChat(simple, "m")).toEqual({ ...CHAT, max_tokens: 5 });
});

describe("refuses", () => {
  test.each(["", "{", "{'a':1}", "nul", '{"a":1}x', "\u0000"])("%j as not JSON", (text) => {
    expect(refusal("/v1/chat/completions", text).code).toBe("invalid_json");
  });

  test.each([
    ["a body that is no object", "[]", null],
    ["a missing model", { messages: CHAT.messages }, "model"],
    ["an empty model", { ...CHAT, model: "" }, "model"],
    ["missing messages", { model: "m" }, "messages"],
    ["empty messages", { ...CHAT, messages: [] }, "messages"],
    ["messages of the wrong type", { ...CHAT, messages: "hi" }, "messages"],
    ["an unknown role", { ...CHAT, messages: [{ role: "wizard", content: "hi" }] }, "messages.0.role"],
    ["a number as content", { ...CHAT, messages: [{ role: "user", content: 5 }] }, "messages.0.content"],
    ["null as content", { ...CHAT, messages: [{ role: "user", content: null }] }, "messages.0.content"],
    ["a temperature too high", { ...CHAT, temperature: 2.1 }, "temperature"],
    ["a temperature of text", { ...CHAT, temperature: "1" }, "temperature"],
    ["max_tokens of zero", { ...CHAT, max_tokens: 0 }, "max_tokens"],
    ["a fractional max_tokens", { ...CHAT, max_tokens: 1.5 }, "max_tokens"],
    ["an unsafe integer", { ...CHAT, max_tokens: 1e300 }, "max_tokens"],
    ["top_p of zero", { ...CHAT, top_p: 0 }, "top_p"],
    ["five stop strings", { ...CHAT, stop: ["a", "b", "c", "d", "e"] }, "stop"],
    ["an empty stop string", { ...CHAT, stop: "" }, "stop"],
    ["a logit bias on text", { ...CHAT, logit_bias: { hello: 1 } }, "logit_bias.hello"],
    ["stream as text", { ...CHAT, stream: "true" }, "stream"],
  ])("%s", (_, body, param) => {
    expect(refusal("/v1/chat/completions", body)).toEqual({ code: "invalid_request", param });
  });

  test.each([
    ["several answers", { n: 2 }, "n"],
    ["log probabilities", { logprobs: true }, "logprobs"],
    ["structured output", { response_format: { type: "json_object" } }, "response_format.type"],
    ["tools", { tools: [{ type: "function" }] }, "tools"],
  ])("%s as unsupported, rather than ignoring them", (_, field, param) => {
    expect(refusal("/v1/chat/completions", { ...CHAT, ...field })).toEqual({ code: "unsupported_parameter", param });
  });

  test("an image part", () => {
    const messages = [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }];
    expect(refusal("/v1/chat/completions", { model: "m", messages }).code).toBe("invalid_request");
  });

  test("an unknown field of the simple form, which is ours alone", () => {
    expect(refusal("/generate", { prompt: "hi", temprature: 1 }).code).toBe("invalid_request");
  });

  test("an empty prompt", () => {
    expect(refusal("/v1/completions", { model: "m", prompt: "" })).toEqual({
      code: "invalid_request",
      param: "prompt",
    });
  });
});

test("a field named __proto__ stays data and pollutes nothing", () => {
  parseCompletionRequest(
    "/v1/chat/completions",
    `{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{"polluted":1}}`,
  );
  expect(({} as { polluted?: number }).polluted).toBeUndefined();
});
