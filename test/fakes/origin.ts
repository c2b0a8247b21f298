/** An origin as its edges meet it: the real app on an engine of the test's choice, and requests signed by an edge. */
import { Admission } from "../../origin/request/admit.ts";
import { Coalescer } from "../../origin/request/coalesce.ts";
import type { ServedEncoder } from "../../origin/request/answer-embeddings.ts";
import type { EngineClient } from "../../origin/engine/client.ts";
import type { EngineStatus } from "../../origin/engine/supervisor.ts";
import { GrammarService, type GrammarServiceOptions } from "../../origin/grammar/service.ts";
import { createMetrics } from "../../origin/operate/metrics.ts";
import type { ServedModel } from "../../origin/request/prepare.ts";
import type { PromptEncoder } from "../../origin/prompts/encoder.ts";
import { encodeSource } from "../../origin/prompts/messages.ts";
import { type DecoderService, type EncoderService, ServedModels } from "../../origin/models/registry.ts";
import { createServer, type ServerOptions } from "../../origin/request/server.ts";
import { EdgeVerifier } from "../../origin/request/verify-edge.ts";
import type { EdgeContext } from "../../shared/edge-context.ts";
import { importSignatureKey, signMessage } from "../../shared/signature.ts";
import { BYTE_VOCAB_SIZE, IM_END, createByteTokenizer } from "./byte-tokenizer.ts";

export const SECRET = "a secret between edge and origin";
export const NOW_MS = 1_700_000_000_000;

export const BYTE_MODEL: ServedModel = {
  id: "bytes",
  digest: "d".repeat(64),
  created: 1_600_000_000,
  contextLength: 512,
  vocabSize: BYTE_VOCAB_SIZE,
  tokenizer: createByteTokenizer(),
  generation: {},
};

/** A model's service, but for what counts into the origin's figures. */
type FakeService = FakeDecoder | Omit<EncoderService, "metrics">;
type FakeDecoder = Omit<DecoderService, "metrics" | "coalescer">;

export interface OriginOptions extends Partial<Omit<ServerOptions, "models">>, Partial<DecoderOptions> {
  /** What is served; default: one model that makes text, made of the other options. */
  readonly services?: readonly FakeService[];
  /** Models of the list that are not loaded yet. */
  readonly loading?: readonly string[];
}

interface DecoderOptions {
  readonly engine: FakeEngine;
  readonly model?: ServedModel;
  readonly grammars?: GrammarService;
  readonly prompts?: Pick<PromptEncoder, "encode">;
  readonly admission?: Admission;
}

type FakeEngine = Pick<EngineClient, "submit" | "occupancy" | "counters"> & { readonly status?: EngineStatus };

/** A model that makes text, on an engine that is ready unless it says otherwise. */
export function createDecoder({
  engine,
  model = BYTE_MODEL,
  grammars = createGrammars(),
  prompts = { encode: (source) => Promise.resolve(encodeSource(model.tokenizer, source)) },
  admission = createAdmission(),
}: DecoderOptions): FakeDecoder {
  const running = {
    submit: (...asked: Parameters<EngineClient["submit"]>) => engine.submit(...asked),
    get status() {
      return engine.status ?? "ready";
    },
    get occupancy() {
      return engine.occupancy;
    },
    get counters() {
      return engine.counters;
    },
    stop: () => Promise.resolve(),
  };
  return { task: "generate", model, engine: running, grammars, prompts, admission };
}

/** A model that makes vectors. */
export function createEncoder(model: ServedEncoder, engine: EncoderService["engine"]): Omit<EncoderService, "metrics"> {
  return { task: "embed", model, engine, admission: createAdmission() };
}

function createAdmission(): Admission {
  return new Admission({ openMax: 100, followersMax: 100, waitMs: () => undefined });
}

/** Its threads start when a grammar is asked for. */
export function createGrammars(options: Partial<GrammarServiceOptions> = {}): GrammarService {
  return new GrammarService({
    vocabulary: BYTE_MODEL.tokenizer.listVocabulary(),
    vocabSize: BYTE_VOCAB_SIZE,
    endTokens: [IM_END],
    threadsMax: 2,
    compileMs: 20_000,
    bytesMax: 2 ** 28,
    ...options,
  });
}

/** What a request says beside its body. `context` is signed, `headers` are not. */
export interface Said {
  readonly headers?: Readonly<Record<string, string>>;
  readonly context?: EdgeContext;
}

export type Body = string | Uint8Array<ArrayBuffer>;

/** The app, its log's lines, a signed request without sending it, and its answer. */
export async function createOrigin({
  engine,
  model,
  grammars,
  prompts,
  admission,
  services,
  loading = [],
  ...changes
}: OriginOptions) {
  const lines: Readonly<Record<string, unknown>>[] = [];
  const key = await importSignatureKey(SECRET);
  const alone =
    engine &&
    createDecoder({
      engine,
      ...(model && { model }),
      ...(grammars && { grammars }),
      ...(prompts && { prompts }),
      ...(admission && { admission }),
    });
  const served = services ?? (alone === undefined ? [] : [alone]);
  const models = new ServedModels([...served.map(({ model: { id } }) => id), ...loading]);
  const metrics = createMetrics({
    models: () =>
      models.loaded.map(({ model: { id }, engine: { occupancy, counters, status } }) => ({
        id,
        occupancy,
        counters,
        ready: status === "ready",
      })),
  });
  for (const service of served) {
    const own = metrics.of(service.model.id);
    const coalescer = new Coalescer({ onConflict: () => own.coalesceConflicts.inc() });
    models.add(service.task === "embed" ? { ...service, metrics: own } : { ...service, coalescer, metrics: own });
  }
  let ids = 0;
  const app = createServer({
    models,
    verifier: new EdgeVerifier({ key, replayIdsMax: 1000, nowSeconds: () => NOW_MS / 1000 }),
    metrics,
    log: (line) => lines.push(line),
    bodyBytesMax: 10_000,
    stallMs: 30_000,
    wallClock: () => NOW_MS,
    now: () => performance.now(),
    createSeed: () => 1,
    choicesMax: 4,
    schemaBytesMax: 4_000,
    createId: () => `id-${ids++}`,
    ...changes,
  });

  /** `path` may be a whole URL of an origin that listens; GET without a body. */
  async function signed(path: string, body?: Body, { headers = {}, context }: Said = {}): Promise<Request> {
    const url = new URL(path, "http://origin");
    const method = body === undefined ? "GET" : "POST";
    const bytes = typeof body === "string" ? new TextEncoder().encode(body) : (body ?? new Uint8Array());
    const message = { method, path: url.pathname, requestId: `edge-${ids++}`, body: bytes, context };
    const signature = await signMessage(key, message, NOW_MS / 1000);
    const init = { method, headers: { "content-type": "application/json", ...signature, ...headers } };
    return new Request(url, body === undefined ? init : { ...init, body: bytes });
  }

  /** Sends text as it is and anything else as JSON. */
  async function ask(path: string, body?: unknown, said: Said = {}): Promise<Response> {
    const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
    return app.request(await signed(path, text, said));
  }
  return { app, ask, signed, lines, models };
}
