/**
 * What each weight format loses and costs. The loss is measured against the de-quantized fp32 weights of the same file:
 * both models are fed the fp32 model's own greedy answers to the prompts below, and at every token the distributions of
 * the next one are compared (Kullback-Leibler divergence, nats). Until the first token on which they disagree both have
 * read the same text, so the greedy prefix comes out of the same runs.
 *
 * Speed is the 25th percentile of step times: decode reads every weight once a step whatever the batch, so small formats
 * win at one stream; at sixteen the arithmetic counts, and with it the kernel that a format gets.
 */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { readImportConfig } from "../../origin/import/config.ts";
import { ensureModel, type ImportedModel } from "../../origin/import/import.ts";
import { reportProgress } from "../../origin/import/progress.ts";
import { WEIGHT_FORMATS, type WeightFormatName } from "../../origin/import/quantize.ts";
import { CHAT_TEMPLATE_FILE, TOKENIZER_FILE, WEIGHTS_FILE } from "../../origin/manifest.ts";
import { createRuntime } from "../../origin/runtime/create-runtime.ts";
import type { Runtime } from "../../origin/runtime/runtime.ts";
import { DEFAULT_MODEL } from "../setup/default-model.ts";
import { quantile } from "./report.ts";

/** Tokens of a fp32 answer that are compared, unless it ends sooner. */
const ANSWER_TOKENS_MAX = 48;
const STREAMS = 16;
const SPEED_STEPS = 48;

const PROMPTS = [
  "What is the capital of France?",
  "Explain photosynthesis to a child.",
  "Write a Python function that reverses a string.",
  "Translate to Spanish: The weather is nice today.",
  "List three uses for baking soda.",
  "Who wrote Pride and Prejudice, and when?",
  "What is 17 times 23? Think step by step.",
  "Write a haiku about autumn.",
  "Summarize the plot of Romeo and Juliet in two sentences.",
  "What are the differences between TCP and UDP?",
  "Give me a recipe for pancakes.",
  "How do vaccines work?",
  "Write a polite email declining a meeting.",
  "What causes the seasons on Earth?",
  "Fix the grammar: he go to school yesterday",
  "你好！请用中文介绍一下你自己。",
  "Describe the color blue to someone who cannot see.",
  "Write a SQL query that counts orders per customer.",
  "Is a tomato a fruit or a vegetable?",
  "Tell me a short story about a fox and a crow.",
  "What should I pack for a winter hike?",
  "Name the planets in order of size.",
  "Convert 100 degrees Fahrenheit to Celsius.",
  "Why is the sky blue?",
] as const;

interface Answer {
  readonly prompt: Int32Array;
  /** The fp32 model's greedy answer. */
  readonly tokens: number[];
  /** The fp32 model's logits before each of `tokens`. */
  readonly logits: Float32Array[];
}

interface Row {
  readonly format: string;
  readonly mebibytes: number;
  readonly meanKl: number;
  /** Share of tokens whose most likely successor is fp32's. */
  readonly top1: number;
  /** Mean number of leading tokens that equal fp32's, of `meanAnswer`. */
  readonly greedyPrefix: number;
  readonly oneStream: number;
  readonly sixteenStreams: number;
}

/** Runs the comparison; prints a Markdown table and a last line of JSON. */
export async function main(args: string[]): Promise<void> {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: { threads: { type: "string", default: String(availableParallelism()) } },
  });
  const threads = Number(values.threads);
  const names = (positionals.length > 0 ? positionals : Object.keys(WEIGHT_FORMATS)) as WeightFormatName[];
  const stranger = names.find((format) => !Object.hasOwn(WEIGHT_FORMATS, format));
  if (stranger !== undefined) throw new Error(`there is no format "${stranger}"`);
  const answers = await withRuntime("fp32", threads, (runtime, model) => answerAll(runtime, model));
  const rows: Row[] = [];
  for (const name of names)
    rows.push(await withRuntime(name, threads, (...loaded) => measure(name, answers, ...loaded)));

  const length = answers.reduce((sum, { tokens }) => sum + tokens.length, 0) / answers.length;
  console.log(
    `| format | MiB | mean KL | top-1 | greedy prefix of ${length.toFixed(0)} | 1 stream tok/s | 16 streams tok/s |`,
  );
  console.log("|---|---|---|---|---|---|---|");
  for (const row of rows) {
    const { format, mebibytes, meanKl, top1, greedyPrefix, oneStream, sixteenStreams } = row;
    const quality = `${meanKl.toFixed(4)} | ${(100 * top1).toFixed(1)} % | ${greedyPrefix.toFixed(1)}`;
    console.log(
      `| ${format} | ${mebibytes.toFixed(0)} | ${quality} | ${oneStream.toFixed(0)} | ${sixteenStreams.toFixed(0)} |`,
    );
  }
  console.log(JSON.stringify({ bench: "quality", model: DEFAULT_MODEL, threads, prompts: PROMPTS.length, rows }));
}

