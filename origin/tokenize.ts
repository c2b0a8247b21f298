/**
 * Text to token ids and back: the model's own chat template and vocabulary. Control tokens (`<|im_start|>` and their
 * like) can come from the template only: the same letters in a message are ordinary text, or any user could speak as
 * the system. Knows nothing of requests' other fields, or of the engine.
 */
import { isUtf8 } from "node:buffer";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Template } from "@huggingface/jinja";
import { Tokenizer as Vocabulary } from "@huggingface/tokenizers";
import { z } from "zod";
import type { ChatMessage, Tool } from "../shared/completion-request.ts";
import { ColdpathError } from "../shared/errors.ts";
import { CHAT_TEMPLATE_FILE, type Manifest, TOKENIZER_FILE } from "./manifest.ts";
import { type ToolSyntax, findToolSyntax } from "./tool-syntax.ts";

/** What a tokenizer is made of. */
export interface TokenizerSource {
  /** `tokenizer.json` of Hugging Face's tokenizers: byte-level BPE. */
  readonly tokenizerJson: unknown;
  /** Jinja. */
  readonly chatTemplate: string;
  readonly tokens: Pick<Manifest["tokens"], "bos" | "addBos">;
}

/** `name` is undefined where the bytes are no whole characters, `bytes` where the token stands for no text. */
export interface SpelledToken {
  readonly name: string | undefined;
  readonly bytes: Uint8Array | undefined;
}

const addedToken = z.looseObject({ id: z.int(), content: z.string().min(1), special: z.boolean().optional() });
const tokenizerSchema = z.looseObject({
  added_tokens: z.array(addedToken),
  decoder: z.looseObject({ type: z.literal("ByteLevel") }),
});

/**
 * Characters that Unicode keeps for a program's own use and text never holds. One of them, absent from the messages,
 * is put inside every control token in them, so that the template's own are the only whole ones.
 */
const SEALS = Array.from({ length: 32 }, (_, i) => String.fromCodePoint(0xfdd0 + i));

/** Reads the tokenizer of an imported model. */
export function loadTokenizer(folder: string, tokens: TokenizerSource["tokens"]): Tokenizer {
  return new Tokenizer({
    tokenizerJson: JSON.parse(readFileSync(join(folder, TOKENIZER_FILE), "utf8")) as unknown,
    chatTemplate: readFileSync(join(folder, CHAT_TEMPLATE_FILE), "utf8"),
    tokens,
  });
}

export class Tokenizer {
  readonly #vocabulary: Vocabulary;
  readonly #template: Template;
  /** Control tokens by their text. */
  readonly #controls: ReadonlyMap<string, number>;
  readonly #controlNames: ReadonlyMap<number, string>;
  /** Matches a control token, with a group so that `split` keeps it; `undefined` where the model has none. */
  readonly #controlPattern: RegExp | undefined;
  /** Tokens whose text is not in byte-level letters: control tokens have none, other added ones are as they read. */
  readonly #addedBytes: ReadonlyMap<number, Uint8Array>;
  /** The token put first where neither the template nor the prompt has put it. */
  readonly #firstToken: number | undefined;
  readonly #templateTokens: Readonly<Record<string, string>>;
  /** Bytes of the longest token. */
  readonly #tokenBytesMax: number;
  readonly #toolSyntax: ToolSyntax | undefined;

