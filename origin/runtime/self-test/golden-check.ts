/**
 * Holds a back end to logits that are known beforehand, on every path a step can take: a prompt at once, in chunks, rows of
 * different lengths together, rows beside a chunk, guessed tokens behind a row. A version of ONNX Runtime, a GPU's driver or a kernel for another
 * processor that computes something else is then found at the start, not by readers of its answers.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DEFAULT_WEIGHT_FORMAT, WEIGHT_FORMATS, type WeightFormat } from "../../onnx/weight-formats.ts";
import { writeDecoderGraph } from "../../import/graph/decoder-graph.ts";
import { RUNS_BEFORE } from "../capi/runner.ts";
import { openRuntime, type RuntimeOptions } from "../create-runtime.ts";
import { type Runtime, RuntimeError, type StepBatch } from "../port/runtime.ts";
import { GOLDEN_LOGITS } from "./golden-logits.ts";
import { GOLDEN_CONFIG, GOLDEN_PROMPT, goldenCheckpoint, type GoldenForm } from "./golden-model.ts";

/**
 * Relative to the logits' size. Activations are rounded to 8 bits: 0.02 to 0.04 in the formats there are. One token less
 * in the prompt is 0.36, no rotation 0.13.
 */
export const GOLDEN_DISTANCE_MAX = 0.08;

/** On CUDA, so that what is checked is also what was recorded. */
const ROUNDS = RUNS_BEFORE + 2;

const nobody: StepBatch["decode"] = { tokens: new Int32Array(), pasts: new Int32Array() };

/** Which golden model stands for a served one. */
export interface GoldenOptions {
  readonly form: GoldenForm;
  /** A weight format's name; the default format stands in for one that is not known. */
  readonly format: string;
}

/**
 * Writes the golden model of a form in a weight format, opens it as the given options say, and runs it.
 *
 * @param open - for tests: opens the written folder
 * @returns the largest distance between a row of logits and the known ones
 * @throws {RuntimeError} when it is over the bound, or the options can't be opened
 */
export async function checkGolden(
  options: Omit<RuntimeOptions, "folder" | "slots" | "capacity">,
  { form, format }: GoldenOptions,
  open: (options: RuntimeOptions) => Promise<Runtime> = (given) => openRuntime(given, GOLDEN_CONFIG),
): Promise<number> {
  using cleanup = new DisposableStack();
  const folder = mkdtempSync(join(tmpdir(), "coldpath-self-test-"));
  cleanup.defer(() => rmSync(folder, { recursive: true, force: true }));
  writeDecoderGraph(goldenCheckpoint(form), { folder, format: findFormat(format) });
  // WebGPU computes one row at a time; the rest are checked with as many as every path needs.
  const slots = options.provider === "webgpu" ? 1 : 3;
  using runtime = await open({ ...options, folder, slots, capacity: GOLDEN_CONFIG.contextLength });
  runtime.resize({ ...runtime.limits, kept: [] });

  const steps = goldenSteps(slots, runtime.limits.draftTokens);
  let furthest = 0;
  for (const { batch, lengths } of options.provider === "cuda"
    ? Array<typeof steps>(ROUNDS).fill(steps).flat()
    : steps) {
    const logits = await runtime.step(batch);
    for (const [row, length] of lengths.entries()) {
      const from = row * GOLDEN_CONFIG.vocabSize;
      const computed = logits.subarray(from, from + GOLDEN_CONFIG.vocabSize);
      furthest = Math.max(furthest, distance(computed, GOLDEN_LOGITS[form].get(length) ?? []));
    }
  }
  if (furthest <= GOLDEN_DISTANCE_MAX) return furthest;
  const { backend, provider = "cpu" } = options;
  throw new RuntimeError(
    `this ONNX Runtime computes wrong logits with ${backend} on ${provider} in ${format}: a known model's, built like ${form}, are off by ${percent(furthest)}`,
  );
}

/** A step, and how many tokens of the golden prompt each row of its logits has seen. */
interface GoldenStep {
  readonly batch: StepBatch;
  readonly lengths: readonly number[];
}

function goldenSteps(slots: number, draftTokens: number): readonly GoldenStep[] {
  const end = GOLDEN_PROMPT.length;
  const inChunks: readonly GoldenStep[] = [
    { batch: { decode: nobody, prefill: chunk(0, 0, 4, 1) }, lengths: [4] },
    { batch: { decode: nobody, prefill: chunk(0, 4, end - 1, 1) }, lengths: [end - 1] },
    { batch: { decode: rows(end) }, lengths: [end] },
  ];
  // The order in which a graph appends what it attends to is ONNX Runtime's, and the slot holds something else by now.
  const guessed: readonly GoldenStep[] = [
    { batch: { decode: nobody, prefill: chunk(0, 0, 5, 0) }, lengths: [] },
    { batch: { decode: rows(6), prefill: chunk(0, 6, 7, 1) }, lengths: [6, 7] },
    {
      batch: { decode: rows(6), prefill: chunk(0, 6, 6 + draftTokens, draftTokens) },
      lengths: [6, 7, 8, 9].slice(0, 1 + draftTokens),
    },
  ];
  if (slots === 1) return [...inChunks, ...guessed];
  return [
    ...inChunks,
    ...guessed,
    { batch: { decode: nobody, prefill: chunk(1, 0, end, 2) }, lengths: [end - 1, end] },
    { batch: { decode: rows(end, end - 1) }, lengths: [end, end - 1] },
    { batch: { decode: rows(end, end - 1), prefill: chunk(2, 0, end, 1) }, lengths: [end, end - 1, end] },
    { batch: { decode: rows(end - 1), prefill: chunk(2, 4, end, 2) }, lengths: [end - 1, end - 1, end] },
  ];
}

/** Rows that are fed the last of so many tokens. */
function rows(...lengths: readonly number[]): StepBatch["decode"] {
  return {
    tokens: Int32Array.from(lengths, (length) => GOLDEN_PROMPT[length - 1] ?? -1),
    pasts: Int32Array.from(lengths, (length) => length - 1),
  };
}

function chunk(slot: number, from: number, to: number, sampled: number): NonNullable<StepBatch["prefill"]> {
  return { slot, tokens: Int32Array.from(GOLDEN_PROMPT.slice(from, to)), past: from, sampled };
}

/** The root mean square of the difference, relative to what is right; infinite where a number is missing. */
function distance(logits: Float32Array, golden: readonly number[]): number {
  let [apart, size] = [0, 0];
  for (const [index, logit] of golden.entries()) {
    apart += (logit - (logits[index] ?? Number.NaN)) ** 2;
    size += logit ** 2;
  }
  const relative = Math.sqrt(apart / size);
  return Number.isNaN(relative) ? Infinity : relative;
}

function findFormat(name: string): WeightFormat {
  const formats: Readonly<Record<string, WeightFormat>> = WEIGHT_FORMATS;
  return formats[name] ?? WEIGHT_FORMATS[DEFAULT_WEIGHT_FORMAT];
}

function percent(fraction: number): string {
  return Number.isFinite(fraction) ? `${Math.round(fraction * 100)} %` : "everything: some are not numbers";
}
