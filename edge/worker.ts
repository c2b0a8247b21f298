/**
 * The edge: the way of one request as one list. Each step is a file of its own; what a step may know is passed to it
 * here. Runs wherever the Web's APIs are; `platform/` holds the entries.
 */
import { Hono } from "hono";
import { COMPLETION_SCHEMAS, type CompletionPath } from "../shared/completion-request.ts";
import type { ModelList } from "../shared/completion-response.ts";
import { ColdpathError, errorResponse, toColdpathError } from "../shared/errors.ts";
import { admit, estimateTokens, type Admitted } from "./admit.ts";
import { renderAnswer } from "./answer.ts";
import { createAuthenticate } from "./authenticate.ts";
import { Call, type WaitUntil } from "./call.ts";
import type { EdgeConfig } from "./config.ts";
import { Draft } from "./draft.ts";
import { ClientGone, forward } from "./forward.ts";
import { identify, tagTenant } from "./identify.ts";
import { createModels } from "./models.ts";
import { createOriginClient } from "./origin-client.ts";
import type { Platform } from "./platform/platform.ts";
import { checkReadiness } from "./ready.ts";
import { createMemoryStore } from "./regional/memory.ts";
import { createRedisStore } from "./regional/redis.ts";
import type { RegionalStore } from "./regional/regional-store.ts";
import { collect, endOf, stream, type RelayEnd } from "./relay.ts";
import { createSealer } from "./seal.ts";
import { settle } from "./settle.ts";
import { storeAnswer } from "./store.ts";
import { validate, type Asked } from "./validate.ts";

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
      const answering = Promise.resolve(app.fetch(request, { call }));
      // A client that leaves must not take the settling with it.
      waitUntil(answering);
      const response = call.stamp(await answering);
      call.end();
      return response;
    },
  };
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
    authenticate: createAuthenticate(config, "chat"),
    models: createModels(config, { origin, store, sealer }),
  };
}

/** The chain. */
async function complete(parts: Parts, call: Call, path: CompletionPath): Promise<Response> {
  const { config, store, sealer, origin, models } = parts;

  const caller = await call.step("authenticate", () =>
    parts.authenticate(call.request.headers.get("authorization"), call.platform.now()),
  );
  Object.assign(call.record, { tenant: caller.tenant, subject: caller.subject });

  const asked = await call.step("validate", () =>
    validate(path, call.request, {
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
    return { identity: found, modelDigest: model.digest, estimate: bound };
  });

  const admitted = await call.step("admit", () =>
    admit(
      call,
      { store, sealer, limiterFails: config.limiterFails, leaseMs: config.answerTimeoutMs + LEASE_MARGIN_MS },
      { caller, identity, estimate },
    ),
  );
  call.record.cache = admitted.type === "hit" ? "HIT" : admitted.cache;
  if (admitted.type === "hit") return replyHit(admitted, asked);

  let answeredBy: string | undefined;
  const onEnd = (end: RelayEnd): Promise<void> => {
    const keepAt = answeredBy === modelDigest ? admitted.keepAt : undefined;
    if (end.type === "complete" && keepAt !== admitted.keepAt) noteOtherModel(parts, call, modelDigest);
    return finish(parts, call, { ...admitted, keepAt }, end, estimate.promptTokens);
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
  const draft = new Draft({ type, bytesMax: config.answerBytesMax });
  const headers = { ...admitted.headers, "x-cache": cache };
  if (asked.form.type === "sse") {
    const { includeUsage } = asked.form;
    const { keepAliveMs, clientTimeoutMs: stallMs } = config;
    return stream(call, { upstream, draft, onEnd }, { includeUsage, headers, keepAliveMs, stallMs });
  }
  return renderAnswer(await collect({ upstream, draft, onEnd }), asked.form, headers);
}

/** The origin changed its model and the list did not say so yet: filed under the old one, the answer would be a lie. */
function noteOtherModel({ models }: Parts, call: Call, identifiedWith: string): void {
  call.record.notKept = "other-model";
  models.doubt(identifiedWith);
}

function replyHit(hit: Admitted & { readonly type: "hit" }, { form }: Asked): Response {
  return renderAnswer(hit.answer, form, {
    ...hit.headers,
    "x-cache": "HIT",
    "x-cache-tier": "regional",
    age: String(hit.ageSeconds),
  });
}

/** The last two steps, store and settle, side by side: neither needs the other. */
async function finish(
  { store, sealer, config }: Parts,
  call: Call,
  { reservation, keepAt }: Admitted & { readonly type: "forward" },
  end: RelayEnd,
  promptTokens: number,
): Promise<void> {
  switch (end.type) {
    case "complete": {
      const { answer } = end;
      const { cacheTtlSeconds } = config;
      await Promise.all([
        keepAt === undefined ? undefined : storeAnswer(call, { store, sealer, cacheTtlSeconds }, keepAt, answer),
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
