/**
 * Measures an imported model against the same file in full precision and writes what came out: `report.json`, `report.md`
 * and `report.svg`. In the model's own folder they are no part of the model: its digest does not see them, and the next
 * import takes them away with what they were about.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { type Manifest, WEIGHTS_FILE } from "../manifest/manifest.ts";
import { evaluatePair, type EvaluateModelOptions, type LoadedPair, withOriginal } from "./evaluate-model.ts";
import { holdToPromises, type ImportReport, reportMarkdown, type Side } from "./import-report.ts";
import { drawReport } from "./report-plot.ts";
import { measureSpeeds, type Speed } from "./speed.ts";

const PLOT_FILE = "report.svg";
/** A row that decodes, and the prompt that is read beside it. */
const SLOTS = 2;
const SPEED_ROUNDS = 24;

export interface ReportModelOptions extends EvaluateModelOptions {
  /** Where the report goes; default the model's folder. Made where it is missing. */
  readonly reportFolder?: string | undefined;
  /** Milliseconds. */
  readonly now: () => number;
}

/** @throws {ImportError} as `withOriginal` does */
export async function reportModel(options: ReportModelOptions): Promise<ImportReport> {
  return withOriginal(options, SLOTS, async (pair) => {
    const report = await measure(pair, options);
    const folder = options.reportFolder ?? pair.folder;
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, "report.json"), `${JSON.stringify(report, undefined, 2)}\n`);
    writeFileSync(join(folder, "report.md"), reportMarkdown(report, PLOT_FILE));
    writeFileSync(join(folder, PLOT_FILE), drawReport(report));
    return report;
  });
}

async function measure(pair: LoadedPair, { progress, threads, now }: ReportModelOptions): Promise<ImportReport> {
  const { manifest, full, reference, candidate } = pair;
  const evaluation = await evaluatePair(pair, progress);
  progress.begin(`timing ${manifest.name}`, 1);
  const [fullSpeed, speed] = await measureSpeeds([reference, candidate], {
    rounds: SPEED_ROUNDS,
    now,
    onProgress: (done, total) => progress.update(done / total),
  });
  const figures = { full: describeSide(full, fullSpeed), quantized: describeSide(manifest, speed), evaluation };
  const { name, sha256 } = manifest.source;
  const machine = `${threads} of ${cpus().length} cores, ${cpus()[0]?.model.trim() ?? "unknown CPU"}`;
  return { model: manifest.name, source: { name, sha256 }, machine, ...figures, promises: holdToPromises(figures) };
}

function describeSide({ quantization, files }: Manifest, speed: Speed | undefined): Side {
  return {
    format: quantization.format,
    weightBytes: files[WEIGHTS_FILE]?.bytes ?? Number.NaN,
    folderBytes: Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0),
    decodeTokensPerSecond: speed?.decode[0] ?? Number.NaN,
    promptTokensPerSecond: speed?.prompt ?? Number.NaN,
  };
}
