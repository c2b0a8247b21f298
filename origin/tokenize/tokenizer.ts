/**
 * Text to token ids and back: the model's own chat template and vocabulary. Control tokens (`<|im_start|>` and their
 * like) can come from the template only: the same letters in a message are ordinary text, or any user could speak as
 * the system. Knows nothing of requests' other fields, or of the engine.
 */
import { isUtf8 } from "node:buffer";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { ChatMessage, Tool } from "../../shared/completion-request.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { CHAT_TEMPLATE_FILE, type Manifest, TOKENIZER_FILE } from "../manifest/manifest.ts";
import { AddedTokens } from "./added-tokens.ts";
import { toByteLevel } from "./byte-level.ts";
import { ChatTemplate, type Conversation } from "./chat-template.ts";
import { Vocabulary } from "./vocabulary.ts";
import { type ToolSyntax, findToolSyntax } from "./tool-syntax.ts";

/** What a tokenizer is made of. */
export interface TokenizerSource {
  /** `tokenizer.json` of Hugging Face's tokenizers, parsed. */
  readonly tokenizerJson: unknown;
  /** Jinja; `undefined` for a base model, which goes on with texts and can't chat. */
  readonly chatTemplate: string | undefined;
  readonly tokens: Pick<Manifest["tokens"], "bos" | "addBos" | "names">;
  /** What templates take for today; default the machine's clock. */
  readonly now?: () => Date;
}

/** `name` is undefined where the bytes are no whole characters, `bytes` where the token stands for no text. */
export interface SpelledToken {
  readonly name: string | undefined;
  readonly bytes: Uint8Array | undefined;
}

/**
 * Characters that Unicode keeps for a program's own use and text never holds. One of them, absent from the messages,
 * is put inside every control token in them, so that the template's own are the only whole ones.
 */
const SEALS = Array.from({ length: 32 }, (_, i) => String.fromCodePoint(0xfdd0 + i));

/** Reads the tokenizer of an imported model. */
export function loadTokenizer(folder: string, tokens: TokenizerSource["tokens"]): Tokenizer {
  const template = join(folder, CHAT_TEMPLATE_FILE);
  return new Tokenizer({
    tokenizerJson: JSON.parse(readFileSync(join(folder, TOKENIZER_FILE), "utf8")) as unknown,
    chatTemplate: existsSync(template) ? readFileSync(template, "utf8") : undefined,
    tokens,
  });
}

export class Tokenizer {
  readonly #vocabulary: Vocabulary;
  readonly #template: ChatTemplate | undefined;
  readonly #controls: AddedTokens;
  readonly #controlNames: ReadonlyMap<number, string>;
  /** The token put first where neither the template nor the prompt has put it. */
  readonly #firstToken: number | undefined;
  readonly #toolSyntax: ToolSyntax | undefined;

  /**
   * @param vocabulary - that of `tokenizerJson`, where it has been read already
   * @throws an Error when a part of the vocabulary is not known exactly, or the template can't render the simplest
   * conversation
   */
  constructor(source: TokenizerSource, vocabulary: Vocabulary = new Vocabulary(source.tokenizerJson)) {
    const { chatTemplate, tokens, now = () => new Date() } = source;
    const { controls } = vocabulary;
    this.#vocabulary = vocabulary;
    // One of a single letter can't be made two by a seal, so it is never a control token in a text.
    this.#controls = new AddedTokens(controls.filter(({ content }) => content.length > 1));
    this.#controlNames = new Map(controls.map(({ content, id }) => [id, content]));
    this.#firstToken = tokens.addBos ? (tokens.bos ?? undefined) : undefined;
    const bos = tokens.bos === null ? undefined : this.#controlNames.get(tokens.bos);
    const names = { bos_token: bos ?? "", eos_token: "", ...tokens.names };
    if (chatTemplate === undefined) return;
    const template = new ChatTemplate({ source: chatTemplate, names, now });
    this.#template = template;
    this.encodeChat([{ role: "user", content: "Hello" }]);
    this.#toolSyntax = findToolSyntax((messages, tools) => template.render({ messages, tools }));
  }

  /**
   * A lower bound of a text's tokens, without tokenizing it: what is far too long can be refused before it costs the
   * seconds that a megabyte of spaces takes.
   */
  fewestTokens(text: string): number {
    return this.#vocabulary.fewestTokens(text);
  }

  /** Whether there is a chat template; without one there are texts only. */
  get canChat(): boolean {
    return this.#template !== undefined;
  }

  /** How calls of tools are written; `undefined` where the template does not carry tools. */
  get toolSyntax(): ToolSyntax | undefined {
    return this.#toolSyntax;
  }

