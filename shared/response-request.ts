/**
 * `POST /v1/responses` of OpenAI's wire format, without its memory: what is asked, and the chat that it stands for, so that
 * it shares the chat's answers. Nothing is stored here, so each request carries its whole conversation, as it does with
 * `store: false` at OpenAI's; what only a store can answer is refused.
 *
 * Source: OpenAI API reference, "Create a model response".
 */
import * as z from "zod";
import { conversationFields } from "./common-fields.ts";
import { ColdpathError } from "./errors.ts";

/** A text part, of what was asked (`input_text`) or answered before (`output_text`). */
const part = z.looseObject({
  type: z.enum(["input_text", "output_text"], "only text parts are supported"),
  text: z.string(),
});
const content = z.union([z.string(), z.array(part).min(1)]);

const item = z.discriminatedUnion("type", [
  z.looseObject({
    type: z.literal("message").optional(),
    role: z.enum(["user", "assistant", "system", "developer"]),
    content,
  }),
  z.looseObject({
    type: z.literal("function_call"),
    call_id: z.string().min(1),
    name: z.string().min(1),
    arguments: z.string(),
  }),
  z.looseObject({ type: z.literal("function_call_output"), call_id: z.string().min(1), output: content }),
]);

const tool = z.looseObject({
  type: z.literal("function"),
  name: z.string().min(1),
  description: z.string().nullish(),
  /** JSON Schema. */
  parameters: z.record(z.string(), z.unknown()).nullish(),
  strict: z.boolean().nullish(),
});

const format = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("text") }),
  z.looseObject({ type: z.literal("json_object") }),
  z.looseObject({
    type: z.literal("json_schema"),
    name: z.string().min(1),
    schema: z.record(z.string(), z.unknown()),
    strict: z.boolean().nullish(),
  }),
]);

export const responseRequest = z.looseObject({
  ...conversationFields,
  input: z
    .union([z.string().min(1), z.array(item).min(1)])
    .describe("A text, or the conversation, oldest first: messages, calls of functions and what these gave."),
  instructions: z.string().nullish().describe("A system message before it."),
  max_output_tokens: z
    .int()
    .min(1)
    .nullish()
    .describe("Most tokens of the answer; without it as many as the model's context has room for."),
  text: z
    .looseObject({ format: format.nullish() })
    .nullish()
    .describe(
      "format: json_object or json_schema, and the answer is JSON, of that schema, by force of a grammar; text without it.",
    ),
  tools: z
    .array(tool)
    .max(128)
    .nullish()
    .describe("Functions that the model may call; their arguments keep to their schemas."),
  tool_choice: z
    .union([z.enum(["none", "auto", "required"]), z.looseObject({ type: z.literal("function"), name: z.string() })])
    .nullish()
    .describe("none, auto, required, or a function that must be called; auto without it."),
  include: z.array(z.string()).nullish().describe("message.output_text.logprobs says of each token how likely it was."),
  store: z.boolean().nullish().describe("Nothing is stored, whatever it says: send the whole conversation each time."),
});

export type ResponseRequest = z.infer<typeof responseRequest>;

/**
 * What OpenAI has and this endpoint has not, and the values of it that ask for nothing: a client that wants more must hear
 * so.
 */
const UNSUPPORTED: Readonly<Record<string, readonly unknown[]>> = {
  background: [false],
  context_management: [[]],
  conversation: [],
  max_tool_calls: [],
  moderation: [],
  previous_response_id: [],
  prompt: [],
  reasoning: [],
  service_tier: ["auto", "default"],
  truncation: ["disabled"],
};

/** What a client may wish to have with its answer; the reasoning of a model that does none is nothing. */
const LOGPROBS = "message.output_text.logprobs";
const INCLUDABLE: ReadonlySet<string> = new Set([LOGPROBS, "reasoning.encrypted_content"]);

/** Without influence on the answer, beyond those that a chat has too. */
const WITHOUT_INFLUENCE: ReadonlySet<string> = new Set([
  "store",
  "safety_identifier",
  "prompt_cache_key",
  "prompt_cache_options",
  "prompt_cache_retention",
]);

