/**
 * An encoder's thread: tokenizes what comes in and computes it in batches, over and over until nothing waits. What comes
 * in while a batch runs joins the next one, so that the busier it is the larger they are, and an idle one waits for nobody.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import { ColdpathError } from "../../shared/errors.ts";
import { TOKENIZER_FILE } from "../manifest/manifest.ts";
import { WordPieceTokenizer } from "../tokenize/word-piece.ts";
import { nextBatch, type WaitingText } from "./batch.ts";
import { Encoder } from "./encoder.ts";
import type { EmbeddingInput, EncoderThreadOptions, FromEncoderThread, ToEncoderThread } from "./messages.ts";

if (parentPort === null) throw new Error("embed/thread.ts runs as a worker thread only");
const port = parentPort;
const options = workerData as EncoderThreadOptions;

interface Job {
  readonly id: number;
  readonly vectors: Float32Array[];
  readonly tokens: number;
  missing: number;
}
interface Text extends WaitingText {
  readonly job: Job;
  readonly index: number;
}

/** Present until all of their texts are computed, or nobody wants them. */
const jobs = new Map<number, Job>();
let waiting: readonly Text[] = [];
/** Which batch was the last that a request of `jobs` came first in. */
const lastTurn = new Map<number, number>();
let isRunning = false;

const tokenizer = new WordPieceTokenizer(JSON.parse(readFileSync(join(options.folder, TOKENIZER_FILE), "utf8")));
const encoder = await Encoder.open(options);
// So that the first to ask does not wait for what ONNX Runtime prepares in a first run.
await encoder.run([tokenizer.encode("")]);

port.on("message", (message: ToEncoderThread) => {
  switch (message.type) {
    case "embed":
      take(message);
      break;
    case "cancel":
      drop(message.id);
      break;
    default:
      message satisfies never;
  }
});
tell({ type: "ready" });

function take({ id, inputs }: Extract<ToEncoderThread, { type: "embed" }>): void {
  try {
    const texts = inputs.map((input, index) => idsOf(input, index, inputs.length));
    const tokens = texts.reduce((sum, ids) => sum + ids.length, 0);
    const job = { id, vectors: [], tokens, missing: texts.length };
    jobs.set(id, job);
    waiting = [...waiting, ...texts.map((ids, index) => ({ request: id, ids, job, index }))];
    if (!isRunning) void work();
  } catch (thrown) {
    tell(explain(id, thrown));
  }
}

/** @throws {ColdpathError} `context_length_exceeded`, `invalid_request` */
function idsOf(input: EmbeddingInput, index: number, inputs: number): readonly number[] {
  const param = inputs === 1 ? "input" : `input.${index}`;
  const { contextLength, vocabSize } = options;
  const ids = typeof input === "string" ? tokenizer.encode(input) : input;
  if (ids.length > contextLength) {
    const message = `${param} has ${ids.length} tokens, and this model takes ${contextLength}`;
    throw new ColdpathError("context_length_exceeded", message, { param });
  }
  const stray = ids.find((id) => id >= vocabSize);
  if (stray === undefined) return ids;
  throw new ColdpathError("invalid_request", `${param}: ${stray} is no token of this model`, { param });
}

async function work(): Promise<void> {
  isRunning = true;
  for (let batch = 0; waiting.length > 0; batch++) {
    const texts = nextBatch(waiting, lastTurn, { tokensMax: options.batchTokensMax });
    const chosen = new Set(texts);
    waiting = waiting.filter((text) => !chosen.has(text));
    for (const { request } of texts.slice(0, 1)) lastTurn.set(request, batch);
    try {
      const vectors = await encoder.run(texts.map(({ ids }) => ids));
      for (const [i, { job, index }] of texts.entries()) settle(job, index, vectors[i]);
    } catch (thrown) {
      for (const { id } of new Set(texts.map(({ job }) => job))) {
        drop(id);
        tell(explain(id, thrown));
      }
    }
    // Lets in what has come meanwhile.
    await setImmediate();
  }
  isRunning = false;
}

function settle(job: Job, index: number, vector: Float32Array | undefined): void {
  if (vector === undefined || jobs.get(job.id) !== job) return;
  job.vectors[index] = vector;
  job.missing -= 1;
  if (job.missing > 0) return;
  drop(job.id);
  tell({ type: "embedded", id: job.id, vectors: job.vectors, tokens: job.tokens });
}

function drop(id: number): void {
  jobs.delete(id);
  lastTurn.delete(id);
  waiting = waiting.filter(({ request }) => request !== id);
}

function explain(id: number, thrown: unknown): FromEncoderThread {
  if (thrown instanceof ColdpathError) {
    const { code, message, param } = thrown;
    return { type: "refused", id, code, message, param };
  }
  const message = thrown instanceof Error ? (thrown.stack ?? thrown.message) : "something that is no Error was thrown";
  return { type: "failed", id, message };
}

function tell(message: FromEncoderThread): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
  port.postMessage(message);
}
