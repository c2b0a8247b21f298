/**
 * An answer as `POST /v1/responses` writes it: one object, or the events that build it piece by piece. Live, from memory
 * and whole, it is put together by the same steps, so all three are one. Knows nothing of what was asked but the settings
 * that are said again.
 *
 * Source: OpenAI API reference, "The response object" and "Streaming events".
 */
import type { ChatCompletionChunk, ToolCallDelta, Usage } from "../../shared/completion-response.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import type { ResponseSettings } from "../question/response-settings.ts";

type Chunk = Pick<ChatCompletionChunk, "id" | "created" | "model" | "choices"> & { readonly usage?: Usage | null };
type Choice = ChatCompletionChunk["choices"][number];
type TokenLogprobs = NonNullable<Choice["logprobs"]>["content"];

interface Message {
  readonly type: "message";
  readonly id: string;
  text: string;
  readonly logprobs: TokenLogprobs[number][];
}

interface FunctionCall {
  readonly type: "function_call";
  readonly id: string;
  readonly callId: string;
  readonly name: string;
  arguments: string;
}

/** Texts and calls in the order in which they began; one is open at most, the last. */
type Item = Message | FunctionCall;

export class ResponseEvents {
  readonly #settings: Readonly<Record<string, unknown>>;
  readonly #items: Item[] = [];
  /** Which of the items a call of the chat's is. */
  readonly #calls: FunctionCall[] = [];
  #head: Pick<Chunk, "id" | "created" | "model"> | undefined;
  #open: Item | undefined;
  #cut = false;
  #usage: Usage | undefined;
  #sequence = 0;
  #written = "";

  constructor(settings: ResponseSettings) {
    this.#settings = JSON.parse(settings) as Readonly<Record<string, unknown>>;
  }

  /** The events that one chunk of a chat becomes. */
  take({ id, created, model, choices, usage }: Chunk): string {
    if (this.#head === undefined) {
      this.#head = { id, created, model };
      this.#write("response.created", { response: this.#response("in_progress") });
      this.#write("response.in_progress", { response: this.#response("in_progress") });
    }
    this.#usage = usage ?? this.#usage;
    for (const { delta, logprobs, finish_reason: reason } of choices) {
      if ((delta.content ?? "") !== "" || logprobs != null) this.#say(delta.content ?? "", logprobs?.content ?? []);
      for (const call of delta.tool_calls ?? []) this.#call(call);
      if (reason === "length") this.#cut = true;
    }
    return this.#flush();
  }

  /** The events that end a complete answer. */
  end(): string {
    const { response, status } = this;
    this.#write(`response.${status}`, { response });
    return this.#flush();
  }

  /** The event that ends a broken stream, in this form's words and in the envelope that every other error has. */
  break({ error }: ErrorEnvelope): string {
    const { code, message, param } = error;
    this.#write("error", { code, message, param, error });
    return this.#flush();
  }

  get status(): "completed" | "incomplete" {
    return this.#cut ? "incomplete" : "completed";
  }

  /** The whole response, once all has been taken. */
  get response(): Readonly<Record<string, unknown>> {
    // An answer of no words is a message, too.
    if (this.#items.length === 0) this.#say("", []);
    this.#close();
    return this.#response(this.status);
  }

  #say(text: string, logprobs: TokenLogprobs): void {
    const message = this.#open?.type === "message" ? this.#open : this.#begin(this.#newMessage());
    message.text += text;
    message.logprobs.push(...logprobs);
    this.#write("response.output_text.delta", { ...this.#placeOf(message), content_index: 0, delta: text, logprobs });
  }

  #newMessage(): Message {
    return { type: "message", id: this.#idOf("msg", this.#items.length), text: "", logprobs: [] };
  }

  #call({ index, id = "", function: part }: ToolCallDelta): void {
    const call = (this.#calls[index] ??= this.#begin({
      type: "function_call",
      id: this.#idOf("fc", this.#items.length),
      callId: id,
      name: part.name ?? "",
      arguments: "",
    }));
    if (part.arguments === "") return;
    call.arguments += part.arguments;
    this.#write("response.function_call_arguments.delta", { ...this.#placeOf(call), delta: part.arguments });
  }

  #begin<Begun extends Item>(item: Begun): Begun {
    this.#close();
    this.#open = item;
    this.#items.push(item);
    const empty = { ...itemOf(item, "in_progress"), ...(item.type === "message" ? { content: [] } : {}) };
    this.#write("response.output_item.added", { output_index: this.#items.length - 1, item: empty });
    if (item.type === "message") {
      this.#write("response.content_part.added", { ...this.#placeOf(item), content_index: 0, part: partOf(item) });
    }
    return item;
  }

  #close(): void {
    const item = this.#open;
    if (item === undefined) return;
    this.#open = undefined;
    const place = this.#placeOf(item);
    if (item.type === "message") {
      const { text, logprobs } = item;
      this.#write("response.output_text.done", { ...place, content_index: 0, text, logprobs });
      this.#write("response.content_part.done", { ...place, content_index: 0, part: partOf(item) });
    } else {
      this.#write("response.function_call_arguments.done", { ...place, name: item.name, arguments: item.arguments });
    }
    this.#write("response.output_item.done", { output_index: place.output_index, item: itemOf(item, this.status) });
  }

  #placeOf(item: Item): { readonly item_id: string; readonly output_index: number } {
    return { item_id: item.id, output_index: this.#items.indexOf(item) };
  }

  #response(status: "in_progress" | "completed" | "incomplete"): Readonly<Record<string, unknown>> {
    const { created, model } = this.#head ?? {};
    const ended = status !== "in_progress";
    return {
      id: this.#idOf("resp"),
      object: "response",
      created_at: created,
      status,
      background: false,
      error: null,
      incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
      model,
      output: ended
        ? this.#items.map((item, i) => itemOf(item, this.#cut && i === this.#items.length - 1 ? status : "completed"))
        : [],
      previous_response_id: null,
      reasoning: { effort: null, summary: null },
      service_tier: "default",
      store: false,
      truncation: "disabled",
      usage: ended && this.#usage !== undefined ? usageOf(this.#usage) : null,
      ...this.#settings,
    };
  }

  /** The answer's own id, whatever it is an id of. */
  #idOf(kind: "resp" | "msg" | "fc", place = 0): string {
    const own = (this.#head?.id ?? "").replace(/^chatcmpl-/, "");
    return place === 0 ? `${kind}_${own}` : `${kind}_${own}-${place}`;
  }

  #write(type: string, fields: object): void {
    const data = JSON.stringify({ type, sequence_number: this.#sequence, ...fields });
    this.#sequence += 1;
    this.#written += `event: ${type}\ndata: ${data}\n\n`;
  }

  #flush(): string {
    const written = this.#written;
    this.#written = "";
    return written;
  }
}

function itemOf(item: Item, status: string): Readonly<Record<string, unknown>> {
  const { id, type } = item;
  return item.type === "message"
    ? { id, type, status, role: "assistant", content: [partOf(item)] }
    : { id, type, status, call_id: item.callId, name: item.name, arguments: item.arguments };
}

function partOf({ text, logprobs }: Message): Readonly<Record<string, unknown>> {
  return { type: "output_text", text, annotations: [], logprobs: [...logprobs] };
}

function usageOf({ prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details }: Usage) {
  return {
    input_tokens: prompt_tokens,
    input_tokens_details: { cached_tokens: prompt_tokens_details?.cached_tokens ?? 0 },
    output_tokens: completion_tokens,
    output_tokens_details: { reasoning_tokens: 0 },
    total_tokens,
  };
}
