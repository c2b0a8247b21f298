import { describe, expect, test } from "vitest";
import { type CompletionPath, generateAsChat, parseCompletionRequest } from "../../shared/completion-request.ts";
import { ColdpathError } from "../../shared/errors.ts";

const CHAT = { model: "m", messages: [{ role: "user", content: "hi" }] };

const TOOLS = [{ type: "function", function: { name: "f", parameters: { type: "object" } } }];

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

test("accepts an empty list of stop strings, sixteen of them, and a top_p of zero", () => {
  for (const fields of [{ stop: [] }, { stop: Array.from("abcdefghijklmnop") }, { top_p: 0 }]) {
    const body = { ...CHAT, ...fields };
    expect(parseCompletionRequest("/v1/chat/completions", JSON.stringify(body))).toEqual(body);
  }
});

test("says of a value that may have one of several forms what is wrong with the likeliest", () => {
  for (const [stop, message] of [
    [Array.from("abcdefghijklmnopq"), "stop: Too big: expected array to have <=16 items"],
    [["a", ""], "stop.1: Too small: expected string to have >=1 characters"],
    [7, "stop: Invalid input"],
  ] as const) {
    const body = JSON.stringify({ ...CHAT, stop });
    expect(() => parseCompletionRequest("/v1/chat/completions", body)).toThrow(message);
  }
});

