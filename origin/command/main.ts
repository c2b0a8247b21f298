/**
 * `npm run model -- …`: fetches, imports, shows, checks, removes and evaluates models. Results go to standard output, everything else to standard
 * error; a failure is one sentence and exit code 1, a mistake in the arguments one sentence and exit code 2, a model that
 * an evaluation finds beyond its bounds exit code 3.
 */
import { availableParallelism } from "node:os";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { DEFAULT_WEIGHT_FORMAT, WEIGHT_FORMATS, type WeightFormatName } from "../onnx/weight-formats.ts";
import { KnobError, readKnobs } from "../../shared/knobs.ts";
import { ORIGIN_KNOBS } from "../config.ts";
import { evaluateModel } from "../evaluate/evaluate-model.ts";
import { missedSentence } from "../evaluate/import-report.ts";
import { type Bounds, brokenBounds, DEFAULT_BOUNDS, evaluationTable } from "../evaluate/report.ts";
import { reportModel } from "../evaluate/report-model.ts";
import { type ImportConfig, readImportConfig } from "../import/config.ts";
import { ImportError } from "../manifest/import-error.ts";
import { ensureModel } from "../import/import.ts";
import { type ImportedModel, listModels, removeModel } from "../import/folder/model-folder.ts";
import { fileSha256 } from "../import/disk/digest.ts";
import { presetLicences, presetNames } from "../import/fetch/presets.ts";
import { useProxies } from "../import/fetch/proxies.ts";
import { pull } from "../import/fetch/pull.ts";
import { type Download, ModelStore } from "../import/fetch/store.ts";
import { parseReference, referenceName } from "../import/fetch/reference.ts";
import { locateModel, locateModels } from "../import/locate.ts";
import { type ProgressReporter, reportProgress } from "../import/progress/progress.ts";
import { type GenerationDefaults, readGenerationDefaults } from "../manifest/generation-defaults.ts";
import { type Manifest, modelDigest } from "../manifest/manifest.ts";
import { readMachineMemory } from "../models/memory/available.ts";
import { describeModel, describePlan, type MemoryPlan, planMemory } from "../models/memory/plan.ts";

const HELP = `Usage: npm run model -- <command>

  pull [name]            download a model, or what changed of it since:
                           a preset: ${presetLicences()}
                           owner/name[:file-or-quantization][@revision] from Hugging Face, ms:owner/name from ModelScope
                           https://…/file.gguf[#sha256=…], s3://bucket/key; with a slash at its end a checkpoint's folder
  import [name|file]     import a .gguf file, a safetensors checkpoint's folder, or anything that can be pulled
      --name NAME        what to call it; default the preset's or the file's name
      --format FORMAT    ${Object.keys(WEIGHT_FORMATS).join(", ")}; default ${DEFAULT_WEIGHT_FORMAT},
                         or int8-rows on x64 processors without VNNI, where the model can have it
      --out DIR          write the model to this folder instead of the models folder
      --report           then measure what the format cost and bought against the same file in fp32: size, tokens a
                         second, perplexity, divergence, agreement, and which promises are kept; report.json, .md and .svg
                         in the model's folder
      --report-to DIR    the same, in this folder
  list                   the imported models, then the downloads
  verify [name]          read every byte of a model and its download, or of all, and compare the digests; exit code 1 when
                         one is damaged
  rm NAME                remove an imported model and its download; what another model needs stays
  inspect [name]         architecture, sizes and digests of an imported model, every file verified
  eval [name|file]       what the weight format lost against the same file in fp32, on a fixed text; a table, then one
                         line of JSON; exit code 3 when a bound is not kept
      --source FILE          the file or folder it was imported from, where the name is no preset's
      --max-perplexity N     bound on the perplexity, over fp32's; default ${DEFAULT_BOUNDS.perplexityRatioMax}
      --min-accuracy N       bound on the share of tokens predicted, over fp32's; default ${DEFAULT_BOUNDS.accuracyRatioMin}
      --max-kl N             bound on the mean KL divergence, in nats; default ${DEFAULT_BOUNDS.klMax}
      --min-top1 N           bound on the share of tokens with the same first choice; default ${DEFAULT_BOUNDS.top1Min}
  --help                 this text

Without a name pull, import, inspect and eval take every model that COLDPATH_MODEL names; the models folder is
COLDPATH_MODELS_DIR.
`;

