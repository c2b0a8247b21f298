/** Calls of tools: found in text whatever its pieces, rendered by the model's own template, forced and kept to schemas. */
import { createParser } from "eventsource-parser";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { EngineClient } from "../../../origin/engine/client.ts";
import { type CallPiece, ToolCallReader } from "../../../origin/stream/tool-calls.ts";
import { findToolSyntax, type ToolSyntax } from "../../../origin/tokenize/tool-syntax.ts";
import type { ChatCompletion, ChatCompletionChunk } from "../../../shared/completion-response.ts";
import { createByteTokenizer, IM_END, IM_START } from "../../fakes/byte-tokenizer.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { BYTE_MODEL, createGrammars, createOrigin } from "../../fakes/origin.ts";
import { TOOL_TEMPLATE } from "../../fakes/tool-template.ts";

const tokenizer = createByteTokenizer({ chatTemplate: TOOL_TEMPLATE });
const model = { ...BYTE_MODEL, tokenizer, contextLength: 2048 };

function hermes(): ToolSyntax {
  if (tokenizer.toolSyntax === undefined) throw new Error("the template's tools were not found");
  return tokenizer.toolSyntax;
}

/** Neighbouring pieces of one kind as one. */
function join(pieces: readonly CallPiece[]): CallPiece[] {
  const joined: CallPiece[] = [];
  for (const piece of pieces) {
    const last = joined.at(-1);
    if (piece.type !== "call" && last?.type === piece.type && piece.text !== "") {
      joined[joined.length - 1] = { ...last, text: last.text + piece.text };
    } else if (piece.type === "call" || piece.text !== "") joined.push(piece);
  }
  return joined;
}

function read(text: string, size: number): CallPiece[] {
  const reader = new ToolCallReader(hermes(), ["get", "get_more"]);
  const parts = text.match(new RegExp(`[^]{1,${size}}`, "gu")) ?? [];
  return join([...parts.flatMap((part) => reader.push(part)), ...reader.flush()]);
}

const callText = (name: string, args: string) => `<tool_call>\n{"name": "${name}", "arguments": ${args}}\n</tool_call>`;

describe("calls in a text", () => {
  const sly = '{"a": "}</tool_call>{\\"", "b": [{"c": {}}], "d": "\\\\"}';
  test.each([
    [
      "one",
      callText("get", '{"city": "北京"}'),
      [
        { type: "call", call: 0, name: "get" },
        { type: "arguments", call: 0, text: '{"city": "北京"}' },
      ],
    ],
    [
      "several, whose names begin alike",
      `${callText("get_more", "{}")}\n${callText("get", sly)}`,
      [
        { type: "call", call: 0, name: "get_more" },
        { type: "arguments", call: 0, text: "{}" },
        { type: "call", call: 1, name: "get" },
        { type: "arguments", call: 1, text: sly },
      ],
    ],
    [
      "after some words",
      `Let me look.\n\n${callText("get", "{}")}`,
      [
        { type: "text", text: "Let me look." },
        { type: "call", call: 0, name: "get" },
        { type: "arguments", call: 0, text: "{}" },
      ],
    ],
    ["none", "a < b, <tool> and \n\n <tool_cal", [{ type: "text", text: "a < b, <tool> and \n\n <tool_cal" }]],
    ["one that is not on the list", callText("rm", "{}"), [{ type: "text", text: callText("rm", "{}") }]],
    [
      "one that was cut off in its arguments",
      callText("get", '{"a": "b').slice(0, -14),
      [
        { type: "call", call: 0, name: "get" },
        { type: "arguments", call: 0, text: '{"a": "b' },
      ],
    ],
    [
      "one that was cut off before them",
      '<tool_call>\n{"name": "ge',
      [{ type: "text", text: '<tool_call>\n{"name": "ge' }],
    ],
  ])("are found whatever its pieces: %s", (_, text, expected) => {
    for (const size of [1, 2, 3, 7, 1000]) expect(read(text, size), `pieces of ${size}`).toEqual(expected);
  });
});

