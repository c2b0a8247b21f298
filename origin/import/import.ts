/**
 * Imports a model, from its name to a folder: fetch, read, quantize, write, describe. A folder appears under its name only
 * when it is complete. A folder that is up to date is left alone.
 */
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { GenerationDefaults } from "../manifest/generation-defaults.ts";
import { ImportError } from "../manifest/import-error.ts";
import {
  CHAT_TEMPLATE_FILE,
  filesDigest,
  GENERATION_FILE,
  type Manifest,
  MANIFEST_FILE,
  otherVersionFormat,
  readManifest,
  TOKENIZER_FILE,
} from "../manifest/manifest.ts";
import { WEIGHT_FORMATS, type WeightFormatName } from "../onnx/weight-formats.ts";
import { isBert, readBert } from "./architectures/bert.ts";
import { readGenerationAdvice } from "./architectures/generation-advice.ts";
import { readPooling } from "./architectures/pooling.ts";
import { readCheckpoint } from "./architectures/read-checkpoint.ts";
import type { ImportConfig } from "./config.ts";
import { diskFullError } from "./disk/disk-full.ts";
import { requireSpace } from "./disk/disk-space.ts";
import { presetNames } from "./fetch/presets.ts";
import { pull, type PullOptions } from "./fetch/pull.ts";
import { referenceName } from "./fetch/reference.ts";
import { ModelStore } from "./fetch/store.ts";
import { describeFolder, type ModelDescription } from "./folder/describe-folder.ts";
import {
  type ImportedModel,
  listModels,
  readIntactManifest,
  UnfinishedFolder,
  withFolderLock,
} from "./folder/model-folder.ts";
import { describeDownload, describeLocal, localState, type SourceDescription } from "./folder/source-files.ts";
import { writeDecoderGraph } from "./graph/decoder-graph.ts";
import { decoderBytes } from "./graph/decoder-weights.ts";
import { writeEncoderGraph } from "./graph/encoder-graph.ts";
import { encoderBytes } from "./graph/encoder-weights.ts";
import { checkName, defaultName, findSource, type ModelSource } from "./locate.ts";
import { chooseEncoderFormat, chooseFormat, usualFormat } from "./quantize/choose-format.ts";
import { type ProcessorFeatures, readProcessor } from "./quantize/processor.ts";
import { openTensorFile } from "./sources/open.ts";
import type { TensorFile } from "./sources/tensor-file.ts";
import { readEncoderTokenizer } from "./tokenizers/encoder-tokenizer.ts";
import { readTokenizer } from "./tokenizers/read-tokenizer.ts";

export interface EnsureOptions extends PullOptions {
  readonly config: ImportConfig;
  /** Any value that `COLDPATH_MODEL` accepts. */
  readonly model: string;
  /** Name of the imported model; default one derived from the source's name. */
  readonly name?: string | undefined;
  /** Default: the format of an existing folder, also one of another version, otherwise the choice of `chooseFormat`. */
  readonly format?: WeightFormatName | undefined;
  /** Folder of the imported model; default `<models folder>/<name>`. */
  readonly folder?: string | undefined;
  /** Processor that the model will run on; default this machine's. */
  readonly processor?: ProcessorFeatures;
}

/**
 * Makes sure that a model is imported: returns an up-to-date folder immediately, otherwise fetches and imports the model.
 *
 * @throws {ImportError} `unknown-model`, and all errors of fetching and reading a model
 */
export async function ensureModel(options: EnsureOptions): Promise<ImportedModel> {
  const { model, config, progress } = options;
  const source = findSource(model);
  if (source === undefined) return findImported(model, config.modelsDir);

  const name = checkName(options.name ?? defaultName(source));
  const folder = resolve(options.folder ?? join(config.modelsDir, name));
  mkdirSync(dirname(folder), { recursive: true });
  return withFolderLock(folder, { config, progress }, async () => {
    const current = upToDate(folder, source, options);
    if (current !== undefined) return { folder, manifest: current };
    const original = await openSource(source, options);
    const older = olderFormat(folder);
    if (older !== undefined) progress.line(`importing ${name} again: another version of coldpath imported it`);
    const { freeBytes, processor = readProcessor() } = options;
    const usual = usualFormat({ provider: config.provider, processor });
    const format = options.format ?? older;
    const given = { ...original, folder, name, format, usual, progress, ...(freeBytes && { freeBytes }) };
    return { folder, manifest: await importFile(given) };
  });
}

/** A source whose files are on this machine and have known digests. */
interface LocalSource extends SourceDescription {
  readonly path: string;
  /** Generation settings that a preset knows. Settings in the model's own files come first. */
  readonly advice?: GenerationDefaults;
}

async function openSource(source: ModelSource, options: PullOptions): Promise<LocalSource> {
  if (source.kind === "file") return { path: source.path, ...(await describeLocal(source.path)) };
  const { reference } = source;
  const { path, download } = await pull(reference, options);
  const [damage] = await new ModelStore(options.config).verify(download);
  if (damage === undefined) {
    const advice = reference.kind === "preset" ? reference.preset.generation : undefined;
    return { path, ...describeDownload(download), ...(advice && { advice }) };
  }
  rmSync(damage.path, { force: true });
  throw new ImportError(
    "invalid-file",
    `${damage.file} was damaged after its download and has been deleted; try again`,
  );
}

