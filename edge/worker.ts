/**
 * The edge: the way of one request as one list. Each step is a file of its own; what a step may know is passed to it
 * here. Runs wherever the Web's APIs are; `platform/` holds the entries.
 */
import { Hono } from "hono";
import { tryDecodeURIComponent } from "hono/utils/url";
import {
  COMPLETION_SCHEMAS,
  type CompletionPath,
  countWantedAnswers,
  type Question,
} from "../shared/completion-request.ts";
import type { Model, ModelList } from "../shared/completion-response.ts";
import { ColdpathError, errorResponse, toColdpathError } from "../shared/errors.ts";
import { admit, type Admitted } from "./admission/admit.ts";
import { formHeaders, renderAnswer } from "./answer/answer.ts";
import { createAuthenticate, type Caller } from "./auth/authenticate.ts";
import { Call, type WaitUntil } from "./call/call.ts";
import type { EdgeConfig } from "./config.ts";
import { allowOrigin, answerPreflight, isPreflight } from "./call/cross-origin.ts";
import { Draft, type Drafting } from "./answer/draft.ts";
import { Described, DOCUMENT_HEADERS } from "./describe/described.ts";
import { createEventWriter } from "./answer/event-writer.ts";
import { collectFleetFigures } from "./operate/fleet-figures.ts";
import { ClientGone } from "./call/client-gone.ts";
import { forward } from "./fleet/forward.ts";
import { tagTenant } from "./question/identify.ts";
import { type Asking, isAsking, WebIncoming } from "./call/incoming.ts";
import type { KnownQuestion } from "./question/known-question.ts";
import type { Hit } from "./admission/isolate-hit.ts";
import { IsolateMemory } from "./cache/memory.ts";
import { EdgeMetrics, METRICS_TYPE } from "./operate/metrics.ts";
import { createModels } from "./fleet/models.ts";
import { createOriginClient } from "./fleet/origin-client.ts";
import { MostAsked } from "./cache/most-asked.ts";
import { Permits } from "./admission/permits.ts";
import type { Platform } from "./platform/platform.ts";
import { checkReadiness } from "./operate/ready.ts";
import { countAnswers, listMostAsked, purgeAnswers } from "./admin/purge.ts";
import { memorize, recall, type Recollection } from "./admission/recall.ts";
import { createMemoryStore } from "./regional/memory.ts";
import { Breaker, withBreaker } from "./regional/breaker.ts";
import { createRedisStore } from "./regional/redis.ts";
import type { RegionalStore } from "./regional/regional-store.ts";
import { collect, endOf, stream, type RelayEnd, type RelayParts } from "./reply/relay.ts";
import { type Reply, TextReply, toResponse } from "./call/reply.ts";
import { resumeReplay } from "./answer/resume.ts";
import { refuseRevoked, revokeToken } from "./auth/revoke.ts";
import { createSealer } from "./cache/seal.ts";
import { settle } from "./admission/settle.ts";
import { storeAnswer } from "./cache/store.ts";
import { issueAccessToken } from "./auth/token-endpoint.ts";
import { type ParsedQuestion, understand } from "./question/understand.ts";
import type { ReplyForm } from "./question/reply-form.ts";
import { VectorDraft } from "./answer/vector-draft.ts";

/** Work that outlives the response goes to `waitUntil`. */
export interface Edge {
  /** Answers any request. */
  fetch(request: Request, waitUntil: WaitUntil): Promise<Response>;
  /** Answers one that asks the model, for platforms that have something cheaper than the Web's objects. */
  ask(request: Asking, waitUntil: WaitUntil): Promise<Reply>;
}

/** A lease outlives the longest answer by this much, so that no running stream ever loses its slot. */
const LEASE_MARGIN_MS = 5_000;

