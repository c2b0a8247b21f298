/**
 * An origin that speaks the real wire format and checks the edge's real signature, and whose model is a table: tests
 * own what it answers, how it breaks and how fast it is. Holds what was asked and what was aborted.
 */
import { ANSWER_HEADERS, readEdgeContext, type ReadEdgeContext } from "../../shared/edge-context.ts";
import { SSE_DONE, SSE_HEADERS, sseData, sseError } from "../../shared/sse.ts";
import { importSignatureKey, verifyMessage } from "../../shared/signature.ts";

export const ORIGIN_SECRET = "an origin secret of more than 32 bytes";

export interface FakeOriginScript {
  /** The answer's pieces, one event each. */
  pieces: readonly string[];
  /** In place of pieces: every event's choices, as the origin writes them. */
  events: readonly (readonly unknown[])[] | undefined;
  /** What is answered to any request for vectors. */
  vectors: readonly (readonly number[])[] | undefined;
  /** What the answer is called; by default each has another id. */
  answerId: string | undefined;
  finishReason: "stop" | "length";
  /** Milliseconds before each piece. */
  pieceDelayMs: number;
  /** Where the stream ends early: after this many pieces. */
  breaks:
    | { readonly how: "cut" | "error-event" | "reset" | "no-usage" | "garbage" | "silence"; readonly after: number }
    | undefined;
  /** Answers instead of a stream. */
  refusal: (() => Response | Promise<Response>) | undefined;
  /** Sent before the answer, as they are: comments, and the code of an error event that ends the stream. */
  before: { readonly comments: readonly string[]; readonly errorCode?: string };
  /** Waited for between the question and the answer. */
  meanwhile: (() => Promise<void>) | undefined;
  /** The connection is refused. */
  down: boolean;
  models: readonly {
    readonly id: string;
    readonly digest: string;
    readonly context_length: number;
    readonly task?: "generate" | "embed";
  }[];
  /** What the answer's headers say, beside or in place of the asked model's digest; `undefined` leaves one out. */
  answerHeaders: Readonly<Record<string, string | undefined>>;
}

export class FakeOrigin {
  readonly script: FakeOriginScript = {
    pieces: ["Cold", " ", "paths, 热路径 ", "🙂."],
    events: undefined,
    vectors: undefined,
    answerId: undefined,
    finishReason: "stop",
    pieceDelayMs: 0,
    breaks: undefined,
    refusal: undefined,
    meanwhile: undefined,
    down: false,
    models: [{ id: "tiny", digest: "digest-of-tiny", context_length: 2048 }],
    answerHeaders: {},
    before: { comments: [] },
  };
  /** Bodies of the completions asked for. */
  readonly asked: {
    readonly path: string;
    readonly requestId: string;
    readonly context: ReadEdgeContext;
    readonly body: Record<string, unknown>;
  }[] = [];
  /** Ids of the calls that the edge ended early. */
  readonly cancelled = new Set<string>();
  #answers = 0;

  readonly fetch = async (url: string, init: RequestInit): Promise<Response> => {
    if (this.script.down) throw new TypeError("connection refused");
    const { pathname } = new URL(url);
    const headers = new Headers(init.headers);
    const body = new Uint8Array(init.body === undefined ? [] : (init.body as Uint8Array));
    const refused = await verifyMessage(
      await importSignatureKey(ORIGIN_SECRET),
      { method: init.method ?? "GET", path: pathname, body },
      headers,
      Date.now() / 1000,
    );
    if (refused !== undefined) throw new Error(refused);
    if (pathname === "/ready") return Response.json({});
    if (pathname === "/v1/models") {
      const data = this.script.models.map((model) => ({
        task: "generate",
        ...model,
        object: "model",
        created: 1,
        owned_by: "test",
      }));
      return Response.json({ object: "list", data });
    }
    const requestId = headers.get("x-request-id") ?? "";
    const asked = JSON.parse(new TextDecoder().decode(body)) as Record<string, unknown>;
    this.asked.push({ path: pathname, requestId, context: readEdgeContext(headers), body: asked });
    if (this.script.refusal !== undefined) {
      const aborted = new Promise<never>((_, reject) => {
        init.signal?.addEventListener("abort", () => reject(init.signal?.reason as Error));
      });
      return Promise.race([this.script.refusal(), aborted]);
    }
    await this.script.meanwhile?.();
    if (pathname === "/v1/embeddings") return this.#vectors(asked);
    return this.#stream(pathname, asked, requestId, init.signal ?? undefined);
  };