async function withRuntime<T>(
  format: WeightFormatName,
  threads: number,
  use: (runtime: Runtime, model: ImportedModel) => Promise<T>,
): Promise<T> {
  const config = readImportConfig(process.env);
  const folder = join(config.modelsDir, ".bench", format);
  const progress = reportProgress(process.stderr);
  const model = await ensureModel({ model: DEFAULT_MODEL, name: format, format, folder, config, progress, fetch });
  using runtime = await createRuntime({ backend: "capi", folder, slots: STREAMS + 1, capacity: 512, threads });
  runtime.resize({ ...runtime.limits, kept: [] });
  return await use(runtime, model);
}

async function answerAll(runtime: Runtime, { folder, manifest }: ImportedModel): Promise<Answer[]> {
  const template = new Template(readFileSync(join(folder, CHAT_TEMPLATE_FILE), "utf8"));
  const tokenizer = new Tokenizer(JSON.parse(readFileSync(join(folder, TOKENIZER_FILE), "utf8")) as object, {});
  const answers: Answer[] = [];
  for (const content of PROMPTS) {
    const text = template.render({ messages: [{ role: "user", content }], add_generation_prompt: true });
    const prompt = Int32Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids);
    const answer: Answer = { prompt, tokens: [], logits: [] };
    let logits = await prefill(runtime, 0, prompt);
    for (;;) {
      const token = argmax(logits);
      answer.logits.push(logits.slice());
      answer.tokens.push(token);
      if (answer.tokens.length === ANSWER_TOKENS_MAX || manifest.tokens.ends.includes(token)) break;
      logits = await decode(runtime, [token], prompt.length + answer.tokens.length - 1);
    }
    answers.push(answer);
  }
  return answers;
}

async function measure(
  format: string,
  answers: readonly Answer[],
  runtime: Runtime,
  { manifest }: ImportedModel,
): Promise<Row> {
  let tokens = 0;
  let kl = 0;
  let agreed = 0;
  let prefixes = 0;
  for (const answer of answers) {
    let isPrefix = true;
    let logits = await prefill(runtime, 0, answer.prompt);
    for (const [index, token] of answer.tokens.entries()) {
      const isEqual = argmax(logits) === token;
      isPrefix &&= isEqual;
      tokens += 1;
      kl += divergence(answer.logits[index]!, logits);
      if (isEqual) agreed += 1;
      if (isPrefix) prefixes += 1;
      if (index + 1 < answer.tokens.length) logits = await decode(runtime, [token], answer.prompt.length + index);
    }
  }
  return {
    format,
    mebibytes: (manifest.files[WEIGHTS_FILE]?.bytes ?? 0) / 2 ** 20,
    meanKl: kl / tokens,
    top1: agreed / tokens,
    greedyPrefix: prefixes / answers.length,
    oneStream: await tokensPerSecond(runtime, answers, 1),
    sixteenStreams: await tokensPerSecond(runtime, answers, STREAMS),
  };
}

async function tokensPerSecond(runtime: Runtime, answers: readonly Answer[], streams: number): Promise<number> {
  // All rows hold the same prompt: equal lengths keep the step one number.
  const { prompt } = answers[0]!;
  for (let slot = 0; slot < streams; slot++) await prefill(runtime, slot, prompt);
  const times: number[] = [];
  const fed = Array.from({ length: streams }, (_, slot) => 100 + slot);
  for (let step = 0; step < SPEED_STEPS; step++) {
    const start = performance.now();
    await decode(runtime, fed, prompt.length + step);
    times.push(performance.now() - start);
  }
  return (1000 * streams) / quantile(times, 0.25);
}

async function prefill(runtime: Runtime, slot: number, tokens: Int32Array): Promise<Float32Array> {
  const nobody = { tokens: new Int32Array(0), pasts: new Int32Array(0) };
  return await runtime.step({ decode: nobody, prefill: { slot, tokens, past: 0, sampled: 1 } });
}

async function decode(runtime: Runtime, tokens: readonly number[], past: number): Promise<Float32Array> {
  const pasts = new Int32Array(tokens.length).fill(past);
  return await runtime.step({ decode: { tokens: Int32Array.from(tokens), pasts } });
}

function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

/** KL(softmax(expected) ‖ softmax(actual)), nats. */
function divergence(expected: Float32Array, actual: Float32Array): number {
  const [logSumExpected, logSumActual] = [logSumExp(expected), logSumExp(actual)];
  let sum = 0;
  for (let id = 0; id < expected.length; id++) {
    const logP = expected[id]! - logSumExpected;
    sum += Math.exp(logP) * (logP - (actual[id]! - logSumActual));
  }
  return sum;
}

function logSumExp(logits: Float32Array): number {
  const max = logits[argmax(logits)]!;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - max);
  return max + Math.log(sum);
}