/** Builds the edge from its settings and the place it runs in. Asks nobody anything before the first request. */
export function createEdge(config: EdgeConfig, platform: Platform): Edge {
  const parts = createParts(config, platform);
  const { observe } = parts.metrics;
  const described = new Described();
  const app = new Hono<{ Bindings: { readonly call: Call } }>();
  const routes: Readonly<Record<string, { readonly method: "GET" | "POST"; readonly run: Handler }>> = {
    "/v1/models": { method: "GET", run: (call) => listModels(parts, call) },
    // A name may have slashes in it, escaped or not.
    "/v1/models/:model{.+}": { method: "GET", run: (call) => showModel(parts, call) },
    "/metrics": { method: "GET", run: (call) => showMetrics(parts, call) },
    "/admin/purge": { method: "POST", run: (call) => administer(parts, call, purgeAnswers) },
    "/admin/stats": { method: "GET", run: (call) => administer(parts, call, countAnswers) },
    "/admin/top": { method: "GET", run: (call) => administer(parts, call, listMostAsked) },
    "/admin/revoke": { method: "POST", run: (call) => administer(parts, call, revokeToken) },
    "/token": { method: "POST", run: (call) => issueAccessToken(parts, call) },
    "/openapi.json": {
      method: "GET",
      run: async () => new Response(described.document, { headers: DOCUMENT_HEADERS }),
    },
    "/docs": { method: "GET", run: () => described.showPage() },
    "/healthz": { method: "GET", run: async () => Response.json({ status: "ok" }) },
    "/readyz": { method: "GET", run: (call) => checkReadiness(call, parts) },
  };
  const takesOnly = (method: "GET" | "POST", path: string): void => {
    app.all(path, () => {
      throw new ColdpathError("method_not_allowed", `${path} takes ${method} only`, { headers: { allow: method } });
    });
  };
  for (const [path, { method, run }] of Object.entries(routes)) {
    app.on(method, path, (context) => run(context.env.call));
    takesOnly(method, path);
  }
  for (const path of Object.keys(COMPLETION_SCHEMAS)) takesOnly("POST", path);
  app.notFound(() => {
    throw new ColdpathError("not_found", "there is nothing at this path");
  });
  app.onError((error, context) => refuse(context.env.call, error));

  return {
    fetch: async (request, waitUntil) => {
      const incoming = new WebIncoming(request);
      const call = new Call(incoming, platform, waitUntil, observe);
      if (isAsking(incoming)) return toResponse(await ask(parts, call, incoming.path));
      const answering = Promise.resolve(
        isPreflight(incoming) ? answerPreflight(incoming) : app.fetch(request, { call }),
      );
      waitUntil(answering);
      const response = await answering;
      seeOff(parts, call, response);
      return response;
    },
    ask: (request, waitUntil) => ask(parts, new Call(request, platform, waitUntil, observe), request.path),
  };
}

/** From memory if that can be, else by the chain. Never rejects. */
async function ask(parts: Parts, call: Call, path: CompletionPath): Promise<Reply> {
  const recalled = await recall(parts, call);
  call.noteStep("recall", call.startedMs);
  const { caller, known, hit } = recalled;
  let reply: Reply;
  if (caller !== undefined && known !== undefined && hit !== undefined) {
    call.record.tenant = caller.tenant;
    call.record.subject = caller.subject;
    call.record.model = known.modelId;
    reply = replyHit(call, hit, known.form);
  } else {
    const answering = complete(parts, call, path, recalled).catch((error: unknown) => refuse(call, error));
    // A client that leaves must not take the settling with it.
    call.waitUntil(answering);
    reply = await answering;
  }
  seeOff(parts, call, reply);
  return reply;
}

/** What every reply gets, whoever made it. */
function seeOff({ config }: Parts, call: Call, reply: Reply): void {
  call.stamp(reply);
  allowOrigin(call.request, reply, config.corsOrigins);
  call.end(reply.status);
}

type Handler = (call: Call) => Promise<Response>;
type Parts = ReturnType<typeof createParts>;

/** What lives as long as the isolate. */
function createParts(config: EdgeConfig, platform: Platform) {
  const breaker = new Breaker(config.storePauseMs);
  const store: RegionalStore =
    config.store.kind === "redis"
      ? createRedisStore(withBreaker(platform.openRedis(config.store), breaker, platform.now), {
          timeoutMs: config.store.timeoutMs,
          now: platform.now,
        })
      : createMemoryStore(platform, config.store);
  const sealer = createSealer(platform.crypto, config.cacheSecrets);
  const origin = createOriginClient(platform, config);
  const isolate = new IsolateMemory(config);
  const asked = new MostAsked({ store, sealer, config });
  const permits = new Permits(config);
  const { cacheTtlSeconds, cacheStaleSeconds, cacheErrorSeconds, limiterFails, answerTimeoutMs } = config;
  const keeping = { sealer, isolate, cacheTtlSeconds, cacheStaleSeconds, cacheErrorSeconds };
  return {
    config,
    store,
    breaker,
    sealer,
    origin,
    isolate,
    asked,
    permits,
    keeping,
    admission: { ...keeping, store, permits, asked, limiterFails, leaseMs: answerTimeoutMs + LEASE_MARGIN_MS },
    authenticate: createAuthenticate(config, "chat"),
    authenticateAdmin: createAuthenticate(config, "admin"),
    metrics: new EdgeMetrics(),
    models: createModels(config, { origin, store, sealer }),
  };
}

