/** An origin as its edges meet it: the real app on an engine of the test's choice, and requests signed by an edge. */
import { Admission } from "../../origin/admit.ts";
import { Coalescer } from "../../origin/coalesce.ts";
import type { EngineClient } from "../../origin/engine/client.ts";
import { GrammarService, type GrammarServiceOptions } from "../../origin/grammar/service.ts";
import { createMetrics } from "../../origin/metrics.ts";
import type { ServedModel } from "../../origin/prepare.ts";
import type { PromptEncoder } from "../../origin/prompts/encoder.ts";
import { encodeSource } from "../../origin/prompts/messages.ts";
import { createServer, type ServerOptions, type ServiceState } from "../../origin/server.ts";
import { EdgeVerifier } from "../../origin/verify-edge.ts";
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
};

export interface OriginOptions extends Partial<ServerOptions> {
  readonly engine: Pick<EngineClient, "submit" | "occupancy" | "counters">;
  readonly model?: ServedModel;
  readonly grammars?: GrammarService;
  readonly prompts?: Pick<PromptEncoder, "encode">;
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
  model = BYTE_MODEL,
  grammars = createGrammars(),
  prompts = { encode: (source) => Promise.resolve(encodeSource(model.tokenizer, source)) },
  ...changes
}: OriginOptions) {
  const lines: Readonly<Record<string, unknown>>[] = [];
  const key = await importSignatureKey(SECRET);
  const state: ServiceState = { status: "ready", model, engine, grammars, prompts };
  const metrics = createMetrics({ occupancy: () => engine.occupancy, counters: () => engine.counters });
  let ids = 0;
  const app = createServer({
    state: () => state,
    verifier: new EdgeVerifier({ key, replayIdsMax: 1000, nowSeconds: () => NOW_MS / 1000 }),
    admission: new Admission({ openMax: 100, followersMax: 100, waitMs: () => undefined }),
    coalescer: new Coalescer({ onConflict: () => metrics.coalesceConflicts.inc() }),
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
  return { app, ask, signed, lines };
}
