/** `POST /v1/responses` as the chat it stands for, and what is refused of it. */
import { describe, expect, test } from "vitest";
import { parseCompletionRequest, responseAsChat } from "../../shared/completion-request.ts";
import { ColdpathError } from "../../shared/errors.ts";

const asChat = (body: object) =>
  responseAsChat(parseCompletionRequest("/v1/responses", JSON.stringify({ model: "m", ...body })));

function refusal(body: object): [code: string, param: string | null] {
  try {
    asChat(body);
  } catch (error) {
    if (error instanceof ColdpathError) return [error.code, error.param];
    throw error;
  }
  throw new Error("it was accepted");
}

const tool = { type: "function", name: "weather", parameters: { type: "object" }, strict: true };

const call = (id: string, text = "{}") => ({
  id,
  type: "function",
  function: { name: "weather", arguments: text },
});

describe("a response's request", () => {
  test("that is a text is a chat of one message", () => {
    expect(asChat({ input: "Hi" })).toEqual({ model: "m", messages: [{ role: "user", content: "Hi" }] });
  });

  test("has its instructions first, its limits under the chat's names, and the chat's own fields with it", () => {
    const body = { input: "Hi", instructions: "Be brief.", max_output_tokens: 9, temperature: 0, seed: 3, stop: ["x"] };
    expect(asChat(body)).toEqual({
      model: "m",
      messages: [
        { role: "system", content: "Be brief." },
        { role: "user", content: "Hi" },
      ],
      max_completion_tokens: 9,
      temperature: 0,
      seed: 3,
      stop: ["x"],
    });
  });

  test("has each call in its assistant's message, with or without words, and its result behind it", () => {
    const input = [
      {
        role: "user",
        content: [
          { type: "input_text", text: "Weather in " },
          { type: "input_text", text: "Bonn?" },
        ],
      },
      {
        type: "message",
        role: "assistant",
        id: "msg_1",
        content: [{ type: "output_text", text: "I look.", annotations: [] }],
      },
      { type: "function_call", id: "fc_1", call_id: "c1", name: "weather", arguments: "{}" },
      { type: "function_call", call_id: "c2", name: "weather", arguments: '{"a":1}' },
      { type: "function_call_output", call_id: "c1", output: "sunny" },
      { type: "function_call_output", call_id: "c2", output: [{ type: "input_text", text: "rain" }] },
      { type: "function_call", call_id: "c3", name: "weather", arguments: "{}" },
    ];
    expect(asChat({ input, tools: [tool] }).messages).toEqual([
      {
        role: "user",
        content: [
          { type: "text", text: "Weather in " },
          { type: "text", text: "Bonn?" },
        ],
      },
      {
        role: "assistant",
        content: [{ type: "text", text: "I look." }],
        tool_calls: [call("c1"), call("c2", '{"a":1}')],
      },
      { role: "tool", tool_call_id: "c1", content: "sunny" },
      { role: "tool", tool_call_id: "c2", content: [{ type: "text", text: "rain" }] },
      { role: "assistant", content: null, tool_calls: [call("c3")] },
    ]);
  });

  test("has tools, choice, form and log probabilities in the chat's shapes", () => {
    const chat = asChat({
      input: "Hi",
      tools: [tool],
      tool_choice: { type: "function", name: "weather" },
      parallel_tool_calls: false,
    });
    expect(chat).toMatchObject({
      tools: [{ type: "function", function: { name: "weather", parameters: { type: "object" }, strict: true } }],
      tool_choice: { type: "function", function: { name: "weather" } },
      parallel_tool_calls: false,
    });
    const schema = { type: "object", properties: { a: { type: "string" } } };
    const text = { format: { type: "json_schema", name: "s", schema, strict: true } };
    const include = ["message.output_text.logprobs"];
    expect(asChat({ input: "Hi", text, include, top_logprobs: 2 })).toMatchObject({
      response_format: { type: "json_schema", json_schema: { name: "s", schema, strict: true } },
      logprobs: true,
      top_logprobs: 2,
    });
  });

  test("is the same chat whatever it says of storing, and where it says what is so anyway", () => {
    const plain = asChat({ input: "Hi" });
    for (const said of [
      { store: true },
      { store: false, include: ["reasoning.encrypted_content"] },
      { truncation: "disabled", service_tier: "auto", background: false, tool_choice: "auto", tools: [] },
      { parallel_tool_calls: true, text: { format: { type: "text" }, verbosity: "medium" }, instructions: null },
      { prompt_cache_key: "k", safety_identifier: "s", previous_response_id: null, reasoning: null },
    ]) {
      expect(asChat({ input: "Hi", ...said })).toEqual(plain);
    }
  });
});

describe("is refused", () => {
  test.each<[string, object, string, string | null]>([
    ["without an input", {}, "invalid_request", "input"],
    ["an empty one", { input: [] }, "invalid_request", "input"],
    [
      "an image",
      { input: [{ role: "user", content: [{ type: "input_image", image_url: "x" }] }] },
      "invalid_request",
      "input.0.content.0.type",
    ],
    [
      "an item of a store",
      { input: [{ type: "item_reference", id: "msg_1" }] },
      "unsupported_parameter",
      "input.0.type",
    ],
    [
      "a conversation that is stored elsewhere",
      { input: "x", previous_response_id: "resp_1" },
      "unsupported_parameter",
      "previous_response_id",
    ],
    ["reasoning", { input: "x", reasoning: { effort: "high" } }, "unsupported_parameter", "reasoning"],
    ["work behind the request", { input: "x", background: true }, "unsupported_parameter", "background"],
    ["a prompt cut in silence", { input: "x", truncation: "auto" }, "unsupported_parameter", "truncation"],
    [
      "a tool that is no function",
      { input: "x", tools: [{ type: "web_search" }] },
      "unsupported_parameter",
      "tools.0.type",
    ],
    [
      "what can't be included",
      { input: "x", include: ["file_search_call.results"] },
      "unsupported_parameter",
      "include",
    ],
    ["a wordiness", { input: "x", text: { verbosity: "low" } }, "unsupported_parameter", "text.verbosity"],
    ["several answers", { input: "x", n: 2 }, "unsupported_parameter", "n"],
    ["a chat's messages", { input: "x", messages: [] }, "invalid_request", "messages"],
    ["a temperature out of range", { input: "x", temperature: 3 }, "invalid_request", "temperature"],
    ["a chat's field out of range", { input: "x", min_p: 3 }, "invalid_request", "min_p"],
    ["two lengths", { input: "x", max_output_tokens: 3, max_tokens: 4 }, "invalid_request", "max_tokens"],
    [
      "a function named badly",
      { input: "x", tools: [{ ...tool, name: "a b" }] },
      "invalid_request",
      "tools.0.function.name",
    ],
    [
      "a choice that is no tool",
      { input: "x", tools: [tool], tool_choice: { type: "function", name: "other" } },
      "invalid_request",
      "tool_choice",
    ],
    [
      "a form beside tools",
      { input: "x", tools: [tool], text: { format: { type: "json_object" } } },
      "unsupported_parameter",
      "text.format",
    ],
  ])("for %s", (_, body, code, param) => {
    expect(refusal(body)).toEqual([code, param]);
  });
});