/** How an evaluation runs its models. */
const RUN_KNOBS = { runtime: ORIGIN_KNOBS.runtime, threads: ORIGIN_KNOBS.threads };

/** What a model's memory depends on. */
const PLAN_KNOBS = {
  runtime: ORIGIN_KNOBS.runtime,
  provider: ORIGIN_KNOBS.provider,
  slots: ORIGIN_KNOBS.slots,
  context: ORIGIN_KNOBS.context,
  kvBytes: ORIGIN_KNOBS.kvBytes,
  memoryBytes: ORIGIN_KNOBS.memoryBytes,
  prefixCacheBytes: ORIGIN_KNOBS.prefixCacheBytes,
  prefillChunkTokens: ORIGIN_KNOBS.prefillChunkTokens,
  embedBatchTokens: ORIGIN_KNOBS.embedBatchTokens,
};

/** A mistake in the arguments; its message is one sentence. */
class UsageError extends Error {}

/** Every command's options. */
const OPTIONS = {
  import: ["name", "format", "out", "report", "report-to"],
  eval: ["source", "max-perplexity", "min-accuracy", "max-kl", "min-top1"],
} as const;
type OptionName = (typeof OPTIONS)[keyof typeof OPTIONS][number];
type Options = Readonly<Partial<Record<Exclude<OptionName, "report">, string> & Record<"report", boolean>>>;

interface Context {
  readonly config: ImportConfig;
  readonly progress: ProgressReporter;
  readonly out: NodeJS.WritableStream;
}

process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  try {
    useProxies(process.env);
    const context = {
      config: readImportConfig(process.env),
      progress: reportProgress(process.stderr),
      out: process.stdout,
    };
    return await dispatch(args, context);
  } catch (error) {
    const isExpected = error instanceof ImportError || error instanceof KnobError || error instanceof UsageError;
    const isSystem = error instanceof Error && "syscall" in error;
    if (!isExpected && !isSystem) throw error;
    process.stderr.write(`${error.message}\n`);
    return error instanceof UsageError ? 2 : 1;
  }
}

/** @returns the exit code */
async function dispatch(args: string[], context: Context): Promise<number> {
  const { values, positionals } = parse(args);
  const { help, ...options } = values;
  const [command, named, ...rest] = positionals;
  if (help || command === undefined) {
    context.out.write(HELP);
    return 0;
  }
  if (rest.length > 0) throw new UsageError(`unexpected argument "${rest[0]}"; see --help`);
  checkOptions(command, options);
  const models = named === undefined ? context.config.models : [named];
  switch (command) {
    case "pull":
      for (const model of models) await pullModel(model, context);
      return 0;
    case "import":
      if (named === undefined) await importServed(options, context);
      else await importModel(named, options, context);
      return 0;
    case "list":
      list(context);
      return 0;
    case "verify":
      await verify(named, context);
      return 0;
    case "rm":
      await remove(named, context);
      return 0;
    case "inspect":
      for (const model of models) await inspect(model, context);
      return 0;
    case "eval": {
      let exitCode = 0;
      for (const model of models) exitCode = Math.max(exitCode, await evaluateImported(model, options, context));
      return exitCode;
    }
    default:
      throw new UsageError(`there is no command "${command}"; see --help`);
  }
}

