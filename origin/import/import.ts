/**
 * From a name or a GGUF file to a model folder, the whole way: pull, read, quantize, write, describe. A folder appears
 * under its name only when it is complete, and is left alone while it is up to date.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { WEIGHT_FORMATS, type WeightFormatName } from "../onnx/weight-formats.ts";
import {
  CHAT_TEMPLATE_FILE,
  filesDigest,
  GENERATION_FILE,
  IMPORT_VERSION,
  type Manifest,
  MANIFEST_FILE,
  otherVersionFormat,
  readManifest,
  TOKENIZER_FILE,
} from "../manifest/manifest.ts";
import type { GenerationDefaults } from "../manifest/generation-defaults.ts";
import { diskFullError } from "./disk/disk-full.ts";
import { renameDurably } from "./disk/durable.ts";
import { writeDecoderGraph } from "./graph/decoder-graph.ts";
import { writeEncoderGraph } from "./graph/encoder-graph.ts";
import { encoderBytes } from "./graph/encoder-weights.ts";
import { decoderBytes } from "./graph/decoder-weights.ts";
import { chooseEncoderFormat, chooseFormat, usualFormat } from "./quantize/choose-format.ts";
import { openTensorFile } from "./sources/open.ts";
import { readGenerationAdvice } from "./architectures/generation-advice.ts";
import { ImportError } from "../manifest/import-error.ts";
import { isBert, readBert } from "./architectures/bert.ts";
import { readCheckpoint } from "./architectures/read-checkpoint.ts";
import { readPooling } from "./architectures/pooling.ts";
import type { TensorFile } from "./sources/tensor-file.ts";
import { readEncoderTokenizer } from "./tokenizers/encoder-tokenizer.ts";
import { checkName, defaultName, findSource, type Source } from "./locate.ts";
import { withLock } from "./disk/lock.ts";
import { fileSha256 } from "./disk/digest.ts";
import { presetNames } from "./fetch/presets.ts";
import { pull, type PullOptions } from "./fetch/pull.ts";
import { ModelStore } from "./fetch/store.ts";
import { type ProcessorFeatures, readProcessor } from "./quantize/processor.ts";
import { wantedName } from "./fetch/wanted.ts";
import { describeFetched, describeLocal, localState, type SourceDescription } from "./folder/source-files.ts";
import { requireRoom } from "./disk/disk-space.ts";
import { readTokenizer } from "./tokenizers/read-tokenizer.ts";

export interface EnsureOptions extends PullOptions {
  /** What `COLDPATH_MODEL` may be. */
  readonly model: string;
  /** The imported model's name; default one made of the source's. */
  readonly name?: string | undefined;
  /** Default: whatever a folder has, also another version's, else what `chooseFormat` does. */
  readonly format?: WeightFormatName | undefined;
  /** Where the folder goes; default `<models folder>/<name>`. */
  readonly folder?: string | undefined;
  /** What it is going to be computed on; default this machine's. */
  readonly processor?: ProcessorFeatures;
}

export interface ImportedModel {
  readonly folder: string;
  readonly manifest: Manifest;
}

/**
 * Sees to it that a model is imported: at once when an up-to-date folder exists, else by fetching and importing it.
 *
 * @throws {ImportError} `unknown-model`, and whatever pulling and reading a file throw
 */
