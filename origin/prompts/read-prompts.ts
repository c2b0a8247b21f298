/**
 * A request's prompts as token ids: its conversation, or its texts, of which the older form may send several, each with
 * an answer of its own. Ids that a client sends itself are taken as they are. Knows nothing of how answers are made.
 */
import { type ChatCompletionRequest, type CompletionRequest, mayCallTools } from "../../shared/completion-request.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { listTexts } from "../../shared/text-input.ts";
import { textOf, type Tokenizer } from "../tokenize/tokenizer.ts";
import type { PromptSource } from "./messages.ts";

export interface ReadPrompt {
  readonly ids: Int32Array;
  /** The prompt's own text where the answer is to begin with it, else empty. */
  readonly echo: string;
}

export interface PromptReader {
  readonly tokenizer: Tokenizer;
  readonly contextLength: number;
  readonly vocabSize: number;
}

/**
 * In the request's order.
 *
 * @param encode - turns one prompt that is no ids yet into ids
 * @throws {ColdpathError} `context_length_exceeded`, `invalid_request`, and what `encode` throws
 */
export async function readPrompts(
  request: ChatCompletionRequest | CompletionRequest,
  reader: PromptReader,
  encode: (source: PromptSource) => Promise<Int32Array>,
): Promise<readonly ReadPrompt[]> {
  if ("messages" in request) {
    const chat = request as ChatCompletionRequest;
    const source = { messages: chat.messages, tools: mayCallTools(chat) ? (chat.tools ?? []) : [] };
    const texts = chat.messages.map(({ content }) => textOf(content));
    return [{ ids: await tokenize(source, { ...reader, texts, param: "messages" }, encode), echo: "" }];
  }
  const prompts: readonly (string | number[])[] = listTexts(request.prompt);
  const read: ReadPrompt[] = [];
  for (const [i, prompt] of prompts.entries()) {
    const param = prompts.length === 1 ? "prompt" : `prompt.${i}`;
    if (typeof prompt === "string") {
      const ids = await tokenize({ prompt }, { ...reader, texts: [prompt], param }, encode);
      read.push({ ids, echo: request.echo === true ? prompt : "" });
    } else {
      const ids = checkIds(prompt, { ...reader, param });
      read.push({ ids, echo: request.echo === true ? spell(ids, reader.tokenizer) : "" });
    }
  }
  return read;
}

async function tokenize(
  source: PromptSource,
  {
    tokenizer,
    contextLength,
    texts,
    param,
  }: PromptReader & { readonly texts: readonly string[]; readonly param: string },
  encode: (source: PromptSource) => Promise<Int32Array>,
): Promise<Int32Array> {
  const fewest = texts.reduce((sum, text) => sum + tokenizer.fewestTokens(text), 0);
  if (fewest > contextLength) throw promptTooLong({ param, atLeast: fewest, contextLength });

  const ids = await encode(source);
  if (ids.length === 0) throw new ColdpathError("invalid_request", `${param}: holds no token`, { param });
  if (ids.length >= contextLength) throw promptTooLong({ param, atLeast: ids.length, contextLength });
  return ids;
}

function checkIds(
  prompt: readonly number[],
  { contextLength, vocabSize, param }: PromptReader & { readonly param: string },
): Int32Array {
  const unknown = prompt.find((id) => id >= vocabSize);
  if (unknown !== undefined) {
    throw new ColdpathError("invalid_request", `${param}: the model has no token ${unknown}`, { param });
  }
  if (prompt.length >= contextLength) throw promptTooLong({ param, atLeast: prompt.length, contextLength });
  return Int32Array.from(prompt);
}

/** The text that ids stand for. */
function spell(ids: Int32Array, tokenizer: Tokenizer): string {
  const detokenizer = tokenizer.createDetokenizer({ continues: false });
  return Array.from(ids, (id) => detokenizer.push(id)).join("") + detokenizer.flush();
}

function promptTooLong(found: { param: string; atLeast: number; contextLength: number }): ColdpathError {
  const { param, atLeast, contextLength } = found;
  const message =
    `This model's maximum context length is ${contextLength} tokens, prompt and answer together. ` +
    `However, your ${param} has at least ${atLeast} tokens. Please reduce the length of the ${param}.`;
  return new ColdpathError("context_length_exceeded", message, { param });
}
