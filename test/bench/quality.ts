/**
 * What each weight format loses and costs. The loss is `npm run model -- eval`'s, of the default model imported in that
 * format. Speed is the 25th percentile of step times: decode reads every weight once a step whatever the batch, so small
 * formats win at one stream; at sixteen, and in a prompt, the arithmetic counts, and with it the kernel that a format gets.
 */
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { WEIGHT_FORMATS, type WeightFormatName } from "../../origin/onnx/weight-formats.ts";
import { evaluateModel } from "../../origin/evaluate/evaluate-model.ts";
import { measureSpeeds } from "../../origin/evaluate/speed.ts";
import { readImportConfig } from "../../origin/import/config.ts";
import { ensureModel } from "../../origin/import/import.ts";
import { reportProgress } from "../../origin/import/progress/progress.ts";
import { WEIGHTS_FILE } from "../../origin/manifest/manifest.ts";
import { createRuntime } from "../../origin/runtime/create-runtime.ts";
import type { Runtime } from "../../origin/runtime/port/runtime.ts";
import { DEFAULT_MODEL } from "../setup/default-model.ts";
import { machineLine, markdownTable, type Row } from "./report.ts";

const STREAMS = 16;
const ROUNDS = 24;

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
  const losses = new Map<string, Row["figures"]>();
  for (const name of names) losses.set(name, await measureLoss(name, threads));
  const speeds = await measureFormats(names, threads);
  const rows = names.map((name) => ({ label: name, figures: { ...losses.get(name), ...speeds.get(name) } }));
  console.log(`${machineLine()}\n\n${markdownTable("format", rows)}`);
  console.log(`\n${JSON.stringify({ bench: "quality", model: DEFAULT_MODEL, threads, rows })}`);
}

function folderOf(format: WeightFormatName): string {
  return join(readImportConfig(process.env).modelsDir, ".bench", format);
}

async function measureLoss(format: WeightFormatName, threads: number): Promise<Row["figures"]> {
  const common = {
    model: DEFAULT_MODEL,
    folder: folderOf(format),
    config: readImportConfig(process.env),
    progress: reportProgress(process.stderr),
    fetch,
  };
  const { manifest } = await ensureModel({ ...common, name: format, format });
  const { evaluation } = await evaluateModel({ ...common, backend: "capi", threads });
  const { texts, all, sameGreedyTokens } = evaluation;
  return {
    MiB: (manifest.files[WEIGHTS_FILE]?.bytes ?? 0) / 2 ** 20,
    "perplexity / fp32": texts.perplexity / texts.referencePerplexity,
    "accuracy / fp32": texts.accuracy / texts.referenceAccuracy,
    // markdownTable has two decimals, and a divergence is a few thousandths.
    "mean KL, 1/1000": all.meanKl * 1000,
    "top-1 %": all.top1 * 100,
    "same greedy tokens": sameGreedyTokens,
  };
}

/** All formats loaded at once and measured in turn: what else the machine does then meets all of them. */
async function measureFormats(
  names: readonly WeightFormatName[],
  threads: number,
): Promise<Map<string, Row["figures"]>> {
  using loaded = new DisposableStack();
  const runtimes: Runtime[] = [];
  for (const name of names) {
    const options = { folder: folderOf(name), slots: STREAMS + 1, capacity: 512, threads };
    runtimes.push(loaded.use(await createRuntime({ backend: "capi", ...options })));
  }
  const speeds = await measureSpeeds(runtimes, { rows: [1, STREAMS], rounds: ROUNDS, now: () => performance.now() });
  return new Map(
    speeds.map(({ decode: [one = Number.NaN, many = Number.NaN], prompt }, index) => [
      names[index] ?? "",
      { "1 stream tok/s": one, "16 streams tok/s": many, "prompt tok/s": prompt },
    ]),
  );
}