export async function ensureModel(options: EnsureOptions): Promise<ImportedModel> {
  const { model, config, progress } = options;
  const source = findSource(model);
  if (source === undefined) return findImported(model, config.modelsDir);

  const name = checkName(options.name ?? defaultName(source));
  const folder = resolve(options.folder ?? join(config.modelsDir, name));
  mkdirSync(dirname(folder), { recursive: true });
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is importing ${name}`);
  return withLock(beside(folder, "lock"), { waitMs: config.lockWaitMs, onWait }, async () => {
    const current = upToDate(folder, source, options);
    if (current !== undefined) return { folder, manifest: current };
    const original = await openSource(source, options);
    const older = olderFormat(folder);
    if (older !== undefined) progress.line(`${name} was imported by another version of coldpath: it is imported again`);
    const format = options.format ?? older;
    const { freeBytes, processor = readProcessor() } = options;
    const usual = usualFormat({ provider: options.config.provider, processor });
    const given = { ...original, folder, name, format, usual, progress, ...(freeBytes && { freeBytes }) };
    return { folder, manifest: await importFile(given) };
  });
}

/** A source that is on this machine now, every byte of it read and known. */
interface Original extends SourceDescription {
  readonly path: string;
  /** How its makers say elsewhere that answers are to be drawn; what the file itself says comes first. */
  readonly advice?: GenerationDefaults;
}

async function openSource(source: Source, options: PullOptions): Promise<Original> {
  if (source.kind === "file") return { path: source.path, ...(await describeLocal(source.path)) };
  const { path, fetched } = await pull(source.wanted, options);
  const [damage] = await new ModelStore(options.config).verify(fetched);
  if (damage === undefined) {
    const advice = source.wanted.kind === "preset" ? source.wanted.preset.generation : undefined;
    return { path, ...describeFetched(fetched), ...(advice && { advice }) };
  }
  rmSync(damage.path, { force: true });
  throw new ImportError("invalid-file", `${damage.file} was damaged after its download and is deleted now; try again`);
}

/** The imported models of a models folder, by name; what is unfinished or from another version is left out. */
export function listModels(modelsDir: string): readonly ImportedModel[] {
  if (statSync(modelsDir, { throwIfNoEntry: false }) === undefined) return [];
  const names = readdirSync(modelsDir).filter((name) => !name.startsWith("."));
  return names.toSorted().flatMap((name) => {
    const folder = join(modelsDir, name);
    const manifest = intactManifest(folder);
    return manifest === undefined ? [] : [{ folder, manifest }];
  });
}

/** Removes an imported model's folder, once nobody imports it. */
export async function removeModel(
  folder: string,
  { config, progress }: Pick<EnsureOptions, "config" | "progress">,
): Promise<void> {
  const onWait = (pid: number) => progress.line(`waiting for process ${pid}, which is importing ${basename(folder)}`);
  await withLock(beside(folder, "lock"), { waitMs: config.lockWaitMs, onWait }, () => {
    // Without its page a folder is no model: a removal that is killed leaves nothing that looks whole.
    rmSync(join(folder, MANIFEST_FILE), { force: true });
    rmSync(folder, { recursive: true, force: true });
    return Promise.resolve();
  });
}

function findImported(model: string, modelsDir: string): ImportedModel {
  const found = listModels(modelsDir).find(({ folder }) => basename(folder) === model);
  if (found !== undefined) return found;
  const folder = join(modelsDir, model);
  // Reading it says what to do.
  if (otherVersionFormat(folder) !== undefined) return { folder, manifest: readManifest(folder) };
  throw new ImportError(
    "unknown-model",
    `there is no model "${model}": give the path of a .gguf file or of a checkpoint's folder, the name of an imported model, or one of ${presetNames()}`,
  );
}

/** A hidden name beside the folder, on the same file system, so that a rename is atomic. */
function beside(folder: string, ending: string): string {
  return join(dirname(folder), `.${basename(folder)}.${ending}`);
}

/** The manifest of a folder that need not be imported again. Cheap: nothing large is read. */
function upToDate(folder: string, source: Source, { format, config }: EnsureOptions): Manifest | undefined {
  const manifest = intactManifest(folder);
  if (manifest === undefined) return undefined;
  if (format !== undefined && manifest.quantization.format !== format) return undefined;
  return isFrom(manifest, source, config) ? manifest : undefined;
}

/** The format of what another version of coldpath left in a folder, where it is one that there still is. */
function olderFormat(folder: string): WeightFormatName | undefined {
  const format = otherVersionFormat(folder);
  return format !== undefined && Object.hasOwn(WEIGHT_FORMATS, format) ? (format as WeightFormatName) : undefined;
}

function isFrom(manifest: Manifest, source: Source, config: EnsureOptions["config"]): boolean {
  if (source.kind === "file") {
    const { bytes, created } = localState(source.path);
    return manifest.source.kind === "file" && manifest.source.bytes === bytes && manifest.created === created;
  }
  const name = wantedName(source.wanted);
  if (manifest.source.name !== name) return false;
  // What was fetched may have been removed since, which costs nothing, or fetched again, which may have changed it.
  const fetched = new ModelStore(config).find(name);
  return fetched === undefined || filesDigest(fetched.files) === manifest.source.sha256;
}

/** The manifest of a folder whose files are all there with their sizes. */
function intactManifest(folder: string): Manifest | undefined {
  let manifest: Manifest;
  try {
    manifest = readManifest(folder);
  } catch {
    return undefined;
  }
  const isIntact = Object.entries(manifest.files).every(
    ([file, { bytes }]) => statSync(join(folder, file), { throwIfNoEntry: false })?.size === bytes,
  );
  return isIntact ? manifest : undefined;
}