function parse(args: string[]) {
  const text = { type: "string" } as const;
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        name: text,
        format: text,
        out: text,
        report: { type: "boolean" },
        "report-to": text,
        source: text,
        "max-perplexity": text,
        "min-accuracy": text,
        "max-kl": text,
        "min-top1": text,
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (cause) {
    // Node's own message, up to its first full stop: "Unknown option '--x'".
    const [reason] = (cause instanceof Error ? cause.message : String(cause)).split(/\.\s/);
    throw new UsageError(`${reason}; see --help`, { cause });
  }
}

/** An option of another command is a mistake, not a wish to ignore. */
function checkOptions(command: string, options: Options): void {
  for (const [owner, names] of Object.entries(OPTIONS)) {
    const stray = names.find((name) => owner !== command && Object.hasOwn(options, name));
    if (stray !== undefined) throw new UsageError(`--${stray} belongs to ${owner} only; see --help`);
  }
}

async function pullModel(model: string, { config, progress, out }: Context): Promise<void> {
  const wanted = parseReference(model);
  if (wanted === undefined) {
    throw new UsageError(`"${model}" can't be fetched: a preset (${presetNames()}), owner/name, a URL; see --help`);
  }
  out.write(`${(await pull(wanted, { config, progress, fetch, refresh: true })).path}\n`);
}

/** What `COLDPATH_MODEL` names, one after the other, and how much memory it is going to take; `npm start` does this first. */
async function importServed(options: Options, context: Context): Promise<void> {
  const { config, progress } = context;
  if (config.models.length > 1) {
    const stray = (["name", "out", "report-to"] as const).find((name) => Object.hasOwn(options, name));
    if (stray !== undefined) throw new UsageError(`--${stray} is for one model, and COLDPATH_MODEL names several`);
  }
  // Before any time is spent on models that can't be served together.
  locateModels(config);
  const manifests: Manifest[] = [];
  for (const model of config.models) manifests.push((await importModel(model, options, context)).manifest);
  for (const line of describePlan(planOf(manifests))) progress.line(line);
}

async function importModel(
  model: string,
  options: Options,
  { config, progress, out }: Context,
): Promise<ImportedModel> {
  const { name, out: folder, report, "report-to": reportFolder } = options;
  const format = parseFormat(options.format);
  const isReported = report === true || reportFolder !== undefined;
  if (isReported && format === "fp32") throw new UsageError("--report compares a format with fp32: name another one");
  const imported = await ensureModel({ model, name, format, folder, config, progress, fetch });
  out.write(`${imported.folder}\n`);
  if (!isReported) return imported;
  const measured = { ...runOptions(), folder: imported.folder, reportFolder, now: () => performance.now() };
  const { promises } = await reportModel({ model, config, progress, fetch, ...measured });
  out.write(`${join(reportFolder ?? imported.folder, "report.md")}\n`);
  for (const promise of promises.filter(({ isKept }) => !isKept)) progress.line(missedSentence(promise));
  return imported;
}

/** What models would take on this machine, were they served together now. */
function planOf(manifests: readonly Manifest[]): MemoryPlan {
  return planMemory(manifests, readKnobs(PLAN_KNOBS, process.env), readMachineMemory());
}

/** How models are run to be compared. */
function runOptions() {
  const { runtime: backend, threads } = readKnobs(RUN_KNOBS, process.env);
  return { backend, threads: threads === 0 ? availableParallelism() : threads };
}

function parseFormat(format: string | undefined): WeightFormatName | undefined {
  if (format === undefined || Object.hasOwn(WEIGHT_FORMATS, format)) return format as WeightFormatName | undefined;
  throw new UsageError(`there is no format "${format}"; there are ${Object.keys(WEIGHT_FORMATS).join(", ")}`);
}

