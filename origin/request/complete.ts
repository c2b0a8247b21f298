/**
 * One completion from parsed request to response: admit → coalesce → prepare → generate → reply. The only file that sees
 * the request, the engine and the response together; knows no routes and no signatures.
 *
 * Making an answer and reading it are two things: the answer is made once (`LiveAnswer`), and every request that asked
 * for it reads it in its own form, at its own pace, and leaves when it likes.
 */
import { countWantedAnswers } from "../../shared/completion-request.ts";
import type { FinishReason, ToolCall, ToolCallDelta, Usage } from "../../shared/completion-response.ts";
import type { Priority, ReadEdgeContext } from "../../shared/edge-context.ts";
import { ColdpathError, type ErrorCode, toColdpathError } from "../../shared/errors.ts";
import { SSE_DONE, SSE_HEADERS, sseData, sseError, sseQueued } from "../../shared/sse.ts";
import type { Admission } from "./admit.ts";
import type { Coalescer } from "./coalesce.ts";
import { type EngineClient, EngineError, type EngineErrorReason } from "../engine/client.ts";
import { CLIENT_CLOSED, type Exchange } from "./exchange.ts";
import { GrammarError, type GrammarLease, type GrammarService } from "../grammar/service.ts";
import { Abandoned, LiveAnswer, type LiveEvent, type LiveReader } from "./live-answer.ts";
import type { ModelMetrics } from "../operate/metrics.ts";
import { type AnyCompletionRequest, type Prepared, type ServedModel, countAllowed, prepare } from "./prepare.ts";
import type { PromptEncoder } from "../prompts/encoder.ts";
import type { Reply } from "./reply.ts";
import { ToolCallReader, ToolEvents } from "../stream/tool-calls.ts";
import { type StreamPiece, TextReader, createEventStream } from "../stream/text-reader.ts";
import type { TextToken } from "../stream/token-ledger.ts";

export interface CompleteOptions {
  readonly model: ServedModel;
  readonly engine: Pick<EngineClient, "submit">;
  readonly grammars: Pick<GrammarService, "lease">;
  readonly prompts: Pick<PromptEncoder, "encode">;
  readonly admission: Admission;
  readonly coalescer: Coalescer;
  readonly metrics: ModelMetrics;
  /** The seed of a request that names none. */
  readonly createSeed: () => number;
  /** The most choices (`n`) of one request. */
  readonly choicesMax: number;
  /** Bytes of the largest JSON Schema. */
  readonly schemaBytesMax: number;
  /** What a new answer's id ends with. */
  readonly createId: () => string;
  /** Unix milliseconds. */
  readonly wallClock: () => number;
  readonly context: ReadEdgeContext;
  readonly exchange: Exchange;
  /** Makes the reply's form, once it is known which answer it is. */
  readonly createReply: (answer: Pick<LiveAnswer, "suffix" | "created">) => Reply;
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal;
  /** A client that takes nothing of its stream for this long, in milliseconds, counts as gone. */
  readonly stallMs: number;
}

export interface Completed {
  /** JSON, or an event stream; a stream closes its exchange itself, after this was returned. */
  readonly response: Response;
  /** Whether the answer was begun for another request. */
  readonly coalesced: boolean;
}

/**
 * A stream that waits longer than this for its row begins with its place in line; one that does not keeps its status
 * until its first token.
 */
const TELL_POSITION_AFTER_MS = 250;

/** How many events become one piece of a stream at most: a reader that is late gets its answer in bites. */
const EVENTS_MAX = 256;

/**
 * Gives one request its answer.
 *
 * @throws whatever goes wrong before there is anything to say, so that it still has a status; `explainFailure` has the
 * words. A stream whose answer waits in line has said so, and ends with an error event instead
 */
