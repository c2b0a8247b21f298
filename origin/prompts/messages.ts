/** What the main thread and the tokenizer's thread say to each other. Knows neither side. */
import type { ChatMessage, Tool } from "../../shared/completion-request.ts";
import type { ErrorCode } from "../../shared/errors.ts";
import type { Tokenizer, TokenizerSource } from "../tokenize/tokenizer.ts";

/** What a prompt is made of: a conversation, or a text as it is. */
export type PromptSource =
  | { readonly messages: readonly ChatMessage[]; readonly tools: readonly Tool[] }
  | { readonly prompt: string };

/** Where a tokenizer is read from. */
export interface TokenizerFiles {
  /** An imported model's. */
  readonly folder: string;
  readonly tokens: TokenizerSource["tokens"];
}

/** A {@link PromptSource} as JSON: one string is sent faster than many objects. */
export type ToPromptThread = string;

/** `refused`: the prompt is at fault. `failed`: something is that must not be; the thread goes on. */
export type FromPromptThread =
  | { readonly type: "encoded"; readonly ids: Int32Array<ArrayBuffer> }
  | {
      readonly type: "refused";
      readonly code: ErrorCode;
      readonly message: string;
      readonly param: string | null;
    }
  | { readonly type: "failed"; readonly message: string };

/** @throws {ColdpathError} `invalid_request` when the chat template refuses the messages */
export function encodeSource(tokenizer: Tokenizer, source: PromptSource): Int32Array {
  return "messages" in source
    ? tokenizer.encodeChat(source.messages, source.tools)
    : tokenizer.encodePrompt(source.prompt);
}
