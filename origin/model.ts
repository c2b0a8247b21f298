/**
 * `npm run model -- …`: fetches, imports and shows models. Results go to standard output, everything else to standard
 * error; a failure is one sentence and exit code 1, a mistake in the arguments one sentence and exit code 2.
 */
import { basename, join } from "node:path";
import { parseArgs } from "node:util";
import { KnobError } from "../shared/knobs.ts";
import { type ImportConfig, readImportConfig } from "./import/config.ts";
import { ImportError } from "./import/import-error.ts";
import { ensureModel, type ImportedModel, listModels } from "./import/import.ts";
import { findPreset, presetNames } from "./import/presets.ts";
import { type Progress, reportProgress } from "./import/progress.ts";
import { fileSha256, pullPreset } from "./import/pull.ts";
import { DEFAULT_WEIGHT_FORMAT, WEIGHT_FORMATS, type WeightFormatName } from "./import/quantize.ts";
import { modelDigest } from "./manifest.ts";

const HELP = `Usage: npm run model -- <command>

  pull [name]            download a preset's file (${presetNames()})
  import [name|file]     import a preset or a .gguf file, downloading it first where needed
      --name NAME        what to call it; default the preset's or the file's name
      --format FORMAT    ${Object.keys(WEIGHT_FORMATS).join(", ")}; default ${DEFAULT_WEIGHT_FORMAT}
      --out DIR          write the model to this folder instead of the models folder
  list                   the imported models
  inspect [name]         architecture, sizes and digests of an imported model, every file verified
  --help                 this text

The default name is COLDPATH_MODEL's, the models folder COLDPATH_MODELS_DIR.
`;

/** A mistake in the arguments; its message is one sentence. */
class UsageError extends Error {}

interface Context {
  readonly config: ImportConfig;
  readonly progress: Progress;
  readonly out: NodeJS.WritableStream;
}

process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  try {
    const context = {
      config: readImportConfig(process.env),
      progress: reportProgress(process.stderr),
      out: process.stdout,
    };
    await dispatch(args, context);
    return 0;
  } catch (error) {
    const isExpected = error instanceof ImportError || error instanceof KnobError || error instanceof UsageError;
    const isSystem = error instanceof Error && "syscall" in error;
    if (!isExpected && !isSystem) throw error;
    process.stderr.write(`${error.message}\n`);
    return error instanceof UsageError ? 2 : 1;
  }
}

async function dispatch(args: string[], context: Context): Promise<void> {
  const { values, positionals } = parse(args);
  const [command, model = context.config.model, ...rest] = positionals;
  if (values.help || command === undefined) {
    context.out.write(HELP);
    return;
  }
  if (rest.length > 0) throw new UsageError(`unexpected argument "${rest[0]}"; see --help`);
  const strayOption = command === "import" ? undefined : Object.keys(values)[0];
  if (strayOption !== undefined) throw new UsageError(`--${strayOption} belongs to import only; see --help`);
  switch (command) {
    case "pull":
      return pull(model, context);
    case "import":
      return importModel(model, values, context);
    case "list":
      return list(context);
    case "inspect":
      return inspect(model, context);
    default:
      throw new UsageError(`there is no command "${command}"; see --help`);
  }
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      allowPositionals: true,
      options: {
        name: { type: "string" },
        format: { type: "string" },
        out: { type: "string" },
        help: { type: "boolean", short: "h" },
      },
    });
  } catch (cause) {
    // Node's own message, up to its first full stop: "Unknown option '--x'".
    const [reason] = (cause instanceof Error ? cause.message : String(cause)).split(". ");
    throw new UsageError(`${reason}; see --help`, { cause });
  }
}

async function pull(model: string, { config, progress, out }: Context): Promise<void> {
  const preset = findPreset(model);
  if (preset === undefined) throw new UsageError(`"${model}" is no preset; there are ${presetNames()}`);
  out.write(`${await pullPreset(preset, { config, progress, fetch })}\n`);
}

async function importModel(
  model: string,
  { name, format, out: folder }: { readonly name?: string; readonly format?: string; readonly out?: string },
  { config, progress, out }: Context,
): Promise<void> {
  const imported = await ensureModel({ model, name, format: parseFormat(format), folder, config, progress, fetch });
  out.write(`${imported.folder}\n`);
}

function parseFormat(format: string | undefined): WeightFormatName | undefined {
  if (format === undefined || Object.hasOwn(WEIGHT_FORMATS, format)) return format as WeightFormatName | undefined;
  throw new UsageError(`there is no format "${format}"; there are ${Object.keys(WEIGHT_FORMATS).join(", ")}`);
}

function list({ config, out }: Context): void {
  const models = listModels(config.modelsDir);
  if (models.length === 0) out.write(`no imported models in ${config.modelsDir}\n`);
  for (const model of models) {
    const { quantization } = model.manifest;
    out.write(`${basename(model.folder)}\t${quantization.format}\t${mebibytes(totalBytes(model))}\t${model.folder}\n`);
  }
}

async function inspect(model: string, { config, out }: Context): Promise<void> {
  const found = listModels(config.modelsDir).find(({ folder }) => basename(folder) === model);
  if (found === undefined) throw new ImportError("unknown-model", `no model "${model}" is imported; see list`);
  const { folder, manifest } = found;
  const { architecture, quantization, tokens, source } = manifest;
  const kvBytesPerToken = 2 * architecture.layers * architecture.kvHeads * architecture.headDim * 4;
  const rows = [
    ["folder", folder],
    ["digest", modelDigest(manifest)],
    ["source", `${source.file}, ${mebibytes(source.bytes)}, ${source.sha256}`],
    ["quantization", `${quantization.format}, block ${quantization.blockSize}`],
    ...Object.entries(architecture),
    ["KV per token", `${kvBytesPerToken} bytes (fp32)`],
    ["tokens", `bos ${tokens.bos ?? "none"}${tokens.addBos ? ", added" : ""}, ends ${tokens.ends.join(", ")}`],
    ...Object.entries(manifest.files).map(([file, { bytes, sha256 }]) => [file, `${mebibytes(bytes)}, ${sha256}`]),
  ];
  for (const [label = "", value] of rows) out.write(`${label.padEnd(22)}${value}\n`);
  for (const [file, { sha256 }] of Object.entries(manifest.files)) {
    if ((await fileSha256(join(folder, file))) === sha256) continue;
    throw new ImportError("unreadable-file", `${join(folder, file)} is damaged: delete ${folder} and import it again`);
  }
}

function totalBytes({ manifest }: ImportedModel): number {
  return Object.values(manifest.files).reduce((sum, { bytes }) => sum + bytes, 0);
}

function mebibytes(bytes: number): string {
  return `${(bytes / 2 ** 20).toFixed(1)} MiB`;
}