export async function complete(request: AnyCompletionRequest, options: CompleteOptions): Promise<Completed> {
  using opening = new DisposableStack();
  opening.use(options.admission.enter());
  const { answer, coalesced } = options.coalescer.attach({ ...options.context, request }, (onEnd) =>
    begin(request, options, onEnd),
  );
  if (coalesced) options.exchange.noteCoalesced();
  const reader = opening.use(answer.join());
  const leave = () => reader[Symbol.dispose]();
  options.signal.addEventListener("abort", leave, { once: true });
  opening.defer(() => options.signal.removeEventListener("abort", leave));
  if (options.signal.aborted) leave();

  const reading = new Reading(answer, reader, request, options);
  if (request.stream !== true) return { response: Response.json(await reading.whole()), coalesced };

  const first = await reading.begin();
  const held = opening.move();
  const body = createEventStream({
    first,
    next: () => reading.next(),
    cancel: () => reading.cancel(),
    closed: () => held.dispose(),
    stallMs: options.stallMs,
  });
  return { response: new Response(body, { headers: SSE_HEADERS }), coalesced };
}

/** What a client reads when its generation ended without an answer. */
const ENGINE_FAILURES: Readonly<Record<EngineErrorReason, { readonly code: ErrorCode; readonly message: string }>> = {
  expired: { code: "queue_full", message: "the request waited too long for the model; try again shortly" },
  deadline: { code: "origin_timeout", message: "the time given for the answer was up" },
  crashed: { code: "not_ready", message: "the model has stopped" },
  stopped: { code: "not_ready", message: "the model is being stopped" },
  poisoned: { code: "internal_error", message: "the model failed on this request" },
  failed: { code: "internal_error", message: "the model failed on this request" },
  stuck: { code: "invalid_request", message: "the answer's form leaves the model no next token" },
};

/** What the client is told of a failure in here. */
export function explainFailure(thrown: unknown): ColdpathError {
  if (thrown instanceof GrammarError) return explainGrammar(thrown);
  if (!(thrown instanceof EngineError)) return toColdpathError(thrown);
  const { code, message } = ENGINE_FAILURES[thrown.reason];
  const retry = code === "internal_error" || code === "invalid_request" ? {} : { retryAfterSeconds: 1 };
  return new ColdpathError(code, message, { ...retry, cause: thrown });
}

function explainGrammar(thrown: GrammarError): ColdpathError {
  switch (thrown.reason) {
    case "refused":
      return new ColdpathError("invalid_request", `the answer's schema can't be used: ${thrown.message}`);
    case "busy":
      return new ColdpathError("queue_full", thrown.message, { retryAfterSeconds: 1 });
    case "crashed":
      return new ColdpathError("not_ready", thrown.message, { retryAfterSeconds: 1, cause: thrown });
    default:
      return thrown.reason satisfies never;
  }
}

/** How a failure closes a request's account: a client that went away has got neither status nor error. */
export function accountFailure(thrown: unknown): { readonly status: number; readonly error?: ColdpathError } {
  if (thrown instanceof Abandoned) return { status: CLIENT_CLOSED };
  const error = explainFailure(thrown);
  return { status: error.status, error };
}

/** Begins an answer; it is made from now on, for as long as anybody reads it. */
function begin(request: AnyCompletionRequest, options: CompleteOptions, onEnd: () => void): LiveAnswer {
  const { admission, createId, wallClock, choicesMax } = options;
  const held = new DisposableStack();
  held.use(admission.begin(countAllowed(request, choicesMax)));
  held.defer(onEnd);
  const answer = new LiveAnswer({
    suffix: createId(),
    created: Math.floor(wallClock() / 1000),
    onEnd: () => held.dispose(),
  });
  make(answer, held, request, options).catch((thrown: unknown) => answer.fail(toError(thrown)));
  return answer;
}

/** Generates as soon as the prompt's tokens are there, and the grammar that the answer must keep to. */
async function make(
  answer: LiveAnswer,
  held: DisposableStack,
  request: AnyCompletionRequest,
  options: CompleteOptions,
): Promise<void> {
  const { grammars } = options;
  const leaving = new AbortController();
  const { signal } = leaving;
  answer.whenAbandoned(() => leaving.abort());
  const prepared = await prepare(request, { ...options, signal });
  const form = prepared.grammar && (await grammars.lease(prepared.grammar, signal));
  // It may have ended while this was on its way.
  if (!answer.open) return form?.[Symbol.dispose]();
  if (form !== undefined) held.use(form);
  generate(answer, prepared, form, options);
}

