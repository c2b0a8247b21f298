/**
 * The origin's routes. Whoever comes in by a route that generates or names models must be an edge; the probes are open.
 * Knows what a route is and which step comes when, but neither threads nor processes.
 */
import { type Context, Hono } from "hono";
import { createMiddleware } from "hono/factory";
import { generateAsChat, parseCompletionRequest } from "../../shared/completion-request.ts";
import type { ModelList } from "../../shared/completion-response.ts";
import type { EmbeddingRequest } from "../../shared/embedding-request.ts";
import { ANSWER_HEADERS, type ReadEdgeContext } from "../../shared/edge-context.ts";
import { ColdpathError, errorResponse } from "../../shared/errors.ts";
import { readBody } from "../../shared/read-body.ts";
import { SSE_HEADERS } from "../../shared/sse.ts";
import { accountFailure, complete, explainFailure } from "./complete.ts";
import { answerEmbeddings } from "./answer-embeddings.ts";
import { Exchange, type Log } from "./exchange.ts";
import { Abandoned } from "./live-answer.ts";
import type { Metrics } from "../operate/metrics.ts";
import type { AnyCompletionRequest } from "./prepare.ts";
import { type ReplyOptions, createChatReply, createCompletionReply, createGenerateReply } from "./reply.ts";
import type { ServedModels } from "../models/registry.ts";
import type { EdgeVerifier } from "./verify-edge.ts";

export interface ServerOptions {
  readonly models: ServedModels;
  readonly verifier: EdgeVerifier;
  readonly metrics: Metrics;
  readonly log: Log;
  readonly bodyBytesMax: number;
  /** A client that takes nothing of its stream for this long, in milliseconds, counts as gone. */
  readonly stallMs: number;
  /** Unix milliseconds. */
  readonly wallClock: () => number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** 32 random bits: the seed of a request that names none. */
  readonly createSeed: () => number;
  /** The most choices (`n`) of one request. */
  readonly choicesMax: number;
  /** Bytes of the largest JSON Schema. */
  readonly schemaBytesMax: number;
  /** A fresh, unique name for an answer or a request that has none. */
  readonly createId: () => string;
}

/** What the steps of one request hand on to each other. */
export interface Env {
  Variables: { exchange: Exchange; body: Uint8Array<ArrayBuffer>; context: ReadEdgeContext };
}

const METHODS: Readonly<Record<string, "GET" | "POST">> = {
  "/health": "GET",
  "/ready": "GET",
  "/metrics": "GET",
  "/v1/models": "GET",
  "/v1/chat/completions": "POST",
  "/v1/completions": "POST",
  "/v1/embeddings": "POST",
  "/generate": "POST",
};

/** Asked every few seconds by machines: not worth a line each. */
const PROBES: ReadonlySet<string> = new Set(["/health", "/ready", "/metrics"]);

/** A request id is copied into a header and the log. */
const REQUEST_ID = /^[\w.:-]{1,128}$/;

/** The origin as an app; `app.fetch` serves it. */
export function createServer(options: ServerOptions): Hono<Env> {
  const app = new Hono<Env>();
  app.use(account(options));
  app.get("/health", (c) => c.json({ status: "ok" }));
  app.get("/ready", (c) => {
    const { status, statuses } = options.models;
    // Whoever asks sends requests here or elsewhere: while one model can answer they come, and say of which the others can't.
    return c.json({ status, models: statuses }, status === "ready" || status === "degraded" ? 200 : 503);
  });
  app.get("/metrics", async (c) => {
    const { registry } = options.metrics;
    return c.body(await registry.metrics(), 200, { "content-type": registry.contentType });
  });

  app.use(admitEdge(options));
  app.get("/v1/models", (c) => c.json({ object: "list", data: [...options.models.list()] } satisfies ModelList));
  app.post("/v1/chat/completions", (c) => {
    const request = parseCompletionRequest("/v1/chat/completions", readJsonText(c));
    return answer(c, options, { request, createReply: createChatReply });
  });
  app.post("/v1/completions", (c) => {
    const request = parseCompletionRequest("/v1/completions", readJsonText(c));
    return answer(c, options, { request, createReply: createCompletionReply });
  });
  app.post("/generate", (c) => {
    const simple = parseCompletionRequest("/generate", readJsonText(c));
    const request = generateAsChat(simple, options.models.default().model.id);
    return answer(c, options, { request, createReply: createGenerateReply });
  });
  app.post("/v1/embeddings", (c) => embed(c, options, parseCompletionRequest("/v1/embeddings", readJsonText(c))));
  app.notFound((c) => {
    const allow = METHODS[c.req.path];
    throw allow === undefined
      ? new ColdpathError("not_found", `there is nothing at ${c.req.path}`)
      : new ColdpathError("method_not_allowed", `${c.req.path} wants ${allow}`, { headers: { allow } });
  });
  app.onError((thrown, c) => {
    c.var.exchange.end(accountFailure(thrown));
    return errorResponse(explainFailure(thrown));
  });
  return app;
}