/** The chain, as far as memory has not gone it. */
async function complete(parts: Parts, call: Call, path: CompletionPath, recalled: Recollection): Promise<Reply> {
  const caller =
    recalled.caller ??
    (await call.step("authenticate", () => parts.authenticate(call.request.header("authorization"), call)));
  Object.assign(call.record, { tenant: caller.tenant, subject: caller.subject });

  let parsed: ParsedQuestion | undefined;
  if (recalled.known === undefined) {
    parsed = await understand(parts, call, { caller, path });
    memorize(parts.isolate, call, { caller, path, known: parsed.known });
  }
  const known = recalled.known ?? (parsed as ParsedQuestion).known;
  const { form } = known;
  call.record.model = known.modelId;

  const admitted = await call.step("admit", () => admit(call, parts.admission, { caller, known }));
  if (admitted.type === "hit" ? admitted.tier === "regional" : admitted.keepAt !== undefined) {
    parts.asked.note(call, { tenant: caller.tenant, digest: known.digest, times: 1 });
  }
  if (admitted.type === "hit") return replyHit(call, admitted, form);

  const cold: Cold = { caller, path, known, parsed, admitted };
  const { stale } = admitted;
  if (stale?.use === "while-revalidating") {
    call.continuesIn(refresh(parts, call, cold));
    return replyHit(call, stale.hit, form);
  }
  try {
    return await answerCold(parts, call, cold);
  } catch (error) {
    if (stale === undefined || !isUnanswered(error)) throw error;
    call.record.degraded = "stale-if-error";
    return replyHit(call, stale.hit, form);
  }
}

/** A question that the origin has to answer. */
interface Cold {
  readonly caller: Caller;
  readonly path: CompletionPath;
  readonly known: KnownQuestion;
  /** Absent where memory recognized the body by its text alone. */
  readonly parsed: ParsedQuestion | undefined;
  readonly admitted: Admitted & { readonly type: "forward" };
}

async function answerCold(parts: Parts, call: Call, cold: Cold): Promise<Reply> {
  const { form } = cold.known;
  const { cache, ...relay } = await askOrigin(parts, call, cold, call.request.signal);
  call.record.cache = cache;
  const headers = { ...cold.admitted.headers, "x-cache": cache };
  const writer = createEventWriter(form, call.request.header("last-event-id"));
  if (writer === undefined) {
    return new TextReply(renderAnswer(await collect(relay), form), { ...headers, ...formHeaders(form) });
  }
  const { keepAliveMs, clientTimeoutMs: stallMs } = parts.config;
  return stream(call, relay, { writer, headers, keepAliveMs, stallMs });
}

/** Makes a stale answer anew, whoever still waits for anything. On Workers, what runs behind a response has 30 seconds. */
async function refresh(parts: Parts, call: Call, cold: Cold): Promise<void> {
  try {
    await collect(await askOrigin(parts, call, cold, new AbortController().signal));
  } catch (error) {
    call.record.degraded = "not-refreshed";
    if (!(error instanceof ColdpathError)) call.record.cause = describe(error);
  } finally {
    // Where even this fails, its lease runs out.
    await parts.store.endRefresh(cold.caller.tenant, cold.known.digest).catch(() => undefined);
  }
}

/** Begins the answer; however it ends, it is stored and settled. */
async function askOrigin(
  parts: Parts,
  call: Call,
  { caller, path, known, parsed, admitted }: Cold,
  client: AbortSignal,
): Promise<RelayParts & { readonly cache: "MISS" | "BYPASS" | "COALESCED" }> {
  const { config, sealer, origin } = parts;
  const { digest, form, modelDigest, estimate } = known;
  let answeredBy: string | undefined;
  const onEnd = (end: RelayEnd): Promise<void> => {
    const keepAt = answeredBy === modelDigest ? admitted.keepAt : undefined;
    if (end.type === "complete" && keepAt !== admitted.keepAt) noteOtherModel(parts, call, modelDigest);
    const ended = finish(parts, call, { ...admitted, keepAt }, end, { promptTokens: estimate.promptTokens, form });
    return whileTheStoreHasTime(parts, call, ended);
  };
  try {
    return await call.step("forward", async () => {
      const { question, canonical } = parsed ?? (await understand(parts, call, { caller, path }));
      const upstream = await forward(
        origin,
        { path: question.path, canonical },
        {
          requestId: call.requestId,
          context: {
            digest: admitted.shared ? digest : undefined,
            tenant: await tagTenant(await sealer.identityMac(), caller.tenant),
            priority: caller.priority,
            normalize: config.normalize === "off" ? undefined : config.normalize,
          },
          client,
          silenceMs: config.originTimeoutMs,
          answerMs: config.answerTimeoutMs,
          eventCharsMax: config.answerBytesMax,
        },
      );
      answeredBy = upstream.modelDigest;
      const draft = draftOf(question, config.answerBytesMax);
      return { upstream, draft, onEnd, cache: upstream.coalesced ? "COALESCED" : admitted.cache };
    });
  } catch (error) {
    await onEnd(endOf(error));
    throw error;
  }
}