/** @throws {ColdpathError} `unsupported_parameter` for a field, or a value of one, that this endpoint has not */
export function checkResponse(request: ResponseRequest): void {
  for (const [field, harmless] of Object.entries(UNSUPPORTED)) {
    const asked = request[field];
    if (asked == null || harmless.some((value) => JSON.stringify(value) === JSON.stringify(asked))) continue;
    const state = field === "previous_response_id" || field === "conversation";
    const why = state ? ": no response is stored, so send the whole conversation as input" : "";
    throw unsupported(field, `this endpoint does not support "${field}"${why}`);
  }
  const wanted = request.include?.find((each) => !INCLUDABLE.has(each));
  if (wanted !== undefined) throw unsupported("include", `this endpoint has no "${wanted}" to include`);
  const { verbosity } = request.text ?? {};
  if (verbosity != null && verbosity !== "medium") {
    throw unsupported("text.verbosity", 'this endpoint does not support "text.verbosity"');
  }
}

/** The chat's body that a request stands for; fields that only the chat's form has (`seed`, `stop`, `top_k` …) go along. */
export function chatBodyOf(request: ResponseRequest): Record<string, unknown> {
  const { input, instructions, max_output_tokens, text, include, top_logprobs, ...more } = request;
  const { tools, tool_choice, parallel_tool_calls, ...rest } = more;
  const hasTools = (tools ?? []).length > 0;
  const others = Object.fromEntries(
    Object.entries(rest).filter(([field]) => !Object.hasOwn(UNSUPPORTED, field) && !WITHOUT_INFLUENCE.has(field)),
  );
  const logprobs = include?.includes(LOGPROBS) === true || (top_logprobs ?? 0) > 0;
  return {
    ...others,
    messages: [...(instructions == null ? [] : [{ role: "system", content: instructions }]), ...messagesOf(input)],
    ...(max_output_tokens == null ? {} : { max_completion_tokens: max_output_tokens }),
    ...(text?.format == null || text.format.type === "text" ? {} : { response_format: formatOf(text.format) }),
    ...(hasTools ? { tools: tools?.map(toolOf), parallel_tool_calls } : {}),
    ...(hasTools && tool_choice != null ? { tool_choice: choiceOf(tool_choice) } : {}),
    ...(logprobs ? { logprobs, ...(top_logprobs == null ? {} : { top_logprobs }) } : {}),
  };
}

/** What the chat's parser finds fault with, in this form's own words. */
export function responseParam(chatParam: string): string {
  if (chatParam.startsWith("messages")) return "input";
  if (chatParam.startsWith("response_format")) return "text.format";
  return chatParam === "max_completion_tokens" ? "max_output_tokens" : chatParam;
}

type Item = z.infer<typeof item>;
type Said = { role: string; content?: unknown; tool_calls?: unknown[]; tool_call_id?: string };

/** Calls stand in the message of the assistant who made them. */
function messagesOf(input: ResponseRequest["input"]): Said[] {
  if (typeof input === "string") return [{ role: "user", content: input }];
  const said: Said[] = [];
  for (const each of input) {
    if (each.type === "function_call_output") {
      said.push({ role: "tool", tool_call_id: each.call_id, content: textOf(each.output) });
    } else if (each.type === "function_call") {
      const last = said.at(-1);
      const caller = last?.role === "assistant" ? last : { role: "assistant", content: null };
      if (caller !== last) said.push(caller);
      (caller.tool_calls ??= []).push(callOf(each));
    } else {
      said.push({ role: each.role, content: textOf(each.content) });
    }
  }
  return said;
}

function callOf({ call_id: id, name, arguments: text }: Extract<Item, { type: "function_call" }>): unknown {
  return { id, type: "function", function: { name, arguments: text } };
}

function textOf(said: z.infer<typeof content>): unknown {
  return typeof said === "string" ? said : said.map(({ text }) => ({ type: "text", text }));
}

function toolOf({ type, name, description, parameters, strict }: z.infer<typeof tool>): unknown {
  const optional = Object.fromEntries(
    Object.entries({ description, parameters, strict }).filter(([, value]) => value != null),
  );
  return { type, function: { name, ...optional } };
}

function choiceOf(choice: NonNullable<ResponseRequest["tool_choice"]>): unknown {
  return typeof choice === "string" ? choice : { type: "function", function: { name: choice.name } };
}

function formatOf(asked: z.infer<typeof format>): unknown {
  if (asked.type !== "json_schema") return { type: asked.type };
  const { type, name, schema, strict } = asked;
  return { type, json_schema: { name, schema, ...(strict == null ? {} : { strict }) } };
}

function unsupported(param: string, reason: string): ColdpathError {
  return new ColdpathError("unsupported_parameter", reason, { param });
}
