/**
 * Takes the points of `growth.ts`: the default model at growing contexts and batches, and models of other sizes. Makes
 * tables and a plot of them, each beside the physical limit.
 */
import { availableParallelism } from "node:os";
import type { ImportedModel } from "../../../origin/import/folder/model-folder.ts";
import { measureReadBandwidth } from "../../../origin/runtime/self-test/read-bandwidth.ts";
import { drawPanels, type Panel } from "../plot.ts";
import { median, type Row } from "../report.ts";
import { type Contender, startContender } from "./contender.ts";
import { type CostOptions, type CostPoint, costAtBatch, costAtContext, type StepBytes, stepBytes } from "./growth.ts";
import { Prompts } from "./prompts.ts";
import { ensureSizedModel, SIZED_MODELS, type SizedModel } from "./sized-models.ts";

const CONTEXTS = [64, 256, 512, 1024, 1536, 1984] as const;
const BATCHES = [1, 2, 4, 8, 16] as const;
const SHORT_CONTEXT = 64;
const REPEATS = 3;
const SIZED_SEED = 7;

interface SizePoint extends CostPoint {
  readonly label: string;
  readonly bytes: StepBytes;
  readonly bandwidth: number;
}

export interface Growth {
  /** x: tokens of context. */
  readonly context: readonly CostPoint[];
  /** x: streams. */
  readonly batch: readonly CostPoint[];
  /** x: megabytes of weights. */
  readonly size: readonly SizePoint[];
}

export interface GrowthOptions {
  /** Runs `model`. */
  readonly engine: Contender;
  readonly model: ImportedModel;
  readonly prompts: Prompts;
  readonly quick: boolean;
  readonly say: (line: string) => void;
}

export async function measureGrowth({ engine, model, prompts, quick, say }: GrowthOptions): Promise<Growth> {
  const repeats = quick ? 1 : REPEATS;
  const options = await costOptions(engine, model, prompts);
  say("growth with context");
  const context = await interleaved(CONTEXTS, repeats, (tokens) => costAtContext(tokens, options));
  say("growth with the batch");
  const batch = await interleaved(BATCHES, repeats, (streams) => costAtBatch(streams, SHORT_CONTEXT, options));
  const size = [await sizePoint(model.manifest.name, options, repeats)];
  for (const name of Object.keys(SIZED_MODELS) as SizedModel[]) {
    say(`growth with the model: ${name} random parameters`);
    size.push(await measureSized(name, repeats));
  }
  return { context, batch, size: size.toSorted((one, other) => one.x - other.x) };
}

async function costOptions(engine: Contender, { folder, manifest }: ImportedModel, prompts: Prompts) {
  const bytes = stepBytes(folder, manifest);
  const bandwidth = await measureReadBandwidth({ bytes: bytes.weights, threads: availableParallelism() });
  return { engine, prompts, bytes, bandwidth };
}

async function measureSized(name: SizedModel, repeats: number): Promise<SizePoint> {
  const model = await ensureSizedModel(name);
  const prompts = new Prompts({ seed: SIZED_SEED, vocabSize: model.manifest.architecture.vocabSize });
  const engine = await startContender("coldpath-process.ts", [model.folder]);
  try {
    return await sizePoint(`${name} random`, await costOptions(engine, model, prompts), repeats);
  } finally {
    await engine.stop();
  }
}

async function sizePoint(label: string, options: CostOptions, repeats: number): Promise<SizePoint> {
  // One more, whose first step pays for what is loaded lazily.
  await costAtContext(SHORT_CONTEXT, options);
  const [point] = await interleaved([SHORT_CONTEXT], repeats, (tokens) => costAtContext(tokens, options));
  if (point === undefined) throw new Error("a model was not measured");
  const { bytes, bandwidth } = options;
  return { ...point, x: bytes.weights / 1e6, label, bytes, bandwidth };
}

/** Every point once, then all again: a slow minute of the machine is shared. The median of each. */
async function interleaved(
  xs: readonly number[],
  repeats: number,
  measure: (x: number) => Promise<CostPoint>,
): Promise<CostPoint[]> {
  const taken = new Map<number, CostPoint[]>();
  for (let repeat = 0; repeat < repeats; repeat++) {
    for (const x of xs) taken.set(x, [...(taken.get(x) ?? []), await measure(x)]);
  }
  return [...taken].map(([x, points]) => ({
    x,
    stepMs: median(points.map(({ stepMs }) => stepMs)),
    limitMs: points[0]?.limitMs ?? Number.NaN,
  }));
}

export function growthTables({ context, batch, size }: Growth): Readonly<Record<string, readonly Row[]>> {
  return {
    "one stream, by context": context.map((point) => ({ label: `${point.x} tokens`, figures: cost(point) })),
    "one step, by batch": batch.map((point) => ({
      label: `${point.x} streams`,
      figures: { ...cost(point), "tokens/s": (1000 * point.x) / point.stepMs },
    })),
    "one stream, by model": size.map(({ label, bytes, bandwidth, ...point }) => ({
      label,
      figures: { "weights MB": bytes.weights / 1e6, "bandwidth GB/s": bandwidth / 1e9, ...cost(point) },
    })),
  };
}

function cost({ stepMs, limitMs }: CostPoint) {
  return { "step ms": stepMs, "limit ms": limitMs, "% of the limit": (100 * limitMs) / stepMs };
}

export function drawGrowth(path: string, { context, batch, size }: Growth): Promise<void> {
  return drawPanels(path, [
    { title: "one stream", xLabel: "tokens of context", yLabel: "ms a step", lines: lines(context) },
    { title: "many streams", xLabel: "streams", yLabel: "ms a step", lines: lines(batch) },
    { title: "other models", xLabel: "MB of weights", yLabel: "ms a step", scale: "log", lines: lines(size) },
  ]);
}

function lines(points: readonly CostPoint[]): Panel["lines"] {
  return [
    { label: "measured", points: points.map(({ x, stepMs }) => [x, stepMs]) },
    { label: "bytes read ÷ bandwidth", points: points.map(({ x, limitMs }) => [x, limitMs]), dashed: true },
  ];
}
