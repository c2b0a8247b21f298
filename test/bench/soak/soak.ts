/**
 * `npm run bench -- soak`: a hundred thousand requests of every kind against a real origin process with a tiny model,
 * and its resident memory all along. A server leaks where a request leaves something behind: a listener, a row, a map's
 * entry, a native buffer that no garbage collector sees. Per request that is little, so it takes many to see it; the
 * tiny model makes them fast and runs through the same code as a large one.
 *
 * The origin must end with nothing running, must have answered everything rightly, and its memory must be flat.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { request } from "node:http";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createRandom } from "../../../origin/engine/random.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { reportProgress } from "../../../origin/import/progress/progress.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";
import { type OriginUnderTest, startOrigin } from "../engine/origin-under-test.ts";
import { drawPanels } from "../plot.ts";
import { machineLine, markdownTable } from "../report.ts";
import { GROWTH_MAX, judgeFlatness, type Sample } from "./flatness.ts";
import { drawQuestion, type Question } from "./questions.ts";

const SEED = 100_000;
const CLIENTS = 24;
const SAMPLES = 240;
const MODEL = "soak-tiny";
const CONTEXT_TOKENS = 256;
const MEMORY = {
  "resident memory": "coldpath_origin_process_resident_memory_bytes",
  "V8 heap in use": "coldpath_origin_nodejs_heap_size_used_bytes",
  "outside V8": "coldpath_origin_nodejs_external_memory_bytes",
} as const;
type Memory = keyof typeof MEMORY;
const OPEN = ["coldpath_origin_num_requests_running", "coldpath_origin_num_requests_waiting"] as const;
const SETTLE_MS = 3_000;

export interface SoakOptions {
  readonly requests: number;
  readonly plotPath: string;
}

/** Prints the report; says whether all of it is as it should be. */
export async function soak({ requests, plotPath }: SoakOptions): Promise<boolean> {
  const started = performance.now();
  const folder = await mkdtemp(join(tmpdir(), "coldpath-soak-"));
  await using held = new AsyncDisposableStack();
  held.defer(() => rm(folder, { recursive: true }));
  await importTinyModel(folder);
  const origin = await startOrigin({
    COLDPATH_MODELS_DIR: folder,
    COLDPATH_MODEL: MODEL,
    COLDPATH_CONTEXT: String(CONTEXT_TOKENS),
    COLDPATH_SLOTS: "8",
    // Small enough to be full long before the second half.
    COLDPATH_PREFIX_CACHE_BYTES: String(8 * 2 ** 20),
  });
  held.defer(() => origin.stop());

  const run = new SoakRun(origin, requests);
  await run.ask();
  const open = await settle(origin);
  const seconds = (performance.now() - started) / 1000;

  const flatness = judgeFlatness(run.samples("resident memory"));
  await drawMemory(plotPath, run).catch((cause: unknown) => console.error(`no plot: ${String(cause)}`));
  print({ run, open, flatness, requests, seconds });
  return flatness.isFlat && run.wrong.size === 0 && open === 0;
}

async function importTinyModel(folder: string): Promise<void> {
  const gguf = join(folder, `${MODEL}.gguf`);
  writeTinyCheckpoint(gguf, { contextLength: CONTEXT_TOKENS });
  const config = readImportConfig({ ...process.env, COLDPATH_MODELS_DIR: folder });
  await ensureModel({ model: gguf, name: MODEL, config, progress: reportProgress(process.stderr), fetch });
}

/** A fixed number of clients, each with its next question when it has the last one's answer. */
class SoakRun {
  /** What was wrong, and how often. */
  readonly wrong = new Map<string, number>();
  readonly answered = new Map<string, number>();
  readonly #origin: OriginUnderTest;
  readonly #requests: number;
  readonly #random = createRandom(SEED);
  readonly #samples: { readonly requests: number; readonly bytes: Readonly<Record<Memory, number>> }[] = [];
  #asked = 0;
  #done = 0;

  constructor(origin: OriginUnderTest, requests: number) {
    this.#origin = origin;
    this.#requests = requests;
  }

  samples(memory: Memory): Sample[] {
    return this.#samples.map(({ requests, bytes }) => ({ requests, bytes: bytes[memory] }));
  }