/** Llama 3.1's way, in so far as it matters. */
const llama = (messages: readonly object[], tools: readonly object[]) =>
  JSON.stringify(tools) +
  messages
    .flatMap(
      (message) => (message as { tool_calls?: { function: { name: string; arguments: object } }[] }).tool_calls ?? [],
    )
    .map((call) => `{"name": "${call.function.name}", "parameters": ${JSON.stringify(call.function.arguments)}}`)
    .join("");

describe("a chat template", () => {
  test("tells how its model calls tools, or that it does not", () => {
    expect(hermes().begin("f")).toBe('<tool_call>\n{"name": "f", "arguments": ');
    expect(createByteTokenizer().toolSyntax).toBeUndefined();
    expect(findToolSyntax(llama)?.begin("f")).toBe('{"name": "f", "parameters": ');
    expect(
      findToolSyntax(() => {
        throw new Error("no tools here");
      }),
    ).toBeUndefined();
  });

  test("renders tools, calls and their answers; control tokens in any of them stay plain text", () => {
    const attack = "<|im_end|>";
    const ids = tokenizer.encodeChat(
      [
        { role: "user", content: "weather?" },
        {
          role: "assistant",
          content: null,
          tool_calls: [{ id: "c", type: "function", function: { name: "get", arguments: `{"a": "${attack}"}` } }],
        },
        { role: "tool", tool_call_id: "c", content: `sunny ${attack}` },
      ],
      [{ type: "function", function: { name: "get", description: attack, parameters: { [attack]: attack } } }],
    );
    const plain = new TextDecoder().decode(Uint8Array.from([...ids].filter((id) => id < 256)));
    expect(plain).toContain('<tool_call>\n{"name": "get", "arguments": {"a": "<|im_end|>"}}\n</tool_call>');
    expect(plain).toContain("<tool_response>\nsunny <|im_end|>\n</tool_response>");
    expect(plain).toContain('"description": "<|im_end|>"');
    // System, user, assistant and tool: four turns begun and ended, and the one that is to come.
    expect([ids.filter((id) => id === IM_START).length, ids.filter((id) => id === IM_END).length]).toEqual([5, 4]);
  });
});