function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error("something that is no Error was thrown");
}

/** The engine's classes. */
const PRIORITIES = { high: 0, normal: 1, low: 2 } as const satisfies Readonly<Record<Priority, number>>;

/** Priority and time are those of the request that asked first; whoever joins it shares them. */
function generate(
  answer: LiveAnswer,
  { answers, promptTokens, stops, tools, continues }: Prepared,
  form: GrammarLease | undefined,
  { model, engine, metrics, context }: CompleteOptions,
): void {
  answer.promptTokens = promptTokens;
  let generated = 0;
  let unfinished = answers.length;
  const scheduling = {
    priority: PRIORITIES[context.priority],
    tenant: context.tenant,
    ...(context.timeoutMs === undefined ? {} : { deadlineMs: context.timeoutMs }),
  };

  const begun = answers.map(({ sequence, echo, first }, index) => {
    if (echo !== "") answer.publish({ type: "text", index, text: echo, tokens: undefined, generated: 0 });
    const text = new TextReader({ detokenizer: model.tokenizer.createDetokenizer({ continues }), stops });
    const calls =
      tools && new ToolEvents(new ToolCallReader(tools.syntax, tools.names), (call) => nameCall(answer, index, call));
    let own = 0;
    const asked = { ...sequence, ...scheduling, ...(form === undefined ? {} : { mask: form.open() }) };
    const generation = engine.submit(asked, (event) => {
      if (!answer.open) return generation.cancel();
      if (event.type === "queued") return answer.queue(event.position);
      if (event.type === "error") return fail(event.error);
      if (event.type === "finish" && first) answer.cachedTokens += event.cachedTokens;
      if (generated === 0) metrics.promptTokens.inc(promptTokens);
      const said = text.read(event);
      for (const piece of calls === undefined ? said : said.flatMap((each) => calls.read(each))) {
        metrics.generationTokens.inc(piece.generated - own);
        generated += piece.generated - own;
        own = piece.generated;
        answer.publish({ ...piece, index, generated });
        if (piece.type !== "finish") continue;
        // By a stop string: the sequence itself would go on.
        generation.cancel();
        unfinished -= 1;
        if (unfinished === 0) answer.finish();
      }
    });
    return generation;
  });
  const cancel = () => begun.forEach((generation) => generation.cancel());
  const fail = (error: Error) => {
    answer.fail(error);
    cancel();
  };
  answer.whenAbandoned(cancel);
}

function joinCall(call: ToolCall | undefined, { id = "", function: part }: ToolCallDelta): ToolCall {
  const { name, arguments: before } = call?.function ?? { name: part.name ?? "", arguments: "" };
  return { id: call?.id ?? id, type: "function", function: { name, arguments: before + part.arguments } };
}

/** The same for everybody who reads the answer. */
function nameCall({ suffix }: LiveAnswer, choice: number, call: number): string {
  return `call_${suffix}-${choice}-${call}`;
}

/** One request's way through an answer: what it gets, and its account. */
class Reading {
  readonly #answer: LiveAnswer;
  readonly #reader: LiveReader;
  readonly #reply: Reply;
  readonly #exchange: Exchange;
  readonly #includeUsage: boolean;
  readonly #choices: number;
  #unfinished: number;
  #opened = false;

  constructor(
    answer: LiveAnswer,
    reader: LiveReader,
    request: AnyCompletionRequest,
    { exchange, createReply }: Pick<CompleteOptions, "exchange" | "createReply">,
  ) {
    this.#answer = answer;
    this.#reader = reader;
    this.#exchange = exchange;
    this.#reply = createReply(answer);
    this.#includeUsage = request.stream_options?.include_usage === true;
    this.#choices = countWantedAnswers(request);
    this.#unfinished = this.#choices;
  }

