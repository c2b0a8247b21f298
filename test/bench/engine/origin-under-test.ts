/**
 * A real origin in a process of its own, on any free port, and a client that asks as an edge does. The client does as
 * little as it can while an answer runs: it writes down when each piece of the body came and reads the events out of
 * them afterwards, because its time is taken from the same cores.
 */
import { randomBytes, randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { Agent, type IncomingMessage, request } from "node:http";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createParser } from "eventsource-parser";
import { findFreePort } from "../../../infra/launch/ports.ts";
import type { EdgeContext } from "../../../shared/edge-context.ts";
import { importSignatureKey, signMessage } from "../../../shared/signature.ts";
import { SSE_DONE } from "../../../shared/sse.ts";
import { startServer } from "../server-process.ts";

const START_TIMEOUT_MS = 120_000;
const STOP_GRACE_MS = 5_000;

/** A streamed answer, times in milliseconds of `performance.now()`. */
interface StreamedAnswer {
  readonly sentAtMs: number;
  /** When each piece of text came. */
  readonly textAtMs: readonly number[];
  readonly usage: Usage | undefined;
}

interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly prompt_tokens_details?: { readonly cached_tokens?: number };
}

export interface OriginUnderTest {
  readonly url: string;
  /** Sends one signed request, text as it is and anything else as JSON; resolves with its head. */
  send(path: string, body: object | string, options?: SendOptions): Promise<IncomingMessage>;
  /**
   * Streams one answer to its end.
   *
   * @param onText - told at each piece of text, for what must happen while the answer runs
   * @throws an Error when the answer is not a whole one, or when `signal` aborted it
   */
  stream(path: string, body: object, options?: StreamOptions): Promise<StreamedAnswer>;
  /** `/metrics` as numbers, labels kept in the names, but for the one model's. */
  metrics(): Promise<ReadonlyMap<string, number>>;
  stop(): Promise<void>;
}

interface SendOptions {
  readonly signal?: AbortSignal;
  readonly context?: EdgeContext;
}

interface StreamOptions extends SendOptions {
  readonly onText?: (count: number) => void;
}

/**
 * None of this process's own `COLDPATH_*` but the models' folder; and patience, so that a slow machine fails no request.
 * No token is guessed unless a benchmark says so: an answer to random tokens soon repeats itself and would be guessed well.
 */
export function originEnvironment(settings: Readonly<Record<string, string>> = {}): NodeJS.ProcessEnv {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith("COLDPATH_") || name === "COLDPATH_MODELS_DIR",
  );
  const fixed = { COLDPATH_QUEUE_WAIT_MS: "600000", COLDPATH_SPECULATION_TOKENS: "0" };
  return { ...Object.fromEntries(inherited), ...fixed, ...settings };
}

/**
 * Starts an origin and waits until it has loaded its model.
 *
 * @param settings - `COLDPATH_*`
 */
export async function startOrigin(settings: Readonly<Record<string, string>>): Promise<OriginUnderTest> {
  const folder = await mkdtemp(join(tmpdir(), "coldpath-bench-"));
  const secret = randomBytes(32).toString("hex");
  const port = await findFreePort();
  const removeFolder = () => rm(folder, { recursive: true });
  const server = await startServer({
    name: "origin",
    folder,
    command: process.execPath,
    args: [join(import.meta.dirname, "../../../origin/main.ts")],
    env: { ...originEnvironment(settings), COLDPATH_ORIGIN_SECRET: secret, COLDPATH_ORIGIN_PORT: String(port) },
    port,
    readyPath: "/ready",
    timeoutMs: START_TIMEOUT_MS,
    stopGraceMs: STOP_GRACE_MS,
  }).catch(async (cause: unknown) => {
    await removeFolder();
    throw cause;
  });
  const stop = async (): Promise<void> => {
    await server[Symbol.asyncDispose]();
    await removeFolder();
  };
  const { url } = server;
  return { url, stop, ...(await createClient(url, secret)) };
}