async function evaluateImported(model: string, options: Options, { config, progress, out }: Context): Promise<number> {
  const bounds: Bounds = {
    perplexityRatioMax: parseBound(options, "max-perplexity", DEFAULT_BOUNDS.perplexityRatioMax),
    accuracyRatioMin: parseBound(options, "min-accuracy", DEFAULT_BOUNDS.accuracyRatioMin),
    klMax: parseBound(options, "max-kl", DEFAULT_BOUNDS.klMax),
    top1Min: parseBound(options, "min-top1", DEFAULT_BOUNDS.top1Min),
  };
  const { source } = options;
  const { manifest, evaluation } = await evaluateModel({ model, source, config, progress, fetch, ...runOptions() });
  const broken = brokenBounds(evaluation, bounds);
  const { name, quantization } = manifest;
  out.write(`${name}, ${quantization.format}, against ${manifest.source.name} in fp32\n\n`);
  out.write(`${evaluationTable(evaluation)}\n\n`);
  out.write(`${JSON.stringify({ eval: name, format: quantization.format, ...evaluation, bounds, broken })}\n`);
  for (const sentence of broken) process.stderr.write(`${sentence}\n`);
  return broken.length === 0 ? 0 : 3;
}

function parseBound(options: Options, name: Exclude<OptionName, "report">, fallback: number): number {
  const text = options[name];
  if (text === undefined) return fallback;
  const bound = Number(text);
  if (text.trim() !== "" && Number.isFinite(bound) && bound >= 0) return bound;
  throw new UsageError(`--${name} must be a number of at least 0, not "${text}"`);
}

function list({ config, out }: Context): void {
  const models = listModels(config.modelsDir);
  const downloads = new ModelStore(config).list();
  if (models.length === 0) out.write(`no imported models in ${config.modelsDir}\n`);
  for (const model of models) {
    const { quantization } = model.manifest;
    out.write(
      `${basename(model.folder)}\t${quantization.format}\t${mebibytes(totalBytes(model.manifest))}\t${model.folder}\n`,
    );
  }
  for (const download of downloads) {
    out.write(`${download.name}\tdownload\t${mebibytes(totalBytes(download))}\t${download.location}\n`);
  }
}

/** Without a name everything is read. */
async function verify(name: string | undefined, { config, out }: Context): Promise<void> {
  const store = new ModelStore(config);
  const { models, downloads } = findNamed(name, config);
  const damaged: string[] = [];
  for (const { folder, manifest } of models) damaged.push(...(await damagedFiles(folder, manifest)));
  for (const download of downloads) damaged.push(...(await store.verify(download)).map(({ path }) => path));
  if (damaged.length > 0) {
    throw new ImportError("unreadable-file", `damaged: ${damaged.join(", ")}; remove it with rm and fetch it again`);
  }
  const files = [...models.map(({ manifest }) => manifest), ...downloads].map((each) => Object.keys(each.files).length);
  out.write(`${files.reduce((sum, count) => sum + count, 0)} files are what they were when they were written\n`);
}

async function remove(name: string | undefined, { config, progress, out }: Context): Promise<void> {
  if (name === undefined) throw new UsageError("rm needs a name; see list");
  const { models, downloads } = findNamed(name, config);
  let bytes = 0;
  for (const { folder, manifest } of models) {
    await removeModel(folder, { config, progress });
    bytes += totalBytes(manifest);
  }
  // Another model that was made of the same download may be evaluated against it.
  const needed = new Set(listModels(config.modelsDir).map(({ manifest }) => manifest.source.name));
  const unneeded = downloads.filter((download) => !needed.has(download.name));
  for (const download of unneeded) bytes += (await new ModelStore(config).remove(download.name)) ?? 0;
  out.write(`${mebibytes(bytes)} are free\n`);
}

/**
 * The imported models of a name, which may be a model's or what it was made of, and their downloads; all without one.
 *
 * @throws {ImportError} `unknown-model` where there is neither
 */