/** Opens the request's account, and closes it with the response; a stream closes its own when it ends. */
function account({ metrics, log, now, createId }: ServerOptions) {
  return createMiddleware<Env>(async (c, next) => {
    const { path, method } = c.req;
    const given = c.req.header("x-request-id");
    const requestId = given !== undefined && REQUEST_ID.test(given) ? given : createId();
    const route = METHODS[path] === undefined ? "other" : path;
    c.set("exchange", new Exchange({ requestId, method, path, route, metrics, log: quietFor(path, log), now }));
    await next();
    c.header("x-request-id", requestId);
    if (!isStream(c.res)) c.var.exchange.end({ status: c.res.status });
  });
}

function quietFor(path: string, log: Log): Log {
  return PROBES.has(path) ? () => {} : log;
}

/** Reads the body, because the signature covers it, and lets nobody but an edge pass. */
function admitEdge({ verifier, bodyBytesMax }: ServerOptions) {
  return createMiddleware<Env>(async (c, next) => {
    const { method, raw } = c.req;
    const body = await readBody(raw.body, bodyBytesMax);
    if (body === undefined) {
      throw new ColdpathError("body_too_large", `the request body is over ${bodyBytesMax} bytes`);
    }
    const message = { method, path: new URL(raw.url).pathname, headers: raw.headers, body };
    c.set("context", await verifier.verify(message));
    c.set("body", body);
    await next();
  });
}

function readJsonText(c: Context<Env>): string {
  const type = c.req.header("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type)) {
    throw new ColdpathError("unsupported_media_type", "the request body must be application/json");
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(c.var.body);
  } catch (cause) {
    throw new ColdpathError("invalid_json", "the request body is not UTF-8", { cause });
  }
}

async function answer(
  c: Context<Env>,
  options: ServerOptions,
  asked: {
    readonly request: AnyCompletionRequest;
    readonly createReply: (options: ReplyOptions) => ReturnType<typeof createChatReply>;
  },
): Promise<Response> {
  const { request, createReply } = asked;
  const decoder = options.models.decoder(request.model);
  const { model } = decoder;
  const { exchange, context } = c.var;
  exchange.noteModel(model.id, decoder.metrics);
  const { response, coalesced } = await complete(request, {
    ...options,
    ...decoder,
    context,
    exchange,
    createReply: ({ suffix, created }) =>
      createReply({
        suffix,
        created,
        model: model.id,
        includeUsage: request.stream_options?.include_usage === true,
        spell: (id) => model.tokenizer.spell(id),
      }),
    signal: c.req.raw.signal,
  });
  response.headers.set(ANSWER_HEADERS.modelDigest, model.digest);
  if (context.digest !== undefined) response.headers.set(ANSWER_HEADERS.digest, context.digest);
  if (coalesced) response.headers.set(ANSWER_HEADERS.coalesced, "1");
  return response;
}

async function embed(c: Context<Env>, options: ServerOptions, request: EmbeddingRequest): Promise<Response> {
  const { model, engine: embedder, admission, metrics } = options.models.encoder(request.model);
  const { exchange } = c.var;
  exchange.noteModel(model.id, metrics);
  using _ = admission.enter();
  const { signal } = c.req.raw;
  const list = await answerEmbeddings(request, { model, embedder, exchange, signal }).catch((thrown: unknown) => {
    throw signal.aborted ? new Abandoned() : thrown;
  });
  return Response.json(list, { headers: { [ANSWER_HEADERS.modelDigest]: model.digest } });
}

function isStream(response: Response): boolean {
  return response.headers.get("content-type") === SSE_HEADERS["content-type"];
}
