/**
 * node-llama-cpp in a process of its own, so that its threads and memory are not the benchmark's. Started with the
 * module's URL, the GGUF's path and the number of threads; answers each `{ prompts, tokens }` with `StreamTimes`.
 */
import type { StreamTimes } from "./streams.ts";

export interface LlamaJob {
  /** One text per concurrent stream. */
  readonly prompts: readonly string[];
  /** Tokens to generate per stream, end-of-text tokens included. */
  readonly tokens: number;
}

/** The part of node-llama-cpp 3.22 that is called. */
interface LlamaSequence {
  evaluate(tokens: number[], options: { temperature: number; yieldEogToken: boolean }): AsyncIterable<number>;
  clearHistory(): Promise<void>;
}
interface LlamaModel {
  tokenize(text: string): number[];
  createContext(options: {
    sequences: number;
    contextSize: number;
    batchSize: number;
    threads: number;
  }): Promise<{ getSequence(): LlamaSequence }>;
}
interface LlamaModule {
  getLlama(options: {
    gpu: false;
    build: "never";
    logLevel: "error";
  }): Promise<{ loadModel(options: { modelPath: string }): Promise<LlamaModel> }>;
}

const [url = "", modelPath = "", threads = "2"] = process.argv.slice(2);
const SEQUENCES = 16;
const nodeLlamaCpp = (await import(url)) as LlamaModule;
const llama = await nodeLlamaCpp.getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  sequences: SEQUENCES,
  contextSize: 1024,
  batchSize: 512,
  threads: Number(threads),
});
const sequences = Array.from({ length: SEQUENCES }, () => context.getSequence());

process.on("message", (job: LlamaJob) => {
  void run(job).then((times) => process.send?.(times));
});
process.on("disconnect", () => process.exit());
process.send?.("ready");

async function run(job: LlamaJob): Promise<StreamTimes> {
  const start = performance.now();
  const arrivals = await Promise.all(
    job.prompts.map((prompt, index) => generate(sequences[index], prompt, job.tokens, start)),
  );
  await Promise.all(sequences.map((sequence) => sequence.clearHistory()));
  return { arrivals };
}

async function generate(
  sequence: LlamaSequence | undefined,
  prompt: string,
  count: number,
  start: number,
): Promise<number[]> {
  if (sequence === undefined) throw new Error(`at most ${SEQUENCES} streams`);
  const times: number[] = [];
  for await (const _ of sequence.evaluate(model.tokenize(prompt), { temperature: 0, yieldEogToken: true })) {
    times.push(performance.now() - start);
    if (times.length === count) break;
  }
  return times;
}