function findNamed(
  name: string | undefined,
  config: ImportConfig,
): { readonly models: readonly ImportedModel[]; readonly downloads: readonly Download[] } {
  const models = listModels(config.modelsDir);
  const downloads = new ModelStore(config).list();
  if (name === undefined) return { models, downloads };
  const wanted = parseReference(name);
  const source = wanted === undefined ? name : referenceName(wanted);
  const named = models.filter(({ folder, manifest }) => basename(folder) === name || manifest.source.name === source);
  const origins = new Set([source, ...named.map(({ manifest }) => manifest.source.name)]);
  const found = { models: named, downloads: downloads.filter((download) => origins.has(download.name)) };
  if (found.models.length + found.downloads.length > 0) return found;
  throw new ImportError("unknown-model", `there is neither a model nor a download "${name}"; see list`);
}

async function damagedFiles(folder: string, { files }: Manifest): Promise<readonly string[]> {
  const paths: string[] = [];
  for (const [file, { sha256 }] of Object.entries(files)) {
    if ((await fileSha256(join(folder, file))) !== sha256) paths.push(join(folder, file));
  }
  return paths;
}

async function inspect(model: string, { config, out }: Context): Promise<void> {
  const place = locateModel({ model, modelsDir: config.modelsDir });
  const found = listModels(config.modelsDir).find(({ folder }) => folder === place);
  if (found === undefined) throw new ImportError("unknown-model", `no model "${model}" is imported; see list`);
  const { folder, manifest } = found;
  const { architecture, quantization, tokens, source, embedding } = manifest;
  const kvBytesPerToken = 2 * architecture.layers * architecture.kvHeads * architecture.headDim * 4;
  const plans = planOf([manifest]).models;
  const rows = [
    ["folder", folder],
    ["digest", modelDigest(manifest)],
    ["source", `${source.name}, ${mebibytes(source.bytes)}, ${source.sha256}`],
    ["found in", `${source.kind} ${source.location}${source.revision === null ? "" : ` at ${source.revision}`}`],
    ["quantization", quantization.format],
    ...Object.entries(quantization.matrices).map(([kind, format]) => [`  ${kind}`, describeFormat(format)]),
    ...Object.entries(architecture),
    embedding === undefined
      ? ["KV per token", `${kvBytesPerToken} bytes (fp32)`]
      : ["vectors", `${embedding.pooling}${embedding.normalized ? ", normalised" : ""}`],
    ...plans.map((plan) => ["memory", describeModel(plan)]),
    ...(embedding === undefined ? [["drawn by default", describeGeneration(readGenerationDefaults(folder))]] : []),
    ["tokens", `bos ${tokens.bos ?? "none"}${tokens.addBos ? ", added" : ""}, ends ${tokens.ends.join(", ")}`],
    ...Object.entries(manifest.files).map(([file, { bytes, sha256 }]) => [file, `${mebibytes(bytes)}, ${sha256}`]),
  ];
  for (const [label = "", value] of rows) out.write(`${label.padEnd(22)}${value}\n`);
  const [damaged] = await damagedFiles(folder, manifest);
  if (damaged === undefined) return;
  throw new ImportError("unreadable-file", `${damaged} is damaged: delete ${folder} and import it again`);
}

function describeGeneration(defaults: GenerationDefaults): string {
  const said = Object.entries(defaults).map(([field, value]) => `${field} ${value}`);
  return said.length === 0 ? "as OpenAI's are: temperature 1" : said.join(", ");
}

function describeFormat(format: Manifest["quantization"]["matrices"][string]): string {
  if (typeof format === "string") return format;
  if ("scale" in format) return `${format.bits} bits, a scale for each row`;
  const { bits, blockSize, symmetric, fitted = false } = format;
  return `${bits} bits, blocks of ${blockSize}${symmetric ? "" : ", zero points"}${fitted ? ", scales searched for" : ""}`;
}

function totalBytes({ files }: Pick<Manifest, "files">): number {
  return Object.values(files).reduce((sum, { bytes }) => sum + bytes, 0);
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