  /**
   * A conversation, up to where the assistant is to speak.
   *
   * @param tools - what the model is told that it may call
   * @throws {ColdpathError} `invalid_request` when the template refuses the messages, or there is none
   */
  encodeChat(messages: readonly ChatMessage[], tools: readonly Tool[] = []): Int32Array {
    const template = this.#template;
    if (template === undefined) throw noChatTemplate();
    const said = { messages: messages.map(templateMessage), tools };
    const text = writeJson(said);
    const seal = SEALS.find((candidate) => !text.includes(candidate));
    if (seal === undefined) throw new ColdpathError("invalid_request", "messages hold too many noncharacters");

    const sealed = mapTexts(said, (part) => this.#controls.seal(part, seal)) as typeof said;
    return this.#encode(render(template, sealed), seal);
  }

  /** A bare prompt. Whoever sends one writes the template himself, so control tokens in it are control tokens. */
  encodePrompt(prompt: string): Int32Array {
    return this.#encode(prompt, "");
  }

  /**
   * Turns ids back into text, piece by piece.
   *
   * @param continues - the text goes on from one before it, so that a space it begins with is part of it
   */
  createDetokenizer({ continues }: { readonly continues: boolean }): Detokenizer {
    return new Detokenizer(this.#vocabulary, continues);
  }

  /** One token by itself, for lists of tokens: a control token has a name and no bytes. */
  spell(id: number): SpelledToken {
    const control = this.#controlNames.get(id);
    if (control !== undefined) return { name: control, bytes: undefined };
    const bytes = this.#vocabulary.bytesOf(id);
    return { name: isUtf8(bytes) ? Buffer.from(bytes).toString("utf8") : undefined, bytes };
  }

  /** Every token in byte-level letters, in the order of ids; control tokens, which stand for no text, are empty. */
  listVocabulary(): readonly string[] {
    return Array.from({ length: this.#vocabulary.size }, (_, id) => toByteLevel(this.#vocabulary.bytesOf(id)));
  }

  #encode(text: string, seal: string): Int32Array {
    const ids: number[] = [];
    for (const [i, part] of this.#controls.split(text).entries()) {
      if (typeof part !== "string") {
        ids.push(part.id);
        continue;
      }
      const plain = seal === "" ? part : part.replaceAll(seal, "");
      for (const id of this.#vocabulary.encode(plain, i === 0)) ids.push(id);
    }
    const first = this.#firstToken;
    return Int32Array.from(first === undefined || ids[0] === first ? ids : [first, ...ids]);
  }
}

/** What a base model answers to messages. */
export function noChatTemplate(): ColdpathError {
  const message = "this model has no chat template and can't chat; it goes on with texts, at /v1/completions";
  return new ColdpathError("invalid_request", message, { param: "messages" });
}

/** A template that renders at all refuses messages by throwing, with its author's words. */
function render(template: ChatTemplate, said: Conversation): string {
  try {
    return template.render(said);
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : "no reason given";
    throw new ColdpathError("invalid_request", `the model's chat template refuses these messages: ${reason}`, {
      param: "messages",
      cause,
    });
  }
}

/** A message as templates take it: OpenAI's newer role by its older name, a call's arguments as an object. */
function templateMessage(message: ChatMessage): object {
  const said = { content: textOf(message.content) };
  switch (message.role) {
    case "developer":
      return { role: "system", ...said };
    case "tool":
      return { role: "tool", ...said, tool_call_id: message.tool_call_id };
    case "assistant": {
      const calls = message.tool_calls ?? [];
      return calls.length === 0
        ? { role: "assistant", ...said }
        : { role: "assistant", ...said, tool_calls: calls.map(templateCall) };
    }
    case "system":
    case "user":
      return { role: message.role, ...said };
    default:
      return message satisfies never;
  }
}

function templateCall({
  id,
  function: called,
}: NonNullable<(ChatMessage & { role: "assistant" })["tool_calls"]>[number]): object {
  try {
    const parsed = JSON.parse(called.arguments) as unknown;
    return { id, type: "function", function: { name: called.name, arguments: parsed } };
  } catch (cause) {
    throw new ColdpathError("invalid_request", `the arguments of the call ${id} are not JSON`, {
      param: "messages",
      cause,
    });
  }
}

function writeJson(value: unknown): string {
  try {
    return JSON.stringify(value);
  } catch (cause) {
    // A RangeError: the arguments of a call are deeper than the stack.
    throw new ColdpathError("invalid_request", "messages: nested too deeply", { param: "messages", cause });
  }
}

/** The same value with every text in it changed, the names of fields too. */
function mapTexts(value: unknown, change: (text: string) => string): unknown {
  if (typeof value === "string") return change(value);
  if (Array.isArray(value)) return value.map((each) => mapTexts(each, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [change(name), mapTexts(each, change)]));
}

/** A message's text, whichever way it was sent; empty where an assistant only called tools. */
export function textOf(content: ChatMessage["content"]): string {
  if (content === null || content === undefined) return "";
  return typeof content === "string" ? content : content.map((part) => part.text).join("");
}

/** One answer's text. A character whose bytes are spread over tokens is held back until it is whole. */
export class Detokenizer {
  readonly #vocabulary: Pick<Vocabulary, "bytesOf" | "begin">;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  #begun: boolean;

  constructor(vocabulary: Pick<Vocabulary, "bytesOf" | "begin">, begun: boolean) {
    this.#vocabulary = vocabulary;
    this.#begun = begun;
  }

  push(id: number): string {
    return this.#decoder.decode(this.#take(id), { stream: true });
  }

  /** The answer has ended: a character that was cut off becomes U+FFFD. */
  flush(): string {
    return this.#decoder.decode();
  }

  #take(id: number): Uint8Array {
    const bytes = this.#vocabulary.bytesOf(id);
    if (this.#begun || bytes.length === 0) return bytes;
    this.#begun = true;
    return this.#vocabulary.begin(bytes);
  }
}
