/**
 * What a parsed request asks, in the engine's terms: token ids, a length that fits the context, a way of sampling.
 * Fields that only the model at hand can judge are judged here. Starts nothing.
 */
import {
  type ChatCompletionRequest,
  type CompletionRequest,
  countWantedAnswers,
  countPrompts,
  mayCallTools,
} from "../../shared/completion-request.ts";
import { ColdpathError } from "../../shared/errors.ts";
import type { SequenceRequest } from "../engine/sequence.ts";
import type { GenerationDefaults } from "../manifest/generation-defaults.ts";
import { checkSchema } from "../grammar/check-schema.ts";
import type { GrammarSpec } from "../grammar/messages.ts";
import type { Sampling } from "../engine/sample.ts";
import type { PromptEncoder } from "../prompts/encoder.ts";
import { readPrompts } from "../prompts/read-prompts.ts";
import { noChatTemplate, type Tokenizer } from "../tokenize/tokenizer.ts";
import { type ToolSyntax, toolGrammar } from "../tokenize/tool-syntax.ts";

/** A model that makes text. */
export interface ServedModel {
  readonly id: string;
  readonly digest: string;
  /** Unix seconds. */
  readonly created: number;
  readonly contextLength: number;
  readonly vocabSize: number;
  readonly tokenizer: Tokenizer;
  /** How answers are drawn where a request does not say. */
  readonly generation: GenerationDefaults;
}

interface ToolPlan {
  readonly syntax: ToolSyntax;
  /** Of the functions that may be called. */
  readonly names: readonly string[];
  readonly grammar: GrammarSpec;
}

/** A request ready for the engine. */
export interface Prepared {
  /** One for each answer: as many as there are choices to the first prompt, then to the next. */
  readonly answers: readonly PreparedAnswer[];
  /** Tokens of all prompts, each counted once. */
  readonly promptTokens: number;
  readonly stops: readonly string[];
  /** What the answer must look like; `undefined` where it may look like anything. */
  readonly grammar: GrammarSpec | undefined;
  /** How calls of tools stand in the text; `undefined` where there are none. */
  readonly tools: Pick<ToolPlan, "syntax" | "names"> | undefined;
  /** Whether the text goes on from the prompt's, rather than being an answer of its own. */
  readonly continues: boolean;
}

interface PreparedAnswer {
  readonly sequence: Omit<SequenceRequest, "id">;
  /** What the text begins with. */
  readonly echo: string;
  /** Whether it is the first to its prompt, which computes what the others then find. */
  readonly first: boolean;
}

export interface PrepareOptions {
  readonly model: ServedModel;
  readonly prompts: Pick<PromptEncoder, "encode">;
  /** The seed of a request that names none: 32 random bits. */
  readonly createSeed: () => number;
  /** Bytes of the largest JSON Schema. */
  readonly schemaBytesMax: number;
  /** Aborted when nobody wants the answer any more; then this throws. */
  readonly signal: AbortSignal;
}

/**
 * How many answers are wanted.
 *
 * @throws {ColdpathError} `invalid_request` where they are more than the operator allows
 */
export function countAllowed(request: AnyCompletionRequest, choicesMax: number): number {
  const answers = countWantedAnswers(request);
  if (answers <= choicesMax) return answers;
  const param = countPrompts(request) > choicesMax ? "prompt" : "n";
  throw new ColdpathError("invalid_request", `${param}: at most ${choicesMax} answers at once`, { param });
}

export type AnyCompletionRequest = ChatCompletionRequest | CompletionRequest;

/**
 * @throws {ColdpathError} `context_length_exceeded`, `invalid_request`, and what the encoder throws
 */
export async function prepare(
  request: AnyCompletionRequest,
  { model, prompts, createSeed, schemaBytesMax, signal }: PrepareOptions,
): Promise<Prepared> {
  if ("messages" in request && !model.tokenizer.canChat) throw noChatTemplate();
  const tools = readTools(request, model, schemaBytesMax);
  const grammar = tools?.grammar ?? readForm(request, schemaBytesMax);
  const read = await readPrompts(request, model, (source) => prompts.encode(source, signal));
  const logprobs = askedAlternatives(request);
  const answers = read.flatMap(({ ids, echo }) => {
    const maxTokens = fitAnswer(ids.length, askedTokens(request), model.contextLength);
    const sampling = readSampling(request, { model, maxTokens, createSeed });
    return Array.from({ length: request.n ?? 1 }, (_, choice): PreparedAnswer => {
      const drawn = choice === 0 ? sampling : { ...sampling, seed: deriveSeed(sampling.seed, choice) };
      const sequence = { prompt: ids, maxTokens, sampling: drawn, ...(logprobs === undefined ? {} : { logprobs }) };
      return { sequence, echo, first: choice === 0 };
    });
  });
  return {
    answers,
    promptTokens: read.reduce((sum, { ids }) => sum + ids.length, 0),
    stops: typeof request.stop === "string" ? [request.stop] : (request.stop ?? []),
    grammar,
    tools,
    continues: !("messages" in request),
  };
}

/**
 * What the model is told of tools, and how it calls them.
 *
 * @throws {ColdpathError} `unsupported_parameter` where its chat template does not carry them
 */