  async ask(): Promise<void> {
    await this.#sample();
    await Promise.all(Array.from({ length: Math.min(CLIENTS, this.#requests) }, () => this.#client()));
    await this.#sample();
  }

  async #client(): Promise<void> {
    const every = Math.max(1, Math.floor(this.#requests / SAMPLES));
    while (this.#asked < this.#requests) {
      this.#asked += 1;
      const question = drawQuestion(this.#random, { model: MODEL, contextTokens: CONTEXT_TOKENS });
      const problem = await askOnce(this.#origin, question);
      count(this.answered, question.kind);
      if (problem !== undefined) count(this.wrong, `${question.kind}: ${problem}`);
      this.#done += 1;
      if (this.#done % every === 0) await this.#sample();
    }
  }

  async #sample(): Promise<void> {
    const metrics = await this.#origin.metrics();
    const bytes = (memory: Memory) => metrics.get(MEMORY[memory]) ?? Number.NaN;
    const sample = {
      "resident memory": bytes("resident memory"),
      "V8 heap in use": bytes("V8 heap in use"),
      "outside V8": bytes("outside V8"),
    };
    this.#samples.push({ requests: this.#done, bytes: sample });
    if (this.#samples.length % 10 === 0) {
      console.error(`${this.#done} of ${this.#requests}: ${(sample["resident memory"] / 2 ** 20).toFixed(1)} MiB`);
    }
  }
}

function count(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

/** @returns what is wrong with the answer */
async function askOnce(origin: OriginUnderTest, question: Question): Promise<string | undefined> {
  const connection = new AbortController();
  const { signal } = connection;
  if (question.leave === "at once") setImmediate(() => connection.abort());
  try {
    const response = question.unsigned
      ? await sendUnsigned(origin.url, question)
      : await origin.send(question.path, question.body, {
          signal,
          ...(question.context && { context: question.context }),
        });
    const { statusCode = 0 } = response;
    let text = "";
    for await (const bytes of response as AsyncIterable<Buffer>) {
      text += bytes.toString();
      if (question.leave === "midway") connection.abort();
    }
    if (!question.statuses.includes(statusCode)) return `${statusCode} ${text.slice(0, 120)}`;
    const isStream = response.headers["content-type"]?.startsWith("text/event-stream") === true;
    if (isStream && !text.trimEnd().endsWith("[DONE]")) return `a stream ended with ${text.slice(-120)}`;
    return undefined;
  } catch (cause) {
    return question.leave !== undefined && signal.aborted ? undefined : String(cause);
  }
}

async function sendUnsigned(url: string, { path, body }: Question) {
  const sent = request(url + path, { method: "POST", headers: { "content-type": "application/json" } });
  sent.end(JSON.stringify(body));
  const [response] = (await once(sent, "response")) as [Awaited<ReturnType<OriginUnderTest["send"]>>];
  return response;
}

/** Requests that the origin still counts after a while without any. */
async function settle(origin: OriginUnderTest): Promise<number> {
  const deadline = performance.now() + SETTLE_MS;
  for (;;) {
    const metrics = await origin.metrics();
    const open = OPEN.reduce((sum, name) => sum + (metrics.get(name) ?? Number.NaN), 0);
    if (open === 0 || performance.now() > deadline) return open;
  }
}

function drawMemory(path: string, run: SoakRun): Promise<void> {
  const lines = (Object.keys(MEMORY) as Memory[]).map((label) => ({
    label,
    points: run.samples(label).map(({ requests, bytes }) => [requests / 1000, bytes / 2 ** 20] as const),
  }));
  return drawPanels(path, [{ title: "the origin's memory", xLabel: "thousand requests", yLabel: "MiB", lines }]);
}

interface Outcome {
  readonly run: SoakRun;
  readonly open: number;
  readonly flatness: ReturnType<typeof judgeFlatness>;
  readonly requests: number;
  readonly seconds: number;
}

function print({ run, open, flatness, requests, seconds }: Outcome): void {
  const machine = machineLine();
  const kinds = [...run.answered].map(([label, times]) => ({ label, figures: { requests: times } }));
  console.log(`${machine}, ${requests} requests in ${seconds.toFixed(0)} s\n\n${markdownTable("asked", kinds)}\n`);
  for (const [problem, times] of run.wrong) console.log(`wrong, ${times} times: ${problem}`);
  const { isFlat, slope, growth } = flatness;
  console.log(
    `second half: ${slope.toFixed(2)} bytes a request, ${(100 * growth).toFixed(2)} % in all ` +
      `(flat: under ${100 * GROWTH_MAX} %): ${isFlat ? "flat" : "NOT FLAT"}; open at the end: ${open}`,
  );
  const memory = run.samples("resident memory");
  const wrong = Object.fromEntries(run.wrong);
  console.log(JSON.stringify({ bench: "soak", machine, requests, seconds, flatness, open, wrong, memory }));
}
