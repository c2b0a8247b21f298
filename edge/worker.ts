/**
 * The edge: the way of one request as one list. Each step is a file of its own; what a step may know is passed to it
 * here. Runs wherever the Web's APIs are; `platform/` holds the entries.
 */
import { Hono } from "hono";
import { COMPLETION_SCHEMAS, type CompletionPath } from "../shared/completion-request.ts";
import type { Model, ModelList } from "../shared/completion-response.ts";
import { ColdpathError, errorResponse, toColdpathError } from "../shared/errors.ts";
import { admit, estimateTokens, type Admitted } from "./admit.ts";
import { renderAnswer, replyWith } from "./answer.ts";
import { createAuthenticate, type Caller } from "./authenticate.ts";
import { Call, type WaitUntil } from "./call.ts";
import type { EdgeConfig } from "./config.ts";
import { Draft } from "./draft.ts";
import { ClientGone, forward } from "./forward.ts";
import { identify, tagTenant } from "./identify.ts";
import type { Hit } from "./isolate-hit.ts";
import { IsolateMemory } from "./isolate.ts";
import { createModels } from "./models.ts";
import { createOriginClient } from "./origin-client.ts";
import { Permits } from "./permits.ts";
import type { Platform } from "./platform/platform.ts";
import { checkReadiness } from "./ready.ts";
import { recall } from "./recall.ts";
import { createMemoryStore } from "./regional/memory.ts";
import { createRedisStore } from "./regional/redis.ts";
import type { RegionalStore } from "./regional/regional-store.ts";
import { collect, endOf, stream, type RelayEnd } from "./relay.ts";
import { createSealer } from "./seal.ts";
import { settle } from "./settle.ts";
import { storeAnswer } from "./store.ts";
import { validate, type ReplyForm } from "./validate.ts";

/** Answers one request; work that outlives the response goes to `waitUntil`. */
export interface Edge {
  fetch(request: Request, waitUntil: WaitUntil): Promise<Response>;
}

/** A lease outlives the longest answer by this much, so that no running stream ever loses its slot. */
const LEASE_MARGIN_MS = 5_000;

/** Builds the edge from its settings and the place it runs in. Asks nobody anything before the first request. */
export function createEdge(config: EdgeConfig, platform: Platform): Edge {
  const parts = createParts(config, platform);
  const app = new Hono<{ Bindings: { readonly call: Call } }>();
  const routes: Readonly<Record<string, { readonly method: "GET" | "POST"; readonly run: Handler }>> = {
    ...Object.fromEntries(
      (Object.keys(COMPLETION_SCHEMAS) as CompletionPath[]).map((path) => [
        path,
        { method: "POST", run: (call: Call) => complete(parts, call, path) },
      ]),
    ),
    "/v1/models": { method: "GET", run: (call) => listModels(parts, call) },
    "/healthz": { method: "GET", run: async () => Response.json({ status: "ok" }) },
    "/readyz": { method: "GET", run: (call) => checkReadiness(call, parts) },
  };
  for (const [path, { method, run }] of Object.entries(routes)) {
    app.on(method, path, (context) => run(context.env.call));
    app.all(path, () => {
      throw new ColdpathError("method_not_allowed", `${path} takes ${method} only`, { headers: { allow: method } });
    });
  }
  app.notFound(() => {
    throw new ColdpathError("not_found", "there is nothing at this path");
  });
  app.onError((error, context) => refuse(context.env.call, error));

  return {
    fetch: async (request, waitUntil) => {
      const call = new Call(request, platform, waitUntil);
      const recalled = await call.step("recall", () => recall(parts, call));
      if (recalled !== undefined) return finished(call, replyHit(recalled.hit, recalled.form));
      const answering = Promise.resolve(app.fetch(request, { call }));
      // A client that leaves must not take the settling with it.
      waitUntil(answering);
      return finished(call, await answering);
    },
  };
}

function finished(call: Call, response: Response): Response {
  call.stamp(response);
  call.end();
  return response;
}

/** What a body turned out to ask. */
interface Remembered {
  readonly caller: Caller;
  readonly path: CompletionPath;
  readonly digest: string;
  readonly model: Model;
  readonly form: ReplyForm;
}

type Handler = (call: Call) => Promise<Response>;
type Parts = ReturnType<typeof createParts>;

/** What lives as long as the isolate. */
function createParts(config: EdgeConfig, platform: Platform) {
  const store: RegionalStore =
    config.store.kind === "redis"
      ? createRedisStore(platform.openRedis(config.store))
      : createMemoryStore(platform, config.store);
  const sealer = createSealer(platform.crypto, config.cacheSecrets);
  const origin = createOriginClient(platform, config);
  return {
    config,
    store,
    sealer,
    origin,
    isolate: new IsolateMemory(config),
    permits: new Permits(config),
    authenticate: createAuthenticate(config, "chat"),
    models: createModels(config, { origin, store, sealer }),
  };
}