  /** The answer in one piece. */
  async whole(): Promise<ReturnType<Reply["whole"]>> {
    interface Draft {
      text: string;
      tokens: TextToken[] | undefined;
      toolCalls: ToolCall[];
      reason: FinishReason;
    }
    const drafts = Array.from({ length: this.#choices }, (): Draft => ({
      text: "",
      tokens: undefined,
      toolCalls: [],
      reason: "stop",
    }));
    let generated = 0;
    while (this.#unfinished > 0) {
      for (const event of await this.#read()) {
        const draft = event.type === "queued" ? undefined : drafts[event.index];
        if (event.type === "queued" || draft === undefined) continue;
        generated = event.generated;
        if (event.type === "finish") {
          draft.reason = event.reason;
          this.#unfinished -= 1;
          continue;
        }
        draft.text += event.text;
        for (const delta of event.calls ?? [])
          draft.toolCalls[delta.index] = joinCall(draft.toolCalls[delta.index], delta);
        if (event.tokens !== undefined) (draft.tokens ??= []).push(...event.tokens);
      }
    }
    return this.#reply.whole(drafts, this.#usage(generated));
  }

  /** A stream's first piece. Throws what goes wrong before it. */
  async begin(): Promise<StreamPiece> {
    const long = setTimeout(() => this.#reader.tellPosition(), TELL_POSITION_AFTER_MS);
    try {
      return this.#render(await this.#read());
    } finally {
      clearTimeout(long);
    }
  }

  /** The next one; a stream that breaks ends with an `error` event, never `[DONE]`. */
  async next(): Promise<StreamPiece> {
    try {
      return this.#render(await this.#read());
    } catch (thrown) {
      this.#exchange.end(accountFailure(thrown));
      return { text: sseError(explainFailure(thrown).envelope), last: true };
    }
  }

  /** The client went away. */
  cancel(): void {
    this.#exchange.end({ status: CLIENT_CLOSED });
    this.#reader[Symbol.dispose]();
  }

  async #read(): Promise<readonly LiveEvent[]> {
    const events = await this.#reader.read(EVENTS_MAX).finally(() => this.#notePrompt());
    if (events.length === 0) throw new Error("an answer ended without a reason");
    const last = events.at(-1);
    if (last !== undefined && last.type !== "queued") this.#exchange.noteGenerated(last.generated);
    if (last?.type === "finish") this.#exchange.noteFinish(last.reason);
    return events;
  }

  #notePrompt(): void {
    const { promptTokens } = this.#answer;
    if (promptTokens !== undefined) this.#exchange.notePrompt(promptTokens);
  }

  #render(events: readonly LiveEvent[]): StreamPiece {
    let text = "";
    for (const event of events) text += this.#renderEvent(event);
    const last = this.#unfinished === 0;
    if (last) this.#exchange.end({ status: 200 });
    return { text, last };
  }

  #renderEvent(event: LiveEvent): string {
    switch (event.type) {
      case "queued":
        return sseQueued(event.position);
      case "text": {
        const isEmpty = event.text === "" && (event.tokens ?? event.calls ?? []).length === 0;
        return this.#opening() + (isEmpty ? "" : sseData(this.#reply.delta(event.index, event)));
      }
      case "finish": {
        const closing = this.#opening() + sseData(this.#reply.closing(event.index, event.reason));
        this.#unfinished -= 1;
        if (this.#unfinished > 0) return closing;
        const usage = this.#includeUsage ? sseData(this.#reply.usage(this.#usage(event.generated))) : "";
        return closing + usage + sseData(SSE_DONE);
      }
      default:
        return event satisfies never;
    }
  }

  #opening(): string {
    if (this.#opened) return "";
    this.#opened = true;
    const chunks = Array.from({ length: this.#choices }, (_, index) => this.#reply.opening(index));
    return chunks.map((chunk) => (chunk === undefined ? "" : sseData(chunk))).join("");
  }

  #usage(generated: number): Usage {
    const { promptTokens = 0, cachedTokens } = this.#answer;
    const details = cachedTokens === 0 ? {} : { prompt_tokens_details: { cached_tokens: cachedTokens } };
    const total = promptTokens + generated;
    return { prompt_tokens: promptTokens, completion_tokens: generated, total_tokens: total, ...details };
  }
}
