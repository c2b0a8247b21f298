/**
 * The shapes an answer takes on the wire, one per route, whole or in chunks. Knows no model and no stream.
 */
import type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatLogprobs,
  Completion,
  CompletionLogprobs,
  FinishReason,
  GenerateResponse,
  TokenLogprob,
  ToolCall,
  ToolCallDelta,
  Usage,
} from "../../shared/completion-response.ts";
import type { TextToken } from "../stream/token-ledger.ts";
import type { SpelledToken } from "../tokenize/tokenizer.ts";

/** A piece of one choice, or all of it. */
interface Piece {
  readonly text: string;
  /** Its tokens; `undefined` where no log probabilities were asked for. */
  readonly tokens: readonly TextToken[] | undefined;
  /** Calls of tools, or more of one. */
  readonly calls?: readonly ToolCallDelta[];
}

/** A finished choice. */
interface Choice extends Omit<Piece, "calls"> {
  readonly toolCalls: readonly ToolCall[];
  readonly reason: FinishReason;
}

/** How one answer is written. `index` says which choice. */
export interface Reply {
  whole(choices: readonly Choice[], usage: Usage): ChatCompletion | Completion | GenerateResponse;
  /** The chunk before any text, where the route has one. */
  opening(index: number): ChatCompletionChunk | undefined;
  delta(index: number, piece: Piece): ChatCompletionChunk | Completion;
  closing(index: number, reason: FinishReason): ChatCompletionChunk | Completion;
  /** The chunk after the last choice, for clients that asked for it. */
  usage(usage: Usage): ChatCompletionChunk | Completion;
}

export interface ReplyOptions {
  /** What the answer's id ends with. */
  readonly suffix: string;
  /** Unix seconds. */
  readonly created: number;
  readonly model: string;
  /** Where it is asked for, every other chunk says `usage: null`, as OpenAI's do. */
  readonly includeUsage: boolean;
  /** A token by itself. */
  readonly spell: (id: number) => SpelledToken;
}

export function createChatReply({ suffix, created, model, includeUsage, spell }: ReplyOptions): Reply {
  const id = `chatcmpl-${suffix}`;
  const head = { id, object: "chat.completion.chunk", created, model } as const;
  const noUsage = includeUsage ? { usage: null } : {};
  type ChunkChoice = ChatCompletionChunk["choices"][number];
  const chunk = (choice: Omit<ChunkChoice, "logprobs"> & { readonly logprobs?: ChatLogprobs | null }) => ({
    ...head,
    choices: [{ logprobs: null, ...choice }],
    ...noUsage,
  });
  return {
    whole: (choices, usage) => ({
      id,
      object: "chat.completion",
      created,
      model,
      choices: choices.map(({ text, tokens, toolCalls, reason }, index) => ({
        index,
        message:
          toolCalls.length === 0
            ? { role: "assistant", content: text }
            : { role: "assistant", content: text === "" ? null : text, tool_calls: toolCalls },
        finish_reason: reason,
        logprobs: chatLogprobs(tokens, spell),
      })),
      usage,
    }),
    opening: (index) => chunk({ index, delta: { role: "assistant", content: "" }, finish_reason: null }),
    delta: (index, { text, tokens, calls }) => {
      const delta = calls === undefined ? { content: text } : { tool_calls: calls };
      return chunk({ index, delta, finish_reason: null, logprobs: chatLogprobs(tokens, spell) });
    },
    closing: (index, reason) => chunk({ index, delta: {}, finish_reason: reason }),
    usage: (usage) => ({ ...head, choices: [], usage }),
  };
}

export function createCompletionReply({ suffix, created, model, includeUsage, spell }: ReplyOptions): Reply {
  const head = { id: `cmpl-${suffix}`, object: "text_completion", created, model } as const;
  const noUsage = includeUsage ? { usage: null } : {};
  const choice = (index: number, { text, tokens }: Omit<Piece, "calls">, reason: FinishReason | null) => ({
    index,
    text,
    finish_reason: reason,
    logprobs: completionLogprobs(tokens, spell),
  });
  const nothing: Piece = { text: "", tokens: undefined };
  return {
    whole: (choices, usage) => ({ ...head, choices: choices.map((each, i) => choice(i, each, each.reason)), usage }),
    opening: () => undefined,
    delta: (index, piece) => ({ ...head, choices: [choice(index, piece, null)], ...noUsage }),
    closing: (index, reason) => ({ ...head, choices: [choice(index, nothing, reason)], ...noUsage }),
    usage: (usage) => ({ ...head, choices: [], usage }),
  };
}

/** `/generate`: the chat's answer without its envelope; it is never streamed and has one choice. */
export function createGenerateReply(options: ReplyOptions): Reply {
  return { ...createChatReply(options), whole: ([choice]) => ({ response: choice?.text ?? "" }) };
}

function chatLogprobs(tokens: readonly TextToken[] | undefined, spell: ReplyOptions["spell"]): ChatLogprobs | null {
  if (tokens === undefined) return null;
  const describe = (id: number, logprob: number): TokenLogprob => {
    const { name, bytes } = spell(id);
    return { token: name ?? escapeBytes(bytes), logprob, bytes: bytes === undefined ? null : [...bytes] };
  };
  const content = tokens.map(({ id, logprob, top }) => ({
    ...describe(id, logprob),
    top_logprobs: top.map((alternative) => describe(alternative.token, alternative.logprob)),
  }));
  return { content, refusal: null };
}

function completionLogprobs(
  tokens: readonly TextToken[] | undefined,
  spell: ReplyOptions["spell"],
): CompletionLogprobs | null {
  if (tokens === undefined) return null;
  const name = (id: number) => {
    const spelled = spell(id);
    return spelled.name ?? `bytes:${escapeBytes(spelled.bytes)}`;
  };
  return {
    tokens: tokens.map(({ id }) => name(id)),
    token_logprobs: tokens.map(({ logprob }) => logprob),
    top_logprobs: tokens.map(({ id, logprob, top }) =>
      Object.fromEntries([...top, { token: id, logprob }].map((each) => [name(each.token), each.logprob])),
    ),
    text_offset: tokens.map(({ start }) => start),
  };
}

/** OpenAI's way of writing bytes that are no whole characters. */
function escapeBytes(bytes: Uint8Array = new Uint8Array()): string {
  return Array.from(bytes, (byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
}
