/**
 * The requests of OpenAI's wire format that coldpath accepts, and the one parser for them. Objects are loose: an
 * unknown field is kept, because the cache's identity must cover whatever it may mean one day.
 *
 * Source: OpenAI API reference, "Create chat completion" and "Create completion"; for `top_k`, `min_p`, `min_tokens`,
 * `ignore_eos` and `repetition_penalty`, which OpenAI does not have, vLLM's names and meanings.
 */
import * as z from "zod";
import { commonFields, conversationFields } from "./common-fields.ts";
import { embeddingRequest, type VectorQuestion } from "./embedding-request.ts";
import { ColdpathError } from "./errors.ts";
import { chatBodyOf, checkResponse, responseParam, responseRequest, type ResponseRequest } from "./response-request.ts";
import { listTexts, textInput } from "./text-input.ts";

const contentPart = z.looseObject({ type: z.literal("text", "only text parts are supported"), text: z.string() });
const content = z.union([z.string(), z.array(contentPart).min(1)]);

/** A function's name, as OpenAI allows it; it is written into prompts and grammars as it stands. */
const functionName = z.string().regex(/^[\w-]{1,64}$/, "must be 1 to 64 letters, digits, _ or -");

const toolCall = z.looseObject({
  id: z.string().min(1),
  type: z.literal("function"),
  function: z.looseObject({ name: functionName, arguments: z.string() }),
});

const message = z.discriminatedUnion("role", [
  z.looseObject({ role: z.literal("system"), content }),
  z.looseObject({ role: z.literal("developer"), content }),
  z.looseObject({ role: z.literal("user"), content }),
  z.looseObject({
    role: z.literal("assistant"),
    content: content.nullish(),
    tool_calls: z.array(toolCall).max(128).nullish(),
  }),
  z.looseObject({ role: z.literal("tool"), content, tool_call_id: z.string().min(1) }),
]);

const tool = z.looseObject({
  type: z.literal("function"),
  function: z.looseObject({
    name: functionName,
    description: z.string().nullish(),
    /** JSON Schema. */
    parameters: z.record(z.string(), z.unknown()).nullish(),
    strict: z.boolean().nullish(),
  }),
});

const toolChoice = z.union([
  z.enum(["none", "auto", "required"]),
  z.looseObject({ type: z.literal("function"), function: z.looseObject({ name: functionName }) }),
]);

const responseFormat = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("text") }),
  z.looseObject({ type: z.literal("json_object") }),
  z.looseObject({
    type: z.literal("json_schema"),
    json_schema: z.looseObject({
      name: functionName,
      schema: z.record(z.string(), z.unknown()),
      strict: z.boolean().nullish(),
    }),
  }),
]);

/** Answers of one request, whatever the origin's own limit. */
const ANSWERS_MAX = 128;

const penalty = z.number().min(-2).max(2).nullish();
/** OpenAI takes four, other servers any number, and clients that were made for those send more. */
const STOPS_MAX = 16;
/** Longer ones would cost time for every piece of text, and nobody stops at a page. */
const stopString = z.string().min(1).max(1000);