function readTools(
  request: AnyCompletionRequest,
  { tokenizer, id }: ServedModel,
  schemaBytesMax: number,
): ToolPlan | undefined {
  if (!("messages" in request)) return undefined;
  const chat = request as ChatCompletionRequest;
  const said = chat.messages.findIndex(
    (each) => each.role === "tool" || (each.role === "assistant" && each.tool_calls),
  );
  const wanted = mayCallTools(chat);
  if (!wanted && said < 0) return undefined;
  const syntax = tokenizer.toolSyntax;
  if (syntax === undefined) {
    const param = wanted ? "tools" : `messages.${said}`;
    throw new ColdpathError("unsupported_parameter", `the chat template of "${id}" does not carry tools`, { param });
  }
  if (!wanted) return undefined;

  const all = chat.tools ?? [];
  all.forEach((tool, i) => {
    const param = `tools.${i}.function.parameters`;
    checkSchema(tool.function.parameters ?? {}, { param, bytesMax: schemaBytesMax });
  });
  const choice = chat.tool_choice ?? "auto";
  const named = typeof choice === "object" ? choice.function.name : undefined;
  const tools = named === undefined ? all : all.filter((tool) => tool.function.name === named);
  const parallel = named === undefined && chat.parallel_tool_calls !== false;
  const grammar = toolGrammar(syntax, { tools, required: choice !== "auto", parallel });
  return { syntax, names: tools.map((tool) => tool.function.name), grammar };
}

/** An object of any form for `json_object`, as OpenAI has it: never a bare list or number. */
const ANY_OBJECT: GrammarSpec = { type: "json_schema", schema: JSON.stringify({ type: "object" }), closed: false };

/** @throws {ColdpathError} for a schema that can't be enforced */
function readForm(request: AnyCompletionRequest, schemaBytesMax: number): GrammarSpec | undefined {
  const { response_format: format } = request as ChatCompletionRequest;
  if (!("messages" in request) || format == null || format.type === "text") return undefined;
  if (format.type === "json_object") return ANY_OBJECT;
  const { schema, strict } = format.json_schema;
  checkSchema(schema, { param: "response_format.json_schema.schema", bytesMax: schemaBytesMax });
  return { type: "json_schema", schema: JSON.stringify(schema), closed: strict === true };
}

/** How many alternatives are wanted with each token's log probability; `undefined` where neither is. */
function askedAlternatives(request: AnyCompletionRequest): number | undefined {
  if ("messages" in request) return request.logprobs === true ? (request.top_logprobs ?? 0) : undefined;
  return request.logprobs ?? undefined;
}

/**
 * The seed of a further choice, mixed so that no other request's seed gives the same answer by a likely chance. 53 bits
 * are kept, which a number holds exactly.
 *
 * Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (SplitMix64's step and finalizer).
 */
function deriveSeed(seed: number, choice: number): number {
  let bits = wrap(BigInt(seed) + 0x9e3779b97f4a7c15n * BigInt(choice));
  bits = wrap((bits ^ (bits >> 30n)) * 0xbf58476d1ce4e5b9n);
  bits = wrap((bits ^ (bits >> 27n)) * 0x94d049bb133111ebn);
  return Number((bits ^ (bits >> 31n)) >> 11n);
}

function wrap(bits: bigint): bigint {
  return BigInt.asUintN(64, bits);
}

/** `max_completion_tokens` is OpenAI's newer name and wins. */
function askedTokens(request: AnyCompletionRequest): AskedTokens | undefined {
  if ("messages" in request && request.max_completion_tokens != null) {
    return { param: "max_completion_tokens", tokens: Number(request.max_completion_tokens) };
  }
  return request.max_tokens == null ? undefined : { param: "max_tokens", tokens: request.max_tokens };
}

interface AskedTokens {
  readonly param: "max_tokens" | "max_completion_tokens";
  readonly tokens: number;
}

/** Without a wish the answer may go on until the context is full. */
function fitAnswer(promptTokens: number, asked: AskedTokens | undefined, contextLength: number): number {
  const room = contextLength - promptTokens;
  if (asked === undefined) return room;
  if (asked.tokens <= room) return asked.tokens;
  throw new ColdpathError(
    "context_length_exceeded",
    `This model's maximum context length is ${contextLength} tokens. However, you requested ` +
      `${promptTokens + asked.tokens} tokens (${promptTokens} in the prompt, ${asked.tokens} for the answer). ` +
      `Please reduce either of them.`,
    { param: asked.param },
  );
}

function readSampling(
  request: AnyCompletionRequest,
  {
    model: { vocabSize, generation },
    maxTokens,
    createSeed,
  }: { readonly model: ServedModel; readonly maxTokens: number; readonly createSeed: () => number },
): Sampling {
  return {
    temperature: request.temperature ?? generation.temperature ?? 1,
    topK: request.top_k ?? generation.top_k ?? 0,
    topP: request.top_p ?? generation.top_p ?? 1,
    minP: request.min_p ?? generation.min_p ?? 0,
    repetitionPenalty: request.repetition_penalty ?? generation.repetition_penalty ?? 1,
    presencePenalty: request.presence_penalty ?? 0,
    frequencyPenalty: request.frequency_penalty ?? 0,
    logitBias: Object.entries(request.logit_bias ?? {}).map(([key, bias]) => [readToken(key, vocabSize), bias]),
    minTokens: request.ignore_eos === true ? maxTokens : readFewest(request.min_tokens ?? 0, maxTokens),
    seed: request.seed ?? createSeed(),
  };
}

function readFewest(minTokens: number, maxTokens: number): number {
  if (minTokens <= maxTokens) return minTokens;
  const message = `min_tokens: is ${minTokens}, but the answer has room for ${maxTokens} tokens`;
  throw new ColdpathError("invalid_request", message, { param: "min_tokens" });
}

function readToken(key: string, vocabSize: number): number {
  const token = Number(key);
  if (token < vocabSize) return token;
  throw new ColdpathError("invalid_request", `logit_bias: the model has no token ${key}`, { param: "logit_bias" });
}