  /** @throws an Error when the vocabulary is not byte-level or the template can't render the simplest conversation */
  constructor({ tokenizerJson, chatTemplate, tokens }: TokenizerSource) {
    const parsed = tokenizerSchema.parse(tokenizerJson);
    const controls = parsed.added_tokens.filter((token) => token.special === true);
    const others = parsed.added_tokens.filter((token) => token.special !== true);
    const encoder = new TextEncoder();

    this.#vocabulary = new Vocabulary({ ...parsed, added_tokens: others }, {});
    this.#template = new Template(chatTemplate);
    this.#controls = new Map(controls.map(({ content, id }) => [content, id]));
    this.#controlNames = new Map(controls.map(({ content, id }) => [id, content]));
    this.#controlPattern = alternatives([...this.#controls.keys()]);
    this.#addedBytes = new Map([
      ...controls.map(({ id }) => [id, new Uint8Array()] as const),
      ...others.map(({ id, content }) => [id, encoder.encode(content)] as const),
    ]);
    this.#firstToken = tokens.addBos ? (tokens.bos ?? undefined) : undefined;
    this.#templateTokens = { bos_token: controls.find(({ id }) => id === tokens.bos)?.content ?? "", eos_token: "" };
    this.#tokenBytesMax = longestLength(this.#vocabulary.get_vocab(false).keys());
    this.encodeChat([{ role: "user", content: "Hello" }]);
    this.#toolSyntax = findToolSyntax((messages, tools) => this.#render(messages, tools));
  }

  /**
   * A lower bound of a text's tokens, without tokenizing it: what is far too long can be refused before it costs the
   * seconds that a megabyte of spaces takes.
   */
  fewestTokens(text: string): number {
    return Math.ceil(Buffer.byteLength(text) / this.#tokenBytesMax);
  }

  /** How calls of tools are written; `undefined` where the template does not carry tools. */
  get toolSyntax(): ToolSyntax | undefined {
    return this.#toolSyntax;
  }

  /**
   * A conversation, up to where the assistant is to speak.
   *
   * @param tools - what the model is told that it may call
   * @throws {ColdpathError} `invalid_request` when the template refuses the messages
   */
  encodeChat(messages: readonly ChatMessage[], tools: readonly Tool[] = []): Int32Array {
    const said = { messages: messages.map(templateMessage), tools };
    const text = writeJson(said);
    const seal = SEALS.find((candidate) => !text.includes(candidate));
    if (seal === undefined) throw new ColdpathError("invalid_request", "messages hold too many noncharacters");

    const sealed = mapTexts(said, (part) => this.#sealControls(part, seal)) as typeof said;
    return this.#encode(this.#render(sealed.messages, sealed.tools), seal);
  }

  /** A bare prompt. Whoever sends one writes the template himself, so control tokens in it are control tokens. */
  encodePrompt(prompt: string): Int32Array {
    return this.#encode(prompt, "");
  }

  /** Turns ids back into text, piece by piece. */
  createDetokenizer(): Detokenizer {
    return new Detokenizer((id) => this.#bytesOf(id));
  }

  /** One token by itself, for lists of tokens: a control token has a name and no bytes. */
  spell(id: number): SpelledToken {
    const control = this.#controlNames.get(id);
    if (control !== undefined) return { name: control, bytes: undefined };
    const bytes = this.#bytesOf(id);
    return { name: isUtf8(bytes) ? Buffer.from(bytes).toString("utf8") : undefined, bytes };
  }

  /** Every token in byte-level letters, in the order of ids; control tokens, which stand for no text, are empty. */
  listVocabulary(): readonly string[] {
    const ids = [...this.#vocabulary.get_vocab(false).values(), ...this.#addedBytes.keys()];
    const length = ids.reduce((most, id) => Math.max(most, id + 1), 0);
    return Array.from({ length }, (_, id) => {
      const added = this.#addedBytes.get(id);
      return added === undefined ? (this.#vocabulary.id_to_token(id) ?? "") : toByteLevel(added);
    });
  }

  #bytesOf(id: number): Uint8Array {
    return this.#addedBytes.get(id) ?? fromByteLevel(this.#vocabulary.id_to_token(id) ?? "");
  }

  #sealControls(content: string, seal: string): string {
    if (this.#controlPattern === undefined) return content;
    return content.replaceAll(this.#controlPattern, (control) => {
      const [first = "", ...rest] = control;
      return `${first}${seal}${rest.join("")}`;
    });
  }

  /** A template that renders at all refuses messages by throwing, with its author's words. */
  #render(messages: readonly object[], tools: readonly object[]): string {
    const told = tools.length === 0 ? {} : { tools };
    try {
      return this.#template.render({ ...this.#templateTokens, messages, ...told, add_generation_prompt: true });
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : "no reason given";
      throw new ColdpathError("invalid_request", `the model's chat template refuses these messages: ${reason}`, {
        param: "messages",
        cause,
      });
    }
  }

  #encode(text: string, seal: string): Int32Array {
    const sections = this.#controlPattern === undefined ? [text] : text.split(this.#controlPattern);
    const ids = sections.flatMap((section, i) => {
      if (i % 2 === 1) return [this.#controls.get(section) ?? -1];
      const plain = seal === "" ? section : section.replaceAll(seal, "");
      return plain === "" ? [] : this.#vocabulary.encode(plain, { add_special_tokens: false }).ids;
    });
    const first = this.#firstToken;
    return Int32Array.from(first === undefined || ids[0] === first ? ids : [first, ...ids]);
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
  readonly #bytesOf: (id: number) => Uint8Array;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });

  constructor(bytesOf: (id: number) => Uint8Array) {
    this.#bytesOf = bytesOf;
  }

  push(id: number): string {
    return this.#decoder.decode(this.#bytesOf(id), { stream: true });
  }

  /** The answer has ended: a character that was cut off becomes U+FFFD. */
  flush(): string {
    return this.#decoder.decode();
  }
}

/** In byte-level letters a token is as long as its bytes. Not `Math.max(...)`: a vocabulary is too many arguments. */
function longestLength(tokens: Iterable<string>): number {
  let longest = 1;
  for (const token of tokens) longest = Math.max(longest, token.length);
  return longest;
}

/** Longest first, so that a token that begins like another is not cut short. */
function alternatives(texts: readonly string[]): RegExp | undefined {
  if (texts.length === 0) return undefined;
  const longestFirst = texts.toSorted((a, b) => b.length - a.length);
  return new RegExp(`(${longestFirst.map((text) => text.replaceAll(/[\\^$.*+?()[\]{}|/]/g, "\\$&")).join("|")})`, "gu");
}

/**
 * GPT-2's byte-level alphabet: printable Latin-1 stands for itself, the other 68 bytes for U+0100 and up.
 * Source: `bytes_to_unicode` in openai/gpt-2, encoder.py.
 */
const PRINTABLE: readonly (readonly [from: number, to: number])[] = [
  [0x21, 0x7e],
  [0xa1, 0xac],
  [0xae, 0xff],
];
const OTHER_BYTES = Array.from({ length: 256 }, (_, byte) => byte).filter(
  (byte) => !PRINTABLE.some(([from, to]) => byte >= from && byte <= to),
);

function toByteLevel(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => {
    const other = OTHER_BYTES.indexOf(byte);
    return String.fromCodePoint(other < 0 ? byte : 0x100 + other);
  }).join("");
}

function fromByteLevel(token: string): Uint8Array {
  return Uint8Array.from(token, (letter) => {
    const code = letter.codePointAt(0) ?? 0;
    return code < 0x100 ? code : (OTHER_BYTES[code - 0x100] ?? 0x3f);
  });
}