/** Fields that both completion routes share. */
const sampling = {
  ...commonFields,
  max_tokens: z
    .int()
    .min(1)
    .nullish()
    .describe("Most tokens of the answer, of each choice; without it as many as the model's context has room for."),
  min_tokens: z.int().min(0).nullish().describe("Tokens before which the model can't end its answer; 0 without it."),
  ignore_eos: z.boolean().nullish().describe("The model goes on until the maximum; false without it."),
  top_k: z
    .int()
    .min(0)
    .nullish()
    .describe(
      "Draws from so many of the likeliest tokens; without it what the model's makers advise, else 0, all of them.",
    ),
  min_p: z
    .number()
    .min(0)
    .max(1)
    .nullish()
    .describe(
      "Draws from tokens at least this share as likely as the likeliest; without it what the model's makers advise, else 0, all of them.",
    ),
  repetition_penalty: z
    .number()
    .gt(0)
    .max(2)
    .nullish()
    .describe(
      "Divides the score of every token that the prompt or the answer has already; without it what the model's makers advise, else 1, none.",
    ),
  seed: z
    .int()
    .nullish()
    .describe(
      "The same seed draws the same answer, whatever runs beside it; another one each time without it, but an answer that is cached is given again.",
    ),
  stop: z
    .union([stopString, z.array(stopString).max(STOPS_MAX)])
    .nullish()
    .describe("Texts that end the answer and are not part of it; none without it."),
  presence_penalty: penalty.describe("Taken once from the score of a token that the answer has already; 0 without it."),
  frequency_penalty: penalty.describe(
    "Taken from the score of a token for each time that the answer has it already; 0 without it.",
  ),
  logit_bias: z
    .record(z.string().regex(/^\d+$/), z.number().min(-100).max(100))
    .nullish()
    .describe("Added to the scores of tokens, by their id in the model's vocabulary."),
  n: z
    .int()
    .min(1)
    .max(ANSWERS_MAX)
    .nullish()
    .describe("How many answers; 1 without it. Each is a choice, and the first is that of n: 1."),
  stream_options: z
    .looseObject({ include_usage: z.boolean().nullish() })
    .nullish()
    .describe("include_usage: true sends the usage before the end of a stream."),
};

const chatCompletionRequest = z.looseObject({
  ...sampling,
  ...conversationFields,
  messages: z
    .array(message)
    .min(1)
    .describe("The conversation, oldest first. Content is a text, or a list of text parts."),
  max_completion_tokens: z.int().min(1).nullish().describe("Newer name of max_tokens."),
  logprobs: z
    .boolean()
    .nullish()
    .describe("Says of each token how likely it was, before temperature and penalties; false without it."),
  response_format: responseFormat
    .nullish()
    .describe(
      "json_object or json_schema: the answer is JSON, of that schema, by force of a grammar. text without it.",
    ),
  tools: z
    .array(tool)
    .max(128)
    .nullish()
    .describe("Functions that the model may call; their arguments keep to their schemas."),
  tool_choice: toolChoice
    .nullish()
    .describe("none, auto, required, or a function that must be called; auto without it."),
});

const completionRequest = z.looseObject({
  ...sampling,
  prompt: textInput(ANSWERS_MAX).describe(
    "The text to go on with, its token ids, or a list of either: each has an answer of its own.",
  ),
  logprobs: z
    .int()
    .min(0)
    .max(5)
    .nullish()
    .describe("Says of each token how likely it was, and so many of the likeliest beside it; not at all without it."),
  best_of: z.int().min(1).max(ANSWERS_MAX).nullish().describe("Only what n says; more is refused."),
  echo: z.boolean().nullish().describe("The answer begins with the prompt; false without it."),
});

const generateRequest = z.strictObject({
  prompt: z.string().min(1).describe("What to answer: a chat of one message."),
  model: z.string().min(1).optional().describe("As GET /v1/models lists it; the first of the list without it."),
  max_tokens: z
    .int()
    .min(1)
    .optional()
    .describe("Most tokens of the answer; as many as the model's context has room for without it."),
});

export type ChatMessage = z.infer<typeof message>;
export type Tool = z.infer<typeof tool>;
export type ChatCompletionRequest = z.infer<typeof chatCompletionRequest>;
export type CompletionRequest = z.infer<typeof completionRequest>;
export type GenerateRequest = z.infer<typeof generateRequest>;

/** The origin's routes; `/generate` is a chat with one message, so it shares the chat's answers. */
export type Question =
  | VectorQuestion
  | { readonly path: "/v1/chat/completions"; readonly request: ChatCompletionRequest }
  | { readonly path: "/v1/completions"; readonly request: CompletionRequest };

/** The routes that ask a model; the path is part of what is asked. */
export const COMPLETION_SCHEMAS = {
  "/v1/chat/completions": chatCompletionRequest,
  "/v1/completions": completionRequest,
  "/v1/responses": responseRequest,
  "/v1/embeddings": embeddingRequest,
  "/generate": generateRequest,
} as const;

export type CompletionPath = keyof typeof COMPLETION_SCHEMAS;