async function createClient(
  url: string,
  secret: string,
): Promise<Pick<OriginUnderTest, "send" | "stream" | "metrics">> {
  const key = await importSignatureKey(secret);
  const agent = new Agent({ keepAlive: true });
  const send: OriginUnderTest["send"] = async (path, body, { signal, context } = {}) => {
    const bytes = new TextEncoder().encode(typeof body === "string" ? body : JSON.stringify(body));
    const message = { method: "POST", path, requestId: randomUUID(), body: bytes, context };
    const signature = await signMessage(key, message, Math.floor(Date.now() / 1000));
    const headers = { "content-type": "application/json", "content-length": bytes.length, ...signature };
    const sent = request(url + path, { method: "POST", agent, headers });
    // Not handed to `request`, and taken off at the end: afterwards the connection is somebody else's.
    const leave = () => void sent.destroy();
    const stay = () => signal?.removeEventListener("abort", leave);
    if (signal?.aborted) leave();
    signal?.addEventListener("abort", leave, { once: true });
    sent.once("close", stay);
    // After the head an error is the body's to tell.
    sent.on("error", () => undefined);
    sent.end(bytes);
    const [response] = (await once(sent, "response")) as [IncomingMessage];
    return response.once("end", stay);
  };
  const stream: OriginUnderTest["stream"] = async (path, body, { onText, ...options } = {}) => {
    const sentAtMs = performance.now();
    const whole = { ...body, stream: true, stream_options: { include_usage: true } };
    const response = await send(path, whole, options);
    const pieces: Piece[] = [];
    let texts = 0;
    for await (const bytes of response as AsyncIterable<Buffer>) {
      pieces.push({ atMs: performance.now(), bytes });
      if (onText !== undefined && bytes.includes(TEXT_MARK)) onText(++texts);
    }
    if (response.statusCode !== 200) {
      throw new Error(`the origin answered ${response.statusCode}: ${bodyText(pieces)}`);
    }
    return { sentAtMs, ...readPieces(pieces) };
  };
  const metrics: OriginUnderTest["metrics"] = async () => {
    const text = await (await fetch(`${url}/metrics`)).text();
    const lines = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    return new Map(lines.map((line) => [nameOf(line), Number(line.split(" ").at(-1))]));
  };
  return { send, stream, metrics };
}

function nameOf(sample: string): string {
  const name = sample.slice(0, sample.lastIndexOf(" "));
  return name.replace(/,?model_name="[^"]*"/, "").replace("{}", "");
}

interface Piece {
  readonly atMs: number;
  readonly bytes: Buffer;
}

/** In every event that carries text, and in the two that open and close an answer. */
const TEXT_MARK = `"choices":[{`;

interface Chunk {
  readonly error?: { readonly message: string };
  readonly usage?: Usage | null;
  readonly choices?: readonly { readonly text?: string; readonly delta?: { readonly content?: string | null } }[];
}

function bodyText(pieces: readonly Piece[]): string {
  return Buffer.concat(pieces.map(({ bytes }) => bytes)).toString();
}

function readPieces(pieces: readonly Piece[]): Pick<StreamedAnswer, "textAtMs" | "usage"> {
  const textAtMs: number[] = [];
  let usage: Usage | undefined;
  let atMs = 0;
  let done = false;
  const parser = createParser({
    onEvent: ({ data }) => {
      if (data === SSE_DONE) {
        done = true;
        return;
      }
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error !== undefined) throw new Error(`the answer broke off: ${chunk.error.message}`);
      usage = chunk.usage ?? usage;
      for (const { text, delta } of chunk.choices ?? []) if (text || delta?.content) textAtMs.push(atMs);
    },
  });
  const decoder = new TextDecoder();
  for (const piece of pieces) {
    atMs = piece.atMs;
    parser.feed(decoder.decode(piece.bytes, { stream: true }));
  }
  if (!done) throw new Error("the answer ended without an end");
  return { textAtMs, usage };
}

/** The settings of a greedy answer of exactly `tokens` tokens: end tokens are biased away. */
export function exactly(tokens: number, endTokens: readonly number[]): object {
  return {
    max_tokens: tokens,
    temperature: 0,
    logit_bias: Object.fromEntries(endTokens.map((token) => [token, -100])),
  };
}