function draftOf(question: Question, bytesMax: number): Drafting {
  if (question.path === "/v1/embeddings") return new VectorDraft(question.request.input.length);
  const type = question.path === "/v1/chat/completions" ? "chat" : "text";
  return new Draft({ type, choices: countWantedAnswers(question.request), bytesMax });
}

/** Whether an old answer is better than this: the origin is away, failed, or has no room; not the client's own mistake. */
function isUnanswered(error: unknown): boolean {
  return error instanceof ColdpathError && (error.status >= 500 || error.code === "queue_full");
}

/** The origin changed its model and the list did not say so yet: filed under the old one, the answer would be a lie. */
function noteOtherModel({ models }: Parts, call: Call, identifiedWith: string): void {
  call.record.notKept = "other-model";
  models.doubt(identifiedWith);
}

function replyHit(call: Call, { body, tier, ageSeconds, stale, headers }: Hit, form: ReplyForm): Reply {
  const cache = stale ? "STALE" : "HIT";
  call.record.cache = cache;
  call.record.tier = tier;
  const age = String(ageSeconds);
  const rest = form.type === "sse" ? resumeReplay(body, call.request.header("last-event-id")) : body;
  return new TextReply(rest, { ...headers, "x-cache": cache, "x-cache-tier": tier, age, ...formHeaders(form) });
}

/** The client's last word waits for the store as long as its request still may; what is left is done behind it. */
async function whileTheStoreHasTime({ config: { store } }: Parts, call: Call, ended: Promise<void>): Promise<void> {
  if (store.kind === "memory") return ended;
  const over = Promise.withResolvers<"over">();
  const timer = setTimeout(() => over.resolve("over"), store.timeoutMs - call.storeWaitedMs);
  const first = await Promise.race([ended, over.promise]);
  clearTimeout(timer);
  if (first === "over") call.continuesIn(ended);
}

/** The last two steps, store and settle, of which the region hears in one round trip. */
async function finish(
  { store, keeping }: Parts,
  call: Call,
  { reservation, keepAt, generation }: Admitted & { readonly type: "forward" },
  end: RelayEnd,
  { promptTokens, form }: { readonly promptTokens: number; readonly form: ReplyForm },
): Promise<void> {
  switch (end.type) {
    case "complete": {
      const { answer } = end;
      const kept = keepAt && (await storeAnswer(call, keeping, { place: keepAt, form, generation }, answer));
      return settle(call, store, reservation, { type: "complete", usage: answer.usage }, kept);
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

async function listModels(parts: Parts, call: Call): Promise<Response> {
  await refuseRevoked(parts, call, await parts.authenticate(call.request.header("authorization"), call));
  return Response.json({ object: "list", data: await parts.models.list(call) } satisfies ModelList);
}

async function showModel(parts: Parts, call: Call): Promise<Response> {
  await refuseRevoked(parts, call, await parts.authenticate(call.request.header("authorization"), call));
  const id = tryDecodeURIComponent(call.path.slice("/v1/models/".length));
  return Response.json((await parts.models.find(call, id)) satisfies Model);
}

/** To an operator whose token can't be checked for revocation, too: nobody needs the figures more than while Redis is away. */
async function showMetrics(parts: Parts, call: Call): Promise<Response> {
  const caller = await parts.authenticateAdmin(call.request.header("authorization"), call);
  await refuseRevoked(parts, call, caller).catch((error: unknown) => {
    if (!(error instanceof ColdpathError) || error.status < 500) throw error;
  });
  const ofFleet = await collectFleetFigures(call, parts.config.siblings);
  const figures = { storeShut: parts.breaker.isShut, permits: parts.permits.counts };
  const text = ofFleet ?? parts.metrics.render(call.platform.randomId, figures);
  return new Response(text, { headers: { "content-type": METRICS_TYPE } });
}

/** A route of the operator's own. */
async function administer(
  parts: Parts,
  call: Call,
  run: (parts: Parts, call: Call) => Promise<Response>,
): Promise<Response> {
  const caller = await parts.authenticateAdmin(call.request.header("authorization"), call);
  Object.assign(call.record, { tenant: caller.tenant, subject: caller.subject });
  await refuseRevoked(parts, call, caller);
  return run(parts, call);
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