/** Whether a path is one of the routes that ask a model. */
export function isCompletionPath(path: string): path is CompletionPath {
  return Object.hasOwn(COMPLETION_SCHEMAS, path);
}

export type RequestOf<Path extends CompletionPath> = z.infer<(typeof COMPLETION_SCHEMAS)[Path]>;

/** What OpenAI has and this endpoint has not: a client that asks for it must hear so, not get something else in silence. */
const UNSUPPORTED = ["suffix", "functions", "function_call", "audio", "prediction", "web_search_options"] as const;

/** Where the type of something says that it is a kind which OpenAI has and this endpoint has not. */
const UNSUPPORTED_KIND = /^(response_format|text\.format|tools\.\d+|input\.\d+)\.type$/;

/**
 * Parses one request body.
 *
 * @param text - the body as it came, UTF-8 decoded
 * @returns the request, unknown fields kept
 * @throws {ColdpathError} `invalid_json`, `invalid_request` or `unsupported_parameter`, with the field in `param`
 */
export function parseCompletionRequest<Path extends CompletionPath>(path: Path, text: string): RequestOf<Path> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (cause) {
    throw new ColdpathError("invalid_json", "the request body is not valid JSON", { cause });
  }
  return readBody(path, body);
}

function readBody<Path extends CompletionPath>(path: Path, body: unknown): RequestOf<Path> {
  const parsed = COMPLETION_SCHEMAS[path].safeParse(body);
  if (!parsed.success) throw refusalOf(parsed.error.issues[0]);
  if (path === "/v1/responses") checkResponse(parsed.data as ResponseRequest);
  else refuseUnsupported(parsed.data);
  if (path === "/v1/chat/completions") checkChat(parsed.data as ChatCompletionRequest);
  if (path === "/v1/completions") checkCompletion(parsed.data as CompletionRequest);
  return parsed.data as RequestOf<Path>;
}

/**
 * Of a union that has no words of its own, what is wrong with the likeliest form: the one that was read the furthest, or
 * that is of the right type at least.
 */
function closest(issue: z.core.$ZodIssue, under: readonly PropertyKey[] = []): z.core.$ZodIssue {
  const path = [...under, ...issue.path];
  const silent = issue.code === "invalid_union" && issue.message === "Invalid input";
  const inner = silent ? issue.errors.flatMap(([first]) => first ?? []) : [];
  const [furthest] = inner.map((each) => closest(each, path)).toSorted((a, b) => reach(b) - reach(a));
  return furthest !== undefined && reach(furthest) > path.length ? furthest : { ...issue, path };
}

function reach({ path, code }: z.core.$ZodIssue): number {
  return path.length + (code === "invalid_type" ? 0 : 0.5);
}

function refusalOf(found: z.core.$ZodIssue | undefined): ColdpathError {
  const issue = found && closest(found);
  const param = issue?.path.join(".") ?? "";
  if (UNSUPPORTED_KIND.test(param))
    return unsupported(param, `this endpoint does not support this value of "${param}"`);
  const where = param === "" ? "the request body" : param;
  return new ColdpathError(
    "invalid_request",
    `${where}: ${issue?.message ?? "is not valid"}`,
    param === "" ? {} : { param },
  );
}

function refuseUnsupported(request: Readonly<Record<string, unknown>>): void {
  const field = UNSUPPORTED.find((name) => request[name] != null);
  if (field !== undefined) throw unsupported(field, `this endpoint does not support "${field}"`);
}

/** Fields that are valid alone and not together. */
function checkChat(request: ChatCompletionRequest): void {
  const { max_tokens: older, max_completion_tokens: newer } = request;
  if (older != null && newer != null && older !== newer) {
    throw contradiction("max_tokens", "is not what max_completion_tokens says; send one of them");
  }
  if (request.top_logprobs != null && request.logprobs !== true) {
    throw contradiction("top_logprobs", "needs logprobs: true");
  }
  request.messages.forEach((said, i) => {
    if (said.role !== "assistant" || said.content != null || (said.tool_calls ?? []).length > 0) return;
    throw contradiction(`messages.${i}.content`, "is required where the assistant called no tool");
  });
  checkTools(request);
  const { response_format: format, min_tokens: fewest, ignore_eos: endless } = request;
  const shaped = (format != null && format.type !== "text") || mayCallTools(request);
  if (shaped && endless === true) throw contradiction("ignore_eos", "can't be combined with an answer that has a form");
  if (shaped && (fewest ?? 0) > 0)
    throw contradiction("min_tokens", "can't be combined with an answer that has a form");
}

