/**
 * The requests of OpenAI's wire format that coldpath accepts, and the one parser for them. Objects are loose: an
 * unknown field is kept, because the cache's identity must cover whatever it may mean one day.
 *
 * Source: OpenAI API reference, "Create chat completion" and "Create completion"; for `top_k`, `min_p`, `min_tokens`,
 * `ignore_eos` and `repetition_penalty`, which OpenAI does not have, vLLM's names and meanings.
 */
import * as z from "zod";
import { ColdpathError } from "./errors.ts";

const contentPart = z.looseObject({ type: z.literal("text", "only text parts are supported"), text: z.string() });

const message = z.looseObject({
  role: z.enum(["system", "developer", "user", "assistant"]),
  content: z.union([z.string(), z.array(contentPart).min(1)]),
});

const penalty = z.number().min(-2).max(2).nullish();

/** Fields that both completion routes share. `null` means absent, as OpenAI's clients send it. */
const sampling = {
  model: z.string().min(1),
  max_tokens: z.int().min(1).nullish(),
  min_tokens: z.int().min(0).nullish(),
  ignore_eos: z.boolean().nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().gt(0).max(1).nullish(),
  top_k: z.int().min(0).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).max(2).nullish(),
  seed: z.int().nullish(),
  stop: z.union([z.string().min(1), z.array(z.string().min(1)).min(1).max(4)]).nullish(),
  presence_penalty: penalty,
  frequency_penalty: penalty,
  logit_bias: z.record(z.string().regex(/^\d+$/), z.number().min(-100).max(100)).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.looseObject({ include_usage: z.boolean().nullish() }).nullish(),
  user: z.string().nullish(),
  metadata: z.record(z.string(), z.unknown()).nullish(),
  // The engine does not do these yet: a client that asks for them must hear so, not get something else in silence.
  n: z.literal(1).nullish(),
  best_of: z.literal(1).nullish(),
};

const chatCompletionRequest = z.looseObject({
  ...sampling,
  messages: z.array(message).min(1),
  max_completion_tokens: z.int().min(1).nullish(),
  logprobs: z.literal(false).nullish(),
  response_format: z.looseObject({ type: z.literal("text") }).nullish(),
  tools: z.array(z.unknown()).max(0).nullish(),
});

const completionRequest = z.looseObject({
  ...sampling,
  prompt: z.string().min(1),
  logprobs: z.null().optional(),
  echo: z.literal(false).nullish(),
  suffix: z.null().optional(),
});

const generateRequest = z.strictObject({
  prompt: z.string().min(1),
  model: z.string().min(1).optional(),
  max_tokens: z.int().min(1).optional(),
});

export type ChatMessage = z.infer<typeof message>;
export type ChatCompletionRequest = z.infer<typeof chatCompletionRequest>;
export type CompletionRequest = z.infer<typeof completionRequest>;
export type GenerateRequest = z.infer<typeof generateRequest>;

/** The routes that generate text; the path is part of what is asked. */
export const COMPLETION_SCHEMAS = {
  "/v1/chat/completions": chatCompletionRequest,
  "/v1/completions": completionRequest,
  "/generate": generateRequest,
} as const;

export type CompletionPath = keyof typeof COMPLETION_SCHEMAS;

/** Whether a path is one of the routes that generate text. */
export function isCompletionPath(path: string): path is CompletionPath {
  return Object.hasOwn(COMPLETION_SCHEMAS, path);
}

export type RequestOf<Path extends CompletionPath> = z.infer<(typeof COMPLETION_SCHEMAS)[Path]>;

/** Fields whose presence asks for something the engine can't do; any other refusal is `invalid_request`. */
const UNSUPPORTED = new Set(["n", "best_of", "logprobs", "response_format", "tools", "echo", "suffix"]);

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
  const parsed = COMPLETION_SCHEMAS[path].safeParse(body);
  if (parsed.success) return parsed.data as RequestOf<Path>;

  const issue = parsed.error.issues[0];
  const param = issue?.path.join(".") ?? "";
  const field = String(issue?.path[0] ?? "");
  if (UNSUPPORTED.has(field)) {
    throw new ColdpathError("unsupported_parameter", `this endpoint does not support this value of "${field}"`, {
      param,
    });
  }
  const where = param === "" ? "the request body" : param;
  throw new ColdpathError(
    "invalid_request",
    `${where}: ${issue?.message ?? "is not valid"}`,
    param === "" ? {} : { param },
  );
}

/** The simple form as the chat request it stands for. */
export function generateAsChat(request: GenerateRequest, defaultModel: string): ChatCompletionRequest {
  return {
    model: request.model ?? defaultModel,
    messages: [{ role: "user", content: request.prompt }],
    ...(request.max_tokens === undefined ? {} : { max_tokens: request.max_tokens }),
  };
}
