/**
 * The origin over HTTP, beside node-llama-cpp on the same GGUF: time to first token and tokens a second at 1, 4 and 16
 * concurrent streams. Decoding one stream reads every weight once per token, so it is bound by memory; several streams
 * share that read and are bound by arithmetic, which is what continuous batching is for. The peer runs in a process of
 * its own without HTTP in between, so the comparison leans its way. Rounds are interleaved; figures are medians.
 */
import { fork } from "node:child_process";
import type { webcrypto } from "node:crypto";
import { once } from "node:events";
import { availableParallelism } from "node:os";
import { createParser } from "eventsource-parser";
import type { ChatCompletionChunk } from "../../shared/completion-response.ts";
import { importSignatureKey, signMessage } from "../../shared/signature.ts";
import { SSE_DONE } from "../../shared/sse.ts";
import type { LlamaJob } from "./llama-cpp-process.ts";
import { installPeer } from "./peers.ts";
import { medianRatio, medianRow, type Row } from "./report.ts";
import { streamFigures, type StreamFigures, type StreamTimes } from "./streams.ts";

const STREAMS = [1, 4, 16] as const;
const TOKENS = 128;
const ROUNDS = 3;

export interface OriginUnderTest {
  readonly url: string;
  /** Signs requests as the edge does. */
  readonly secret: string;
  readonly model: string;
  /** Tokens that end an answer: biased away, so that every stream has the same length. */
  readonly endTokens: readonly number[];
  /** The GGUF the model was imported from. */
  readonly gguf: string;
}

export interface OriginReport {
  readonly rows: readonly Row[];
  /** Medians of the rounds' ratios. */
  readonly ratios: Readonly<Record<string, number>>;
}

/** Runs both sides in turn. */
export async function benchOrigin(origin: OriginUnderTest): Promise<OriginReport> {
  const peer = await startLlama(origin.gguf);
  try {
    const key = await importSignatureKey(origin.secret);
    const ours = new Map<number, StreamFigures[]>(STREAMS.map((streams) => [streams, []]));
    const theirs = new Map<number, StreamFigures[]>(STREAMS.map((streams) => [streams, []]));
    // Round 0 warms both up and is dropped.
    for (let round = 0; round <= ROUNDS; round++) {
      for (const streams of STREAMS) {
        const prompts = Array.from({ length: streams }, (_, stream) => prompt(round, stream));
        const measured = streamFigures(await runOrigin(origin, key, prompts));
        const compared = streamFigures(await peer.run({ prompts, tokens: TOKENS }));
        if (round > 0) {
          ours.get(streams)?.push(measured);
          theirs.get(streams)?.push(compared);
        }
      }
    }
    return report(ours, theirs);
  } finally {
    peer.stop();
  }
}

function report(
  ours: ReadonlyMap<number, StreamFigures[]>,
  theirs: ReadonlyMap<number, StreamFigures[]>,
): OriginReport {
  return {
    rows: STREAMS.flatMap((streams) => [
      medianRow(`coldpath origin, ${streams} streams`, ours.get(streams) ?? []),
      medianRow(`node-llama-cpp, ${streams} streams`, theirs.get(streams) ?? []),
    ]),
    ratios: {
      "1 stream against node-llama-cpp": medianRatio(rates(ours, 1), rates(theirs, 1)),
      "4 streams against node-llama-cpp": medianRatio(rates(ours, 4), rates(theirs, 4)),
      "16 streams against node-llama-cpp": medianRatio(rates(ours, 16), rates(theirs, 16)),
      "16 streams against 1": medianRatio(rates(ours, 16), rates(ours, 1)),
    },
  };
}

function rates(side: ReadonlyMap<number, readonly StreamFigures[]>, streams: number): number[] {
  return (side.get(streams) ?? []).map((figures) => figures["tokens/s"]);
}

/** About 130 tokens, different from its first word on, so that nothing can be reused. */
function prompt(round: number, stream: number): string {
  return `Round ${round}, client ${stream}: ${"the quick brown fox jumps over the lazy dog, and then it goes home. ".repeat(8)}`;
}

async function runOrigin(
  origin: OriginUnderTest,
  key: webcrypto.CryptoKey,
  prompts: readonly string[],
): Promise<StreamTimes> {
  const start = performance.now();
  return { arrivals: await Promise.all(prompts.map((text) => streamOnce(origin, key, text, start))) };
}

async function streamOnce(
  origin: OriginUnderTest,
  key: webcrypto.CryptoKey,
  content: string,
  start: number,
): Promise<number[]> {
  const path = "/v1/chat/completions";
  const body = new TextEncoder().encode(
    JSON.stringify({
      model: origin.model,
      messages: [{ role: "user", content }],
      temperature: 0,
      max_tokens: TOKENS,
      stream: true,
      logit_bias: Object.fromEntries(origin.endTokens.map((token) => [token, -100])),
    }),
  );
  const message = { method: "POST", path, requestId: crypto.randomUUID(), body };
  const signature = await signMessage(key, message, Math.floor(Date.now() / 1000));
  const response = await fetch(origin.url + path, {
    method: "POST",
    headers: { "content-type": "application/json", ...signature },
    body,
  });
  if (!response.ok || response.body === null)
    throw new Error(`the origin answered ${response.status}: ${await response.text()}`);

  const times: number[] = [];
  const parser = createParser({
    onEvent: ({ data }) => {
      if (data === SSE_DONE) return;
      const chunk = JSON.parse(data) as ChatCompletionChunk;
      if (chunk.choices[0]?.delta.content) times.push(performance.now() - start);
    },
  });
  const decoder = new TextDecoder();
  for await (const bytes of response.body) parser.feed(decoder.decode(bytes, { stream: true }));
  return times;
}

async function startLlama(gguf: string): Promise<{ run(job: LlamaJob): Promise<StreamTimes>; stop(): void }> {
  const url = await installPeer("node-llama-cpp");
  const file = new URL("llama-cpp-process.ts", import.meta.url);
  const child = fork(file, [url, gguf, String(availableParallelism())]);
  const ended = once(child, "exit").then(() => Promise.reject(new Error("the node-llama-cpp process ended")));
  // It matters only to whoever waits for an answer.
  ended.catch(() => undefined);
  const next = async (): Promise<unknown> => {
    const [message] = (await Promise.race([once(child, "message"), ended])) as [unknown];
    return message;
  };
  await next();
  return {
    run: async (job) => {
      const answer = next();
      child.send(job);
      return (await answer) as StreamTimes;
    },
    stop: () => child.disconnect(),
  };
}