  /** A text's vector has its length first, an id's the id; `vectors` of the script goes before. */
  #vectors(asked: Record<string, unknown>): Response {
    const inputs = asked["input"] as readonly (string | readonly number[])[];
    const vectors = this.script.vectors ?? inputs.map((input) => [input.length, -0.1, 1e-7]);
    const data = vectors.map((vector, index) => {
      const bytes = new Uint8Array(Float32Array.from(vector).buffer);
      return { object: "embedding", index, embedding: btoa(String.fromCharCode(...bytes)) };
    });
    const model = asked["model"];
    const digest = this.script.models.find(({ id }) => id === model)?.digest ?? "";
    const usage = { prompt_tokens: 4 * inputs.length, total_tokens: 4 * inputs.length };
    const headers = { [ANSWER_HEADERS.modelDigest]: digest };
    return Response.json({ object: "list", data, model, usage }, { headers });
  }

  #stream(path: string, asked: Record<string, unknown>, requestId: string, signal?: AbortSignal): Response {
    const { pieces, pieceDelayMs, finishReason, breaks, events: written, answerId } = this.script;
    const cancelled = this.cancelled;
    const chat = path === "/v1/chat/completions";
    this.#answers += 1;
    const head = {
      id: answerId ?? `${chat ? "chatcmpl" : "cmpl"}-${this.#answers}`,
      object: chat ? "chat.completion.chunk" : "text_completion",
      created: 1_700_000_000 + this.#answers,
      model: asked["model"],
    };
    const choice = (text: string, finish: string | null): unknown =>
      chat
        ? { index: 0, delta: text === "" ? {} : { content: text }, finish_reason: finish, logprobs: null }
        : { index: 0, text, finish_reason: finish, logprobs: null };
    const usage = { prompt_tokens: 7, completion_tokens: pieces.length, total_tokens: 7 + pieces.length };

    const { before } = this.script;
    async function* events(): AsyncGenerator<string> {
      yield* before.comments.map((comment) => `: ${comment}\n\n`);
      if (before.errorCode !== undefined) {
        const error = { message: "said so", type: "server_error", code: before.errorCode, param: null };
        yield sseError({ error });
        return;
      }
      if (written !== undefined) {
        for (const choices of written) yield sseData({ ...head, choices, usage: null });
        yield sseData({ ...head, choices: [], usage });
        yield sseData(SSE_DONE);
        return;
      }
      for (const [index, piece] of pieces.entries()) {
        if (breaks?.after === index) {
          if (breaks.how === "cut") return;
          if (breaks.how === "reset") throw new Error("connection reset");
          if (breaks.how === "garbage") yield "data: {not json\n\n";
          if (breaks.how === "silence") await new Promise(() => {});
          if (breaks.how === "error-event") {
            yield sseError({ error: { message: "broke", type: "server_error", code: "internal_error", param: null } });
            return;
          }
        }
        if (pieceDelayMs > 0) await new Promise((resolve) => setTimeout(resolve, pieceDelayMs));
        yield sseData({ ...head, choices: [choice(piece, null)], usage: null });
      }
      yield sseData({ ...head, choices: [choice("", finishReason)], usage: null });
      if (breaks?.how !== "no-usage") yield sseData({ ...head, choices: [], usage });
      yield sseData(SSE_DONE);
    }

    const source = events();
    const encoder = new TextEncoder();
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        signal?.addEventListener("abort", () => {
          cancelled.add(requestId);
          controller.error(signal.reason);
        });
      },
      cancel() {
        cancelled.add(requestId);
      },
      async pull(controller) {
        const { done, value } = await source.next();
        if (done === true) controller.close();
        else controller.enqueue(encoder.encode(value));
      },
    });
    const answered = {
      ...SSE_HEADERS,
      [ANSWER_HEADERS.modelDigest]: this.script.models.find(({ id }) => id === asked["model"])?.digest,
      ...this.script.answerHeaders,
    };
    const said = Object.entries(answered).filter((entry): entry is [string, string] => entry[1] !== undefined);
    return new Response(body, { headers: said });
  }
}
