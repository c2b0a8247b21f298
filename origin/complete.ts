/**
 * One completion from parsed request to response: admit → prepare → generate → reply. The only file that sees the
 * request, the engine and the response together; knows no routes and no signatures.
 */
import type { FinishReason, Usage } from "../shared/completion-response.ts";
import { ColdpathError, type ErrorCode, toColdpathError } from "../shared/errors.ts";
import { SSE_HEADERS } from "../shared/sse.ts";
import type { Admission } from "./admit.ts";
import { type EngineClient, EngineError, type EngineErrorReason } from "./engine/client.ts";
import { CLIENT_CLOSED, type Exchange } from "./exchange.ts";
import { interleave } from "./interleave.ts";
import { type AnyCompletionRequest, type ServedModel, countChoices, prepare } from "./prepare.ts";
import type { Choice, Reply } from "./reply.ts";
import { type TextEvent, createEventStream, readText } from "./stream.ts";
import type { TextToken } from "./token-ledger.ts";

export interface CompleteOptions {
  readonly model: ServedModel;
  readonly engine: Pick<EngineClient, "submit">;
  readonly admission: Admission;
  /** The seed of a request that names none. */
  readonly createSeed: () => number;
  /** The most choices (`n`) of one request. */
  readonly choicesMax: number;
  readonly exchange: Exchange;
  readonly reply: Reply;
  /** Aborted when the client goes away. */
  readonly signal: AbortSignal;
}

/**
 * Generates one answer.
 *
 * @returns JSON, or an event stream; a stream closes its exchange itself, after this has returned
 * @throws whatever goes wrong before the first token, so that it still has a status; `explainFailure` has the words
 */
export async function complete(request: AnyCompletionRequest, options: CompleteOptions): Promise<Response> {
  if (request.stream !== true) {
    const { choices, usage } = await collect(generate(request, options));
    return Response.json(options.reply.whole(choices, usage));
  }

  const hangUp = new AbortController();
  const signal = AbortSignal.any([options.signal, hangUp.signal]);
  const events = generate(request, { ...options, signal });
  const first = await events.next();
  const body = createEventStream({
    chunks: toChunks(resume(first, events), request, options),
    cancel: () => hangUp.abort(),
    explain: explainFailure,
  });
  return new Response(body, { headers: SSE_HEADERS });
}

/** What a client reads when its generation ended without an answer. */
const ENGINE_FAILURES: Readonly<Record<EngineErrorReason, { readonly code: ErrorCode; readonly message: string }>> = {
  expired: { code: "queue_full", message: "the request waited too long for the model; try again shortly" },
  crashed: { code: "not_ready", message: "the model has stopped" },
  stopped: { code: "not_ready", message: "the model is being stopped" },
  poisoned: { code: "internal_error", message: "the model failed on this request" },
  failed: { code: "internal_error", message: "the model failed on this request" },
  // Said to nobody: the client has gone.
  cancelled: { code: "internal_error", message: "the request was cancelled" },
};

/** What the client is told of a failure in here. */
export function explainFailure(thrown: unknown): ColdpathError {
  if (!(thrown instanceof EngineError)) return toColdpathError(thrown);
  const { code, message } = ENGINE_FAILURES[thrown.reason];
  const retry = code === "internal_error" ? {} : { retryAfterSeconds: 1 };
  return new ColdpathError(code, message, { ...retry, cause: thrown });
}

/** The status for the log: a client that went away has got none. */
export function failureStatus(thrown: unknown): number {
  const cancelled = thrown instanceof EngineError && thrown.reason === "cancelled";
  return cancelled ? CLIENT_CLOSED : explainFailure(thrown).status;
}

/** An event of one choice; `usage` is that of all choices until then. */
interface Counted {
  readonly index: number;
  readonly event: TextEvent;
  readonly usage: Usage;
}

/** Runs to its end by its reader alone: the lease and the rows are given back whichever way that is. */
async function* generate(
  request: AnyCompletionRequest,
  { admission, model, engine, createSeed, choicesMax, exchange, signal }: CompleteOptions,
): AsyncGenerator<Counted, void, void> {
  using held = new DisposableStack();
  held.use(admission.enter(countChoices(request, choicesMax)));
  const { sequences, stops, echo } = prepare(request, { model, createSeed });
  const promptTokens = sequences[0].prompt.length;
  exchange.notePrompt(promptTokens);

  const generations = sequences.map((sequence) => engine.submit(sequence));
  const cancel = () => generations.forEach((generation) => generation.cancel());
  held.defer(cancel);
  signal.addEventListener("abort", cancel, { once: true });
  held.defer(() => signal.removeEventListener("abort", cancel));
  if (signal.aborted) cancel();

  const generated = generations.map(() => 0);
  const choices = generations.map(async function* (generation, index) {
    if (echo !== "") yield { index, event: { type: "text", text: echo, tokens: undefined, generated: 0 } as const };
    const detokenizer = model.tokenizer.createDetokenizer();
    for await (const event of readText(generation, { detokenizer, stops })) yield { index, event };
  });
  for await (const { index, event } of interleave(choices)) {
    generated[index] = event.generated;
    const total = generated.reduce((sum, tokens) => sum + tokens, 0);
    exchange.noteGenerated(total);
    if (event.type === "finish") exchange.noteFinish(event.reason);
    yield { index, event, usage: countUsage(promptTokens, total) };
  }
}

async function collect(
  events: AsyncIterable<Counted>,
): Promise<{ readonly choices: readonly Choice[]; readonly usage: Usage }> {
  const drafts: { text: string; tokens: TextToken[] | undefined; reason: FinishReason | undefined }[] = [];
  let total: Usage | undefined;
  for await (const { index, event, usage } of events) {
    total = usage;
    const draft = (drafts[index] ??= { text: "", tokens: undefined, reason: undefined });
    if (event.type === "finish") draft.reason = event.reason;
    else {
      draft.text += event.text;
      if (event.tokens !== undefined) draft.tokens = [...(draft.tokens ?? []), ...event.tokens];
    }
  }
  const choices = drafts.map(({ text, tokens, reason }) => {
    if (reason === undefined) throw new Error("a generation ended without a reason");
    return { text, tokens, reason };
  });
  if (total === undefined) throw new Error("an answer ended before it began");
  return { choices, usage: total };
}

/** The events of an answer as chunks, and the end of its account. */
async function* toChunks(
  events: AsyncIterable<Counted>,
  request: AnyCompletionRequest,
  { reply, exchange }: CompleteOptions,
): AsyncGenerator<unknown, void, void> {
  try {
    const openings = Array.from({ length: request.n ?? 1 }, (_, index) => reply.opening(index));
    yield* openings.filter((opening) => opening !== undefined);
    let total: Usage | undefined;
    for await (const { index, event, usage } of events) {
      total = usage;
      if (event.type === "finish") yield reply.closing(index, event.reason);
      else if (event.text !== "" || (event.tokens ?? []).length > 0) yield reply.delta(index, event);
    }
    if (total !== undefined && request.stream_options?.include_usage === true) yield reply.usage(total);
    exchange.end({ status: 200 });
  } catch (thrown) {
    exchange.end({ status: failureStatus(thrown), error: explainFailure(thrown) });
    throw thrown;
  }
}

async function* resume<T>(first: IteratorResult<T, void>, rest: AsyncGenerator<T, void, void>): AsyncGenerator<T> {
  if (first.done === true) return;
  yield first.value;
  yield* rest;
}

function countUsage(promptTokens: number, generated: number): Usage {
  return { prompt_tokens: promptTokens, completion_tokens: generated, total_tokens: promptTokens + generated };
}
