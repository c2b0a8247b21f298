/**
 * Takes a cold question to the origin. It is always asked for the streaming form with usage, whatever the client wants:
 * one kind of answer comes back, and both forms are made from it. Vectors come in one piece, in base64. Knows no client and no cache.
 */
import { createParser } from "eventsource-parser";
import type { Question } from "../../shared/completion-request.ts";
import { ANSWER_HEADERS, type EdgeContext } from "../../shared/edge-context.ts";
import { ColdpathError } from "../../shared/errors.ts";
import { type BodyReader, readAll } from "../../shared/read-body.ts";
import { parseQueued, SSE_DONE } from "../../shared/sse.ts";
import { ClientGone } from "../call/client-gone.ts";
import { brokenOff, isOk, originRefusal, type OriginClient } from "./origin-client.ts";
import type { OriginResponse } from "../platform/platform.ts";

/** `data`: a part of the answer. `queued`: it waits for its turn, as the first, second, … in line. */
type UpstreamEvent =
  | { readonly type: "data"; readonly data: string }
  | { readonly type: "queued"; readonly position: number };

/** An answer on its way from the origin. */
export interface Upstream {
  /** Digest of the model that answers; `undefined` where the origin does not say. */
  readonly modelDigest: string | undefined;
  /** Whether the answer is being made for another request too, which came first. */
  readonly coalesced: boolean;
  /** Throws {ColdpathError} where the stream breaks: the origin's own word for it, `origin_failed` or `origin_timeout`. */
  readonly events: AsyncIterable<UpstreamEvent>;
  /** Ends the call, so that the origin frees its row. The events then throw the reason. */
  abort(reason: ColdpathError | ClientGone): void;
}

/** What the origin is asked. */
interface OriginQuestion {
  readonly path: Question["path"];
  /** The question in canonical JSON: an object with at least a model. */
  readonly canonical: string;
}

interface ForwardOptions {
  readonly requestId: string;
  /** Told to the origin, with the time that is left. */
  readonly context: Omit<EdgeContext, "timeoutMs">;
  /** Fires when the client closes its connection, on runtimes that can tell. */
  readonly client: AbortSignal;
  /** Longest silence, before the first byte and between two. */
  readonly silenceMs: number;
  /** Longest time for everything. */
  readonly answerMs: number;
  /** Largest single event in characters. */
  readonly eventCharsMax: number;
}

/**
 * Asks the origin.
 *
 * @throws {ColdpathError} the origin's own refusal, `origin_unavailable`, `origin_failed` or `origin_timeout`
 * @throws {ClientGone} when the client left first
 */
export async function forward(
  origin: OriginClient,
  { path, canonical }: OriginQuestion,
  options: ForwardOptions,
): Promise<Upstream> {
  const watch = new Watch(options);
  const wholeVectors = path === "/v1/embeddings";
  try {
    const response = await origin.send({
      method: "POST",
      path,
      requestId: options.requestId,
      body: wholeVectors ? inBase64(canonical) : streamed(canonical),
      context: { ...options.context, timeoutMs: options.answerMs },
      signal: watch.signal,
    });
    if (!isOk(response)) throw await originRefusal(response);
    if (!wholeVectors && !isEventStream(response)) {
      await response.body.cancel();
      throw new ColdpathError("origin_failed", "the model's server did not answer with a stream");
    }
    watch.heard();
    return {
      modelDigest: response.header(ANSWER_HEADERS.modelDigest) ?? undefined,
      coalesced: response.header(ANSWER_HEADERS.coalesced) === "1",
      events: wholeVectors
        ? readWhole(response.body, watch, options.eventCharsMax)
        : readEvents(response.body, watch, options.eventCharsMax),
      abort: (reason) => watch.abort(reason),
    };
  } catch (error) {
    watch.stop();
    throw error;
  }
}

/** Inserts two more fields before the last brace of the canonical JSON object, which has at least a model. */
function streamed(canonical: string): string {
  return `${canonical.slice(0, -1)},"stream":true,"stream_options":{"include_usage":true}}`;
}

function inBase64(canonical: string): string {
  return `${canonical.slice(0, -1)},"encoding_format":"base64"}`;
}

function isEventStream(response: OriginResponse): boolean {
  return (response.header("content-type") ?? "").toLowerCase().startsWith("text/event-stream");
}