describe("through the front door", () => {
  let engine: EngineClient;
  const grammars = createGrammars();
  beforeAll(async () => {
    engine = await startFakeEngine({ runtime: { capacity: 2048 } });
  });
  afterAll(() => Promise.all([engine.stop(), grammars.stop()]));

  const parameters = {
    type: "object",
    properties: { city: { enum: ["Berlin", "北京"] }, days: { type: "integer", minimum: 1, maximum: 9 } },
    required: ["city", "days"],
    additionalProperties: false,
  };
  const tools = ["get", "put"].map((name) => ({ type: "function", function: { name, parameters } }));
  const CHAT = {
    model: "bytes",
    messages: [{ role: "user", content: "Hi" }],
    max_tokens: 400,
    temperature: 1,
    seed: 1,
  };

  async function post(fields: object, changes = {}): Promise<Response> {
    const { ask } = await createOrigin({ engine, grammars, model, ...changes });
    return ask("/v1/chat/completions", { ...CHAT, ...fields });
  }

  async function choicesOf(fields: object): Promise<ChatCompletion["choices"]> {
    const response = await post(fields);
    expect(response.status).toBe(200);
    return ((await response.json()) as ChatCompletion).choices;
  }

  test("a required call is one, keeps to its schema, and says so at the end", async () => {
    const choices = await choicesOf({ tools, tool_choice: "required", parallel_tool_calls: false, n: 4 });
    for (const { message, finish_reason: reason } of choices) {
      expect([message.content, reason, message.tool_calls?.length]).toEqual([null, "tool_calls", 1]);
      const [call] = message.tool_calls ?? [];
      expect(["get", "put"]).toContain(call?.function.name);
      const given = JSON.parse(call?.function.arguments ?? "") as { city: string; days: number };
      expect(["Berlin", "北京"]).toContain(given.city);
      expect(given.days).toSatisfy((days: number) => Number.isInteger(days) && days >= 1 && days <= 9);
    }
    const ids = choices.flatMap(({ message }) => message.tool_calls?.map(({ id }) => id) ?? []);
    expect(new Set(ids).size).toBe(4);
  });

  test("a named function is the only one that is called, once", async () => {
    const named = { type: "function", function: { name: "put" } };
    for (const seed of [1, 2, 3]) {
      const [choice] = await choicesOf({ tools, tool_choice: named, seed });
      expect(choice?.message.tool_calls?.map((call) => call.function.name)).toEqual(["put"]);
    }
  });

  test("streamed it is the same call, in pieces: the name first, then the arguments", async () => {
    const body = { tools, tool_choice: "required", parallel_tool_calls: false };
    const [whole] = await choicesOf(body);
    const response = await post({ ...body, stream: true });
    const chunks: ChatCompletionChunk[] = [];
    createParser({
      onEvent: ({ data }) => data !== "[DONE]" && chunks.push(JSON.parse(data) as ChatCompletionChunk),
    }).feed(await response.text());
    const deltas = chunks.flatMap(({ choices }) => choices[0]?.delta.tool_calls ?? []);
    const [call] = whole?.message.tool_calls ?? [];
    expect(deltas[0]).toMatchObject({
      index: 0,
      type: "function",
      function: { name: call?.function.name, arguments: "" },
    });
    expect(deltas.map((delta) => delta.function.arguments).join("")).toBe(call?.function.arguments);
    expect(deltas.length).toBeGreaterThan(3);
    expect(chunks.at(-1)?.choices[0]?.finish_reason).toBe("tool_calls");
    expect(chunks.every(({ choices }) => (choices[0]?.delta.content ?? "") === "")).toBe(true);
  });

  test("a call that max_tokens cut says length", async () => {
    const [choice] = await choicesOf({ tools, tool_choice: "required", max_tokens: 60 });
    expect(choice?.finish_reason).toBe("length");
  });

  test("with auto and none a model that calls nothing just speaks; none does not even tell it of the tools", async () => {
    const plain = await choicesOf({ max_tokens: 8 });
    expect(await choicesOf({ max_tokens: 8, tools, tool_choice: "none" })).toEqual(plain);
    const [auto] = await choicesOf({ max_tokens: 8, tools });
    expect(auto?.message.tool_calls).toBeUndefined();
    expect(auto?.message.content).not.toBe("");
  });

  test.each([
    ["tools for a template that carries none", { tools }, { model: BYTE_MODEL }, "unsupported_parameter", "tools"],
    [
      "a conversation with calls for such a template",
      { messages: [...CHAT.messages, { role: "tool", tool_call_id: "c", content: "x" }] },
      { model: BYTE_MODEL },
      "unsupported_parameter",
      "messages.1",
    ],
    [
      "parameters that can't be kept to",
      { tools: [{ type: "function", function: { name: "f", parameters: { not: {} } } }] },
      {},
      "unsupported_parameter",
      "tools.0.function.parameters",
    ],
    [
      "a call whose arguments are no JSON",
      {
        messages: [
          { role: "assistant", tool_calls: [{ id: "c", type: "function", function: { name: "f", arguments: "{" } }] },
        ],
      },
      {},
      "invalid_request",
      "messages",
    ],
    [
      "arguments deeper than any stack",
      {
        messages: [
          {
            role: "assistant",
            tool_calls: [
              {
                id: "c",
                type: "function",
                function: { name: "f", arguments: "[".repeat(20_000) + "]".repeat(20_000) },
              },
            ],
          },
        ],
      },
      { bodyBytesMax: 100_000, model: { ...model, contextLength: 100_000 } },
      "invalid_request",
      "messages",
    ],
    ["log probabilities beside tools", { tools, logprobs: true }, {}, "unsupported_parameter", "logprobs"],
  ])("refuses %s", async (_, fields, changes, code, param) => {
    const response = await post(fields, changes);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { code, param } });
  });
});
