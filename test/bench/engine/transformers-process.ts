/**
 * transformers.js as its users run it on the CPU, with all the machine's cores. It generates for one prompt at a time;
 * its batches want prompts of one length and end together, so several streams are not asked of it. Started with the
 * module's URL, the model's folder and its `dtype`.
 */
import { availableParallelism } from "node:os";
import { basename, dirname } from "node:path";
import { type Job, type JobResult, serveJobs } from "./contender.ts";

/** The part of @huggingface/transformers 4.3 that is called. */
interface TransformersModule {
  readonly env: { allowRemoteModels: boolean; localModelPath: string };
  readonly Tensor: new (type: "int64", data: BigInt64Array, dims: readonly number[]) => unknown;
  readonly BaseStreamer: new () => object;
  readonly AutoModelForCausalLM: {
    from_pretrained(folder: string, options: Readonly<Record<string, unknown>>): Promise<Model>;
  };
}
interface Model {
  generate(options: Readonly<Record<string, unknown>>): Promise<{ tolist(): bigint[][] }>;
}

const [url = "", folder = "", dtype = ""] = process.argv.slice(2);
const { env, Tensor, BaseStreamer, AutoModelForCausalLM } = (await import(url)) as TransformersModule;
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const model = await AutoModelForCausalLM.from_pretrained(basename(folder), {
  dtype,
  device: "cpu",
  session_options: { intraOpNumThreads: availableParallelism() },
});

/** Called with the prompt first, then with every token. */
class Clock extends BaseStreamer {
  readonly times: number[] = [];
  readonly #start = performance.now();
  put(): void {
    this.times.push(performance.now() - this.#start);
  }
  end(): void {}
}

serveJobs(async ({ prompts, tokens }: Job): Promise<JobResult> => {
  const [prompt] = prompts;
  if (prompt === undefined || prompts.length > 1) throw new Error("one stream at a time");
  const shape = [1, prompt.length];
  const streamer = new Clock();
  const generated = await model.generate({
    input_ids: new Tensor("int64", BigInt64Array.from(prompt, BigInt), shape),
    attention_mask: new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), shape),
    max_new_tokens: tokens,
    do_sample: false,
    streamer,
  });
  const [all = []] = generated.tolist();
  return { arrivals: [streamer.times.slice(1)], tokens: [all.slice(prompt.length).map(Number)] };
});