function checkTools(request: ChatCompletionRequest): void {
  const names = (request.tools ?? []).map((each) => each.function.name);
  if (names.length === 0) {
    if (request.tool_choice != null) throw contradiction("tool_choice", "is only allowed with tools");
    if (request.parallel_tool_calls != null) throw contradiction("parallel_tool_calls", "is only allowed with tools");
    return;
  }
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw contradiction("tools", `two functions are named ${twice}`);
  const choice = request.tool_choice;
  if (typeof choice === "object" && choice !== null && !names.includes(choice.function.name)) {
    throw contradiction("tool_choice", `there is no function ${choice.function.name} among the tools`);
  }
  const { response_format: format } = request;
  if (mayCallTools(request) && request.logprobs === true) {
    throw unsupported("logprobs", "this endpoint does not support log probabilities together with tools");
  }
  if (mayCallTools(request) && format != null && format.type !== "text") {
    throw unsupported("response_format", "this endpoint does not support a response_format together with tools");
  }
}

function checkCompletion(request: CompletionRequest): void {
  // It is what tells a chat from a text further on, so it may not come along as a field that nobody knows.
  if ("messages" in request) throw contradiction("messages", "belongs to /v1/chat/completions");
  const { n, best_of: best, echo, logprobs } = request;
  if (countWantedAnswers(request) > ANSWERS_MAX) throw contradiction("n", `is more than ${ANSWERS_MAX} answers in all`);
  if (best != null && best < (n ?? 1)) throw contradiction("best_of", "must not be less than n");
  if (best != null && best > (n ?? 1)) throw unsupported("best_of", `this endpoint does not support "best_of" above n`);
  if (echo === true && logprobs != null) {
    throw unsupported("logprobs", "this endpoint does not support log probabilities of a prompt (echo with logprobs)");
  }
}

/** How many answers are asked for: `n`, to each prompt. */
export function countWantedAnswers(request: ChatCompletionRequest | CompletionRequest): number {
  return countPrompts(request) * (request.n ?? 1);
}

/** How many prompts there are, each with a context of its own. */
export function countPrompts(request: ChatCompletionRequest | CompletionRequest): number {
  return "messages" in request ? 1 : listTexts(request.prompt).length;
}

/** Whether the model is to be told of the tools at all. */
export function mayCallTools({ tools, tool_choice: choice }: ChatCompletionRequest): boolean {
  return (tools ?? []).length > 0 && choice !== "none";
}

function contradiction(param: string, reason: string): ColdpathError {
  return new ColdpathError("invalid_request", `${param}: ${reason}`, { param });
}

function unsupported(param: string, reason: string): ColdpathError {
  return new ColdpathError("unsupported_parameter", reason, { param });
}

/**
 * A response's request as the chat request it stands for.
 *
 * @throws {ColdpathError} what a chat is refused for, in this form's words
 */
export function responseAsChat(request: ResponseRequest): ChatCompletionRequest {
  if ("messages" in request) throw contradiction("messages", "belongs to /v1/chat/completions");
  if (request["n"] != null && request["n"] !== 1) throw unsupported("n", "a response is one answer");
  try {
    return readBody("/v1/chat/completions", chatBodyOf(request));
  } catch (error) {
    if (!(error instanceof ColdpathError) || error.param === null) throw error;
    const param = responseParam(error.param);
    throw new ColdpathError(error.code, error.message.replace(error.param, param), { param });
  }
}

/** The simple form as the chat request it stands for. */
export function generateAsChat(request: GenerateRequest, defaultModel: string): ChatCompletionRequest {
  return {
    model: request.model ?? defaultModel,
    messages: [{ role: "user", content: request.prompt }],
    ...(request.max_tokens === undefined ? {} : { max_tokens: request.max_tokens }),
  };
}