test("accepts a conversation with tool calls, and tools beside a response format that they are not to be used with", () => {
  const messages = [
    { role: "user", content: "weather?" },
    {
      role: "assistant",
      content: null,
      tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: "{}" } }],
    },
    { role: "tool", tool_call_id: "c1", content: "sunny" },
  ];
  const body = {
    model: "m",
    messages,
    tools: TOOLS,
    tool_choice: "none",
    response_format: { type: "json_object" },
    max_tokens: 5,
    max_completion_tokens: 5,
  };
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
    ["a negative top_p", { ...CHAT, top_p: -0.1 }, "top_p"],
    ["seventeen stop strings", { ...CHAT, stop: Array.from("abcdefghijklmnopq") }, "stop"],
    ["an empty stop string", { ...CHAT, stop: "" }, "stop"],
    ["a logit bias on text", { ...CHAT, logit_bias: { hello: 1 } }, "logit_bias.hello"],
    ["stream as text", { ...CHAT, stream: "true" }, "stream"],
  ])("%s", (_, body, param) => {
    expect(refusal("/v1/chat/completions", body)).toEqual({ code: "invalid_request", param });
  });

  test.each([
    ["structured output by a grammar", { response_format: { type: "grammar", grammar: "x" } }, "response_format.type"],
    ["a tool that is no function", { tools: [{ type: "web_search" }] }, "tools.0.type"],
    ["OpenAI's old functions", { functions: [{ name: "f" }] }, "functions"],
    ["spoken answers", { audio: { voice: "alloy" } }, "audio"],
    [
      "a response format together with tools",
      { tools: TOOLS, response_format: { type: "json_object" } },
      "response_format",
    ],
  ])("%s as unsupported, rather than ignoring them", (_, field, param) => {
    expect(refusal("/v1/chat/completions", { ...CHAT, ...field })).toEqual({ code: "unsupported_parameter", param });
  });

  test.each([
    ["more choices from which the best are taken", { n: 1, best_of: 2 }, "best_of"],
    ["a text after the answer", { suffix: "x" }, "suffix"],
    ["a prompt's log probabilities", { echo: true, logprobs: 1 }, "logprobs"],
  ])("%s as unsupported", (_, field, param) => {
    const body = { model: "m", prompt: "p", ...field };
    expect(refusal("/v1/completions", body)).toEqual({ code: "unsupported_parameter", param });
  });

  test.each([
    ["fewer candidates than choices", "/v1/completions", { n: 2, best_of: 1 }, "best_of"],
    ["a chat's messages beside a prompt", "/v1/completions", { messages: 3 }, "messages"],
    ["six alternatives of the older form", "/v1/completions", { logprobs: 6 }, "logprobs"],
    ["a switch where the older form has a number", "/v1/completions", { logprobs: true }, "logprobs"],
    ["a number where the chat has a switch", "/v1/chat/completions", { logprobs: 2 }, "logprobs"],
    ["alternatives without log probabilities", "/v1/chat/completions", { top_logprobs: 2 }, "top_logprobs"],
    ["21 alternatives", "/v1/chat/completions", { logprobs: true, top_logprobs: 21 }, "top_logprobs"],
    ["no answer", "/v1/chat/completions", { n: 0 }, "n"],
    ["half an answer", "/v1/chat/completions", { n: 1.5 }, "n"],
    ["129 answers", "/v1/chat/completions", { n: 129 }, "n"],
    ["two lengths", "/v1/chat/completions", { max_tokens: 5, max_completion_tokens: 6 }, "max_tokens"],
    ["a negative min_p", "/v1/chat/completions", { min_p: -0.1 }, "min_p"],
    ["a repetition penalty of zero", "/v1/chat/completions", { repetition_penalty: 0 }, "repetition_penalty"],
    ["a fractional seed", "/v1/chat/completions", { seed: 0.5 }, "seed"],
    ["a stop string of pages", "/v1/chat/completions", { stop: "x".repeat(1001) }, "stop"],
    ["a tool choice without tools", "/v1/chat/completions", { tool_choice: "auto" }, "tool_choice"],
    ["a tool choice with an empty list", "/v1/chat/completions", { tools: [], tool_choice: "none" }, "tool_choice"],
    ["parallel calls without tools", "/v1/chat/completions", { parallel_tool_calls: true }, "parallel_tool_calls"],
    [
      "a tool choice that is no tool",
      "/v1/chat/completions",
      { tools: TOOLS, tool_choice: { type: "function", function: { name: "g" } } },
      "tool_choice",
    ],
    ["two tools of one name", "/v1/chat/completions", { tools: [...TOOLS, ...TOOLS] }, "tools"],
    [
      "a tool's name that could be syntax",
      "/v1/chat/completions",
      { tools: [{ type: "function", function: { name: 'f"}' } }] },
      "tools.0.function.name",
    ],
    [
      "a schema that is no object",
      "/v1/chat/completions",
      { response_format: { type: "json_schema", json_schema: { name: "s", schema: "string" } } },
      "response_format.json_schema.schema",
    ],
    [
      "no schema",
      "/v1/chat/completions",
      { response_format: { type: "json_schema", json_schema: { name: "s" } } },
      "response_format.json_schema.schema",
    ],
    [
      "a form that may not end",
      "/v1/chat/completions",
      { response_format: { type: "json_object" }, ignore_eos: true },
      "ignore_eos",
    ],
    ["a tool call that may not end", "/v1/chat/completions", { tools: TOOLS, min_tokens: 4 }, "min_tokens"],
    [
      "an assistant that said and called nothing",
      "/v1/chat/completions",
      { messages: [{ role: "assistant", content: null }] },
      "messages.0.content",
    ],
    [
      "a tool's answer to nobody",
      "/v1/chat/completions",
      { messages: [{ role: "tool", content: "x" }] },
      "messages.0.tool_call_id",
    ],
  ] as const)("%s", (_, path, field, param) => {
    const base = path === "/v1/completions" ? { model: "m", prompt: "p" } : CHAT;
    expect(refusal(path, { ...base, ...field })).toEqual({ code: "invalid_request", param });
  });

  test.each(["temperature", "top_p", "min_p", "presence_penalty", "repetition_penalty"])(
    "an infinite %s, which is how JSON's largest numbers are read, and a NaN, which is not JSON",
    (field) => {
      const text = (value: string) => `${JSON.stringify(CHAT).slice(0, -1)},"${field}":${value}}`;
      for (const value of ["1e999", "-1e999"]) {
        expect(refusal("/v1/chat/completions", text(value))).toEqual({ code: "invalid_request", param: field });
      }
      for (const value of ["NaN", "Infinity"]) {
        expect(refusal("/v1/chat/completions", text(value)).code).toBe("invalid_json");
      }
    },
  );

  test("an image part", () => {
    const messages = [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }];
    expect(refusal("/v1/chat/completions", { model: "m", messages }).code).toBe("invalid_request");
  });

  test("an unknown field of the simple form, which is ours alone", () => {
    expect(refusal("/generate", { prompt: "hi", temprature: 1 }).code).toBe("invalid_request");
  });

  test.each<[unknown, string]>([
    ["", "prompt"],
    [[], "prompt"],
    [["a", ""], "prompt.1"],
    [[[]], "prompt.0"],
    [["a", 1], "prompt"],
    [[1, [2]], "prompt"],
    [[-1], "prompt.0"],
    [[1.5], "prompt"],
    [[2 ** 31], "prompt.0"],
    [{ text: "a" }, "prompt"],
    [Array(129).fill("a"), "prompt"],
  ])("a prompt that is %j", (prompt, param) => {
    expect(refusal("/v1/completions", { model: "m", prompt })).toEqual({ code: "invalid_request", param });
  });

  test("more answers than a request may have, counted over its prompts", () => {
    const body = { model: "m", prompt: Array(43).fill("a"), n: 3 };
    expect(refusal("/v1/completions", body)).toEqual({ code: "invalid_request", param: "n" });
    expect(parseCompletionRequest("/v1/completions", JSON.stringify({ ...body, n: 2 }))).toMatchObject({ n: 2 });
  });
});

test.each([["text"], [["a", "b"]], [[1, 2]], [[[1], [2, 3]]]])("takes a prompt that is %j", (prompt) => {
  const body = { model: "m", prompt };
  expect(parseCompletionRequest("/v1/completions", JSON.stringify(body))).toEqual(body);
});

test("a field named __proto__ stays data and pollutes nothing", () => {
  parseCompletionRequest(
    "/v1/chat/completions",
    `{"model":"m","messages":[{"role":"user","content":"x"}],"__proto__":{"polluted":1}}`,
  );
  expect(({} as { polluted?: number }).polluted).toBeUndefined();
});