/** The chain. */
async function complete(parts: Parts, call: Call, path: CompletionPath): Promise<Response> {
  const { config, store, sealer, origin, models, isolate, permits } = parts;

  const caller = await call.step("authenticate", () =>
    parts.authenticate(call.request.headers.get("authorization"), call.platform.now()),
  );
  Object.assign(call.record, { tenant: caller.tenant, subject: caller.subject });

  const asked = await call.step("validate", () =>
    validate(path, call, {
      bodyBytesMax: config.bodyBytesMax,
      defaultModel: () => models.first(call),
    }),
  );

  const { identity, modelDigest, estimate } = await call.step("identify", async () => {
    const model = await models.find(call, asked.question.request.model);
    call.record.model = model.id;
    const mac = await sealer.identityMac();
    const found = await identify(mac, asked.question, { tenant: caller.tenant, modelDigest: model.digest });
    const { answerTokensDefault } = config;
    const bound = estimateTokens(asked.question, found, { model, answerTokensDefault });
    await remember(parts, call, { caller, path, digest: found.digest, model, form: asked.form });
    return { identity: found, modelDigest: model.digest, estimate: bound };
  });

  const admitted = await call.step("admit", () =>
    admit(
      call,
      { ...config, store, sealer, isolate, permits, leaseMs: config.answerTimeoutMs + LEASE_MARGIN_MS },
      { caller, identity, estimate, form: asked.form },
    ),
  );
  call.record.cache = admitted.type === "hit" ? "HIT" : admitted.cache;
  if (admitted.type === "hit") return replyHit(admitted, asked.form);

  let answeredBy: string | undefined;
  const onEnd = (end: RelayEnd): Promise<void> => {
    const keepAt = answeredBy === modelDigest ? admitted.keepAt : undefined;
    if (end.type === "complete" && keepAt !== admitted.keepAt) noteOtherModel(parts, call, modelDigest);
    return finish(parts, call, { ...admitted, keepAt }, end, { promptTokens: estimate.promptTokens, form: asked.form });
  };
  const upstream = await call
    .step("forward", async () =>
      forward(origin, asked.question, identity, {
        requestId: call.requestId,
        context: {
          digest: admitted.shared ? identity.digest : undefined,
          tenant: await tagTenant(await sealer.identityMac(), caller.tenant),
          priority: caller.priority,
        },
        client: call.request.signal,
        silenceMs: config.originTimeoutMs,
        answerMs: config.answerTimeoutMs,
        eventCharsMax: config.answerBytesMax,
      }),
    )
    .catch(async (error: unknown) => {
      await onEnd(endOf(error));
      throw error;
    });

  answeredBy = upstream.modelDigest;
  const cache = upstream.coalesced ? "COALESCED" : admitted.cache;
  call.record.cache = cache;
  const type = asked.question.path === "/v1/chat/completions" ? "chat" : "text";
  const draft = new Draft({ type, choices: asked.question.request.n ?? 1, bytesMax: config.answerBytesMax });
  const headers = { ...admitted.headers, "x-cache": cache };
  if (asked.form.type === "sse") {
    const { includeUsage } = asked.form;
    const { keepAliveMs, clientTimeoutMs: stallMs } = config;
    return stream(call, { upstream, draft, onEnd }, { includeUsage, headers, keepAliveMs, stallMs });
  }
  const answer = await collect({ upstream, draft, onEnd });
  return replyWith(renderAnswer(answer, asked.form), asked.form, headers);
}

/** The origin changed its model and the list did not say so yet: filed under the old one, the answer would be a lie. */
function noteOtherModel({ models }: Parts, call: Call, identifiedWith: string): void {
  call.record.notKept = "other-model";
  models.doubt(identifiedWith);
}

/** So that the same body is recognized without reading it. `/generate` may leave the model to the list's order. */
async function remember(
  { isolate, config }: Parts,
  call: Call,
  { caller, path, digest, model, form }: Remembered,
): Promise<void> {
  if (path === "/generate") return;
  const text = await call.text(config.bodyBytesMax);
  isolate.keepQuestion(caller.tenant, path, text, { digest, form, modelId: model.id, modelDigest: model.digest });
}

function replyHit({ body, tier, ageSeconds, headers }: Hit, form: ReplyForm): Response {
  return replyWith(body, form, { ...headers, "x-cache": "HIT", "x-cache-tier": tier, age: String(ageSeconds) });
}

/** The last two steps, store and settle, side by side: neither needs the other. */
async function finish(
  { store, sealer, isolate, config }: Parts,
  call: Call,
  { reservation, keepAt, generation }: Admitted & { readonly type: "forward" },
  end: RelayEnd,
  { promptTokens, form }: { readonly promptTokens: number; readonly form: ReplyForm },
): Promise<void> {
  switch (end.type) {
    case "complete": {
      const { answer } = end;
      const { cacheTtlSeconds } = config;
      await Promise.all([
        keepAt === undefined
          ? undefined
          : storeAnswer(call, { store, sealer, isolate, cacheTtlSeconds }, { place: keepAt, form, generation }, answer),
        settle(call, store, reservation, { type: "complete", usage: answer.usage }),
      ]);
      return;
    }
    case "aborted":
      return settle(call, store, reservation, { type: "aborted", promptTokens, answerTokens: end.answerTokens });
    case "broken":
      call.record.error = end.error.code;
      call.record.cause = describe(end.error.cause);
      return settle(call, store, reservation, { type: "broken" });
    default:
      return end satisfies never;
  }
}

async function listModels({ authenticate, models }: Parts, call: Call): Promise<Response> {
  await authenticate(call.request.headers.get("authorization"), call.platform.now());
  return Response.json({ object: "list", data: await models.list(call) } satisfies ModelList);
}

function refuse(call: Call, thrown: unknown): Response {
  // Nobody reads this response; the status is nginx's for a closed connection, for the log.
  if (thrown instanceof ClientGone) return new Response(null, { status: 499 });
  const error = toColdpathError(thrown);
  call.record.error = error.code;
  if (error.cause !== undefined) call.record.cause = describe(error.cause);
  return errorResponse(error);
}

/** For the log only. A SyntaxError's message quotes what it could not read: a prompt or an answer. */
function describe(cause: unknown): string {
  if (cause instanceof SyntaxError) return cause.name;
  return cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
}