async function* readEvents(body: BodyReader, watch: Watch, eventCharsMax: number): AsyncGenerator<UpstreamEvent> {
  const ready: UpstreamEvent[] = [];
  let failure: ColdpathError | undefined;
  let complete = false;
  const parser = createParser({
    onEvent: ({ event, data }) => {
      if (event === "error") failure = brokenOff(data);
      else ready.push({ type: "data", data });
      complete = data === SSE_DONE;
    },
    onComment: (comment) => {
      const position = parseQueued(comment);
      if (position !== undefined) ready.push({ type: "queued", position });
    },
    // Beyond it the parser throws, and the stream counts as broken.
    maxBufferSize: eventCharsMax,
  });
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });
  try {
    for (;;) {
      watch.expect();
      const { done, value } = await body.read();
      watch.heard();
      if (done) return;
      parser.feed(decoder.decode(value, { stream: true }));
      yield* ready.splice(0);
      if (failure !== undefined) throw failure;
    }
  } catch (cause) {
    // The reason of an abort is what the client hears, not the read's own failure.
    watch.signal.throwIfAborted();
    if (cause instanceof ColdpathError) throw cause;
    throw new ColdpathError("origin_failed", "the model's server broke the answer off", { cause });
  } finally {
    watch.stop();
    if (complete) void readEnd(body);
    // Nothing more is wanted; a stream that broke refuses even this.
    else await body.cancel().catch(() => undefined);
  }
}

/** How long the response may go on after its last word. */
const END_MS = 1_000;

/**
 * Reads the end of a response whose last word was read, so that its connection serves the next call: who cancels instead
 * closes it. Behind the answer, for which nobody waits.
 */
async function readEnd(body: BodyReader): Promise<void> {
  const cancel = (): Promise<void> => body.cancel().catch(() => undefined);
  const timer = setTimeout(() => void cancel(), END_MS);
  const ended = await body.read().then(
    ({ done }) => done,
    () => true,
  );
  clearTimeout(timer);
  if (!ended) await cancel();
}

/** The whole body as the one event there is. */
async function* readWhole(body: BodyReader, watch: Watch, bytesMax: number): AsyncGenerator<UpstreamEvent> {
  watch.expect();
  try {
    const bytes = await readAll(body, bytesMax);
    watch.heard();
    if (bytes === undefined)
      throw new ColdpathError("origin_failed", "the answer is longer than this endpoint collects");
    yield { type: "data", data: new TextDecoder().decode(bytes) };
  } catch (cause) {
    watch.signal.throwIfAborted();
    if (cause instanceof ColdpathError) throw cause;
    throw new ColdpathError("origin_failed", "the model's server broke the answer off", { cause });
  } finally {
    watch.stop();
  }
}

/** Aborts a call that is silent, takes too long, or is wanted by nobody any more. */
class Watch {
  readonly #controller = new AbortController();
  readonly #silenceMs: number;
  readonly #client: AbortSignal;
  readonly #leave = (): void => this.abort(new ClientGone());
  readonly #whole: ReturnType<typeof setTimeout>;
  #silence: ReturnType<typeof setTimeout> | null = null;

  constructor({ silenceMs, answerMs, client }: ForwardOptions) {
    this.#silenceMs = silenceMs;
    this.#client = client;
    client.addEventListener("abort", this.#leave, { once: true });
    this.expect();
    this.#whole = setTimeout(() => this.abort(timeout(`did not finish within ${answerMs} ms`)), answerMs);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** From now on the origin is being waited for. */
  expect(): void {
    this.#silence = setTimeout(() => this.abort(timeout(`was silent for ${this.#silenceMs} ms`)), this.#silenceMs);
  }

  /** It spoke. Until the next `expect` any silence is ours: a slow client holds the reading back. */
  heard(): void {
    clearTimeout(this.#silence);
  }

  abort(reason: ColdpathError | ClientGone): void {
    this.stop();
    this.#controller.abort(reason);
  }

  stop(): void {
    clearTimeout(this.#silence);
    clearTimeout(this.#whole);
    this.#client.removeEventListener("abort", this.#leave);
  }
}

function timeout(what: string): ColdpathError {
  return new ColdpathError("origin_timeout", `the model's server ${what}`);
}
