/**
 * node-llama-cpp as its users run it, with all the machine's cores and room for sixteen sequences that it batches
 * itself. Started with the module's URL and the GGUF's path.
 */
import { availableParallelism } from "node:os";
import { type Job, type JobResult, serveJobs } from "./contender.ts";

/** The part of node-llama-cpp 3.22 that is called. */
interface LlamaSequence {
  evaluate(tokens: readonly number[], options: { temperature: number; yieldEogToken: boolean }): AsyncIterable<number>;
  clearHistory(): Promise<void>;
}
interface LlamaModel {
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

const [url = "", modelPath = ""] = process.argv.slice(2);
const SEQUENCES = 16;
const nodeLlamaCpp = (await import(url)) as LlamaModule;
const llama = await nodeLlamaCpp.getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({
  sequences: SEQUENCES,
  contextSize: 1024,
  batchSize: 512,
  threads: availableParallelism(),
});
const sequences = Array.from({ length: SEQUENCES }, () => context.getSequence());

serveJobs(async (job: Job): Promise<JobResult> => {
  const start = performance.now();
  const streams = await Promise.all(job.prompts.map((prompt, stream) => generate(stream, prompt, job.tokens, start)));
  await Promise.all(sequences.map((sequence) => sequence.clearHistory()));
  return { arrivals: streams.map(({ times }) => times), tokens: streams.map(({ tokens }) => tokens) };
});

async function generate(stream: number, prompt: readonly number[], count: number, start: number) {
  const sequence = sequences[stream];
  if (sequence === undefined) throw new Error(`at most ${SEQUENCES} streams`);
  const times: number[] = [];
  const tokens: number[] = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    times.push(performance.now() - start);
    tokens.push(token);
    if (tokens.length === count) break;
  }
  return { times, tokens };
}