function findImported(model: string, modelsDir: string): ImportedModel {
  const found = listModels(modelsDir).find(({ folder }) => basename(folder) === model);
  if (found !== undefined) return found;
  const folder = join(modelsDir, model);
  // `readManifest` throws the error that names the remedy.
  if (otherVersionFormat(folder) !== undefined) return { folder, manifest: readManifest(folder) };
  throw new ImportError(
    "unknown-model",
    `unknown model "${model}"; expected the path of a .gguf file or of a checkpoint's folder, the name of an imported model, a name to fetch such as owner/name, or one of ${presetNames()}`,
  );
}

/** The manifest of a folder that need not be imported again. Reads nothing large. */
function upToDate(folder: string, source: ModelSource, { format, config }: EnsureOptions): Manifest | undefined {
  const manifest = readIntactManifest(folder);
  if (manifest === undefined) return undefined;
  if (format !== undefined && manifest.quantization.format !== format) return undefined;
  return isFrom(manifest, source, config) ? manifest : undefined;
}

/** The format of a folder that another version of coldpath wrote, if this version still has that format. */
function olderFormat(folder: string): WeightFormatName | undefined {
  const format = otherVersionFormat(folder);
  return format !== undefined && Object.hasOwn(WEIGHT_FORMATS, format) ? (format as WeightFormatName) : undefined;
}

function isFrom(manifest: Manifest, source: ModelSource, config: ImportConfig): boolean {
  if (source.kind === "file") {
    const { bytes, created } = localState(source.path);
    return manifest.source.kind === "file" && manifest.source.bytes === bytes && manifest.created === created;
  }
  const name = referenceName(source.reference);
  if (manifest.source.name !== name) return false;
  // A download that was removed since does not matter. One that was fetched again may have changed.
  const download = new ModelStore(config).find(name);
  return download === undefined || filesDigest(download.files) === manifest.source.sha256;
}

interface ImportFileOptions extends Pick<PullOptions, "progress" | "freeBytes">, LocalSource {
  readonly folder: string;
  readonly name: string;
  /** Format that was asked for. */
  readonly format: WeightFormatName | undefined;
  /** Format to use if none was asked for and the model supports it. */
  readonly usual: WeightFormatName;
}

async function importFile(options: ImportFileOptions): Promise<Manifest> {
  const { path, folder } = options;
  using unfinished = new UnfinishedFolder(folder);
  try {
    using file = openTensorFile(path);
    const write = isBert(file) ? writeEncoder : writeDecoder;
    const manifest = await describeFolder(unfinished.path, write(file, unfinished.path, options), options);
    writeFileSync(join(unfinished.path, MANIFEST_FILE), `${JSON.stringify(manifest, undefined, 2)}\n`);
    unfinished.replaceTarget();
    return manifest;
  } catch (error) {
    throw diskFullError(error, folder, "the unfinished import was deleted") ?? error;
  } finally {
    options.progress.end();
  }
}

function writeDecoder(file: TensorFile, folder: string, options: ImportFileOptions): ModelDescription {
  const { name, format: asked, progress, freeBytes } = options;
  const checkpoint = readCheckpoint(file);
  const { format, because } = chooseFormat(checkpoint.config, asked, options.usual);
  if (because !== undefined) progress.line(`importing ${name} as ${format}: ${because}`);
  const { json, tokens, chatTemplate } = readTokenizer(file, checkpoint.config.vocabSize);
  const chat = chatTemplate !== undefined;
  if (!chat) progress.line(`${name} has no chat template: it serves /v1/completions only`);
  requireSpace(decoderBytes(checkpoint.config, WEIGHT_FORMATS[format]), { name, folder: dirname(folder), freeBytes });
  progress.begin(`importing ${name}`, 1);
  const onProgress = (done: number, total: number): void => progress.update(done / total);
  writeDecoderGraph(checkpoint, { folder, format: WEIGHT_FORMATS[format], onProgress });
  writeFileSync(join(folder, TOKENIZER_FILE), json);
  if (chatTemplate !== undefined) writeFileSync(join(folder, CHAT_TEMPLATE_FILE), chatTemplate);
  const advice = readGenerationAdvice(file) ?? options.advice;
  if (advice !== undefined) writeFileSync(join(folder, GENERATION_FILE), `${JSON.stringify(advice)}\n`);
  const { layers, hiddenSize, queryHeads, kvHeads, headDim, vocabSize, contextLength } = checkpoint.config;
  const architecture = { layers, hiddenSize, queryHeads, kvHeads, headDim, vocabSize, contextLength };
  return { architecture, tokens, chat, format };
}

function writeEncoder(file: TensorFile, folder: string, options: ImportFileOptions): ModelDescription {
  const { name, format: asked, progress, freeBytes } = options;
  const checkpoint = readBert(file);
  const format = chooseEncoderFormat(asked);
  const { embedding, tokensMax } = readPooling(file);
  const { layers, hiddenSize, heads, vocabSize, contextLength: positions } = checkpoint.config;
  const { json, tokens } = readEncoderTokenizer(file, vocabSize);
  requireSpace(encoderBytes(checkpoint.config, WEIGHT_FORMATS[format]), { name, folder: dirname(folder), freeBytes });
  progress.begin(`importing ${name}`, 1);
  const onProgress = (done: number, total: number): void => progress.update(done / total);
  writeEncoderGraph(checkpoint, { folder, format: WEIGHT_FORMATS[format], onProgress });
  writeFileSync(join(folder, TOKENIZER_FILE), json);
  const contextLength = Math.min(positions, tokensMax ?? positions);
  const sizes = { queryHeads: heads, kvHeads: heads, headDim: hiddenSize / heads };
  const architecture = { layers, hiddenSize, ...sizes, vocabSize, contextLength };
  return { architecture, tokens, chat: false, embedding, format };
}