interface ImportFileOptions extends Pick<PullOptions, "progress" | "freeBytes">, Original {
  readonly folder: string;
  readonly name: string;
  readonly format: WeightFormatName | undefined;
  /** Where none is asked for and the model can have it. */
  readonly usual: WeightFormatName;
}

async function importFile(options: ImportFileOptions): Promise<Manifest> {
  const { path, folder } = options;
  const unfinished = beside(folder, "importing");
  rmSync(unfinished, { recursive: true, force: true });
  mkdirSync(unfinished);
  try {
    using file = openTensorFile(path);
    const written = isBert(file) ? writeEncoder(file, unfinished, options) : writeDecoder(file, unfinished, options);
    const manifest = await describe(unfinished, written, options);
    writeFileSync(join(unfinished, MANIFEST_FILE), `${JSON.stringify(manifest, undefined, 2)}\n`);
    replaceFolder(unfinished, folder);
    return manifest;
  } catch (error) {
    throw diskFullError(error, folder, "nothing of it was kept") ?? error;
  } finally {
    options.progress.end();
    rmSync(unfinished, { recursive: true, force: true });
  }
}

/** What was written, in the manifest's words. */
interface Written extends Pick<Manifest, "architecture" | "tokens" | "chat" | "embedding"> {
  readonly format: WeightFormatName;
}

function writeDecoder(file: TensorFile, folder: string, options: ImportFileOptions): Written {
  const { name, format: asked, progress, freeBytes } = options;
  const checkpoint = readCheckpoint(file);
  const { format, because } = chooseFormat(checkpoint.config, asked, options.usual);
  if (because !== undefined) progress.line(`${name} is imported as ${format}: ${because}`);
  const { json, tokens, chatTemplate } = readTokenizer(file, checkpoint.config.vocabSize);
  const chat = chatTemplate !== undefined;
  if (!chat) progress.line(`${name} has no chat template: it goes on with texts and can't chat`);
  requireRoom(decoderBytes(checkpoint.config, WEIGHT_FORMATS[format]), { name, folder: dirname(folder), freeBytes });
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

function writeEncoder(file: TensorFile, folder: string, options: ImportFileOptions): Written {
  const { name, format: asked, progress, freeBytes } = options;
  const checkpoint = readBert(file);
  const format = chooseEncoderFormat(asked);
  const { embedding, tokensMax } = readPooling(file);
  const { layers, hiddenSize, heads, vocabSize, contextLength: positions } = checkpoint.config;
  const { json, tokens } = readEncoderTokenizer(file, vocabSize);
  requireRoom(encoderBytes(checkpoint.config, WEIGHT_FORMATS[format]), { name, folder: dirname(folder), freeBytes });
  progress.begin(`importing ${name}`, 1);
  const onProgress = (done: number, total: number): void => progress.update(done / total);
  writeEncoderGraph(checkpoint, { folder, format: WEIGHT_FORMATS[format], onProgress });
  writeFileSync(join(folder, TOKENIZER_FILE), json);
  const contextLength = Math.min(positions, tokensMax ?? positions);
  const sizes = { queryHeads: heads, kvHeads: heads, headDim: hiddenSize / heads };
  const architecture = { layers, hiddenSize, ...sizes, vocabSize, contextLength };
  return { architecture, tokens, chat: false, embedding, format };
}

async function describe(
  folder: string,
  { architecture, tokens, chat, embedding, format }: Written,
  { source, created, name }: Pick<ImportFileOptions, "source" | "created" | "name">,
): Promise<Manifest> {
  const files: Manifest["files"] = {};
  for (const file of readdirSync(folder).toSorted()) {
    const written = join(folder, file);
    files[file] = { bytes: statSync(written).size, sha256: await fileSha256(written) };
  }
  return {
    importVersion: IMPORT_VERSION,
    name,
    architecture,
    quantization: { format, matrices: WEIGHT_FORMATS[format].matrices },
    tokens,
    chat,
    ...(embedding && { embedding }),
    source,
    command: ["npm", "run", "model", "--", "import", source.name, "--name", name, "--format", format],
    tool: { name: "coldpath", version: toolVersion() },
    files,
    created,
  };
}

function toolVersion(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { readonly version: string }).version;
}

/** A folder can't be renamed onto another, so the old one is moved aside first. */
function replaceFolder(from: string, to: string): void {
  const old = beside(to, "old");
  rmSync(old, { recursive: true, force: true });
  if (statSync(to, { throwIfNoEntry: false }) !== undefined) renameSync(to, old);
  renameDurably(from, to);
  rmSync(old, { recursive: true, force: true });
}
