/**
 * From an imported model's name to its evaluation: finds the file it was imported from, imports that once more in full
 * precision, loads both and compares them. The full-precision folder is four bytes a weight and goes when it is done; one
 * that a killed evaluation left is used by the next.
 */
import { existsSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { ImportError } from "../manifest/import-error.ts";
import type { ImportConfig } from "../import/config.ts";
import { ensureModel } from "../import/import.ts";
import { findSource, locateModel } from "../import/locate.ts";
import { pull, type PullOptions } from "../import/fetch/pull.ts";
import { describeLocal } from "../import/folder/source-files.ts";
import { type Manifest, MANIFEST_FILE, readManifest } from "../manifest/manifest.ts";
import type { ProgressReporter } from "../import/progress/progress.ts";
import { createRuntime } from "../runtime/create-runtime.ts";
import type { Runtime } from "../runtime/port/runtime.ts";
import { loadTokenizer } from "../tokenize/tokenizer.ts";
import { evaluate, type Evaluation, EVALUATION_CAPACITY } from "./evaluate.ts";

export interface EvaluateModelOptions extends PullOptions {
  readonly config: ImportConfig;
  /** What `COLDPATH_MODEL` may be. */
  readonly model: string;
  /** An imported model's folder, where it is not in the models folder. */
  readonly folder?: string | undefined;
  /** The .gguf file it was imported from, where `model` does not say. */
  readonly source?: string | undefined;
  readonly backend: "capi" | "binding";
  readonly threads: number;
}

/** A model and the same file in full precision, both loaded. */
export interface LoadedPair {
  readonly folder: string;
  readonly manifest: Manifest;
  readonly candidate: Runtime;
  /** The full-precision folder; it goes when the comparison is done. */
  readonly full: Manifest;
  readonly reference: Runtime;
}

/** @throws {ImportError} as `withOriginal` does */
export async function evaluateModel(
  options: EvaluateModelOptions,
): Promise<{ readonly manifest: Manifest; readonly evaluation: Evaluation }> {
  return withOriginal(options, 1, async (pair) => ({
    manifest: pair.manifest,
    evaluation: await evaluatePair(pair, options.progress),
  }));
}

/** Compares what both predict. */
export async function evaluatePair(
  { folder, manifest, reference, candidate }: LoadedPair,
  progress: ProgressReporter,
): Promise<Evaluation> {
  progress.begin(`evaluating ${manifest.name}`, 1);
  return await evaluate({
    reference,
    candidate,
    tokenizer: loadTokenizer(folder, manifest.tokens),
    endTokens: manifest.tokens.ends,
    onProgress: (done, total) => progress.update(done / total),
  });
}

/**
 * Imports a model's file once more in full precision, loads both and has them compared.
 *
 * @param slots - rows that the comparison needs
 * @throws {ImportError} `unknown-model` when it is not imported, `unreadable-file` when the file it was imported from is
 * gone or another one
 */
export async function withOriginal<T>(
  options: EvaluateModelOptions,
  slots: number,
  compare: (pair: LoadedPair) => Promise<T>,
): Promise<T> {
  const { model, config, progress, backend, threads } = options;
  const folder = options.folder ?? locateModel({ model, modelsDir: config.modelsDir });
  if (!existsSync(join(folder, MANIFEST_FILE))) {
    throw new ImportError("unknown-model", `no model "${model}" is imported; see list`);
  }
  const manifest = readManifest(folder);
  if (manifest.embedding !== undefined) {
    throw new ImportError("unsupported-model", `"${model}" makes vectors: it has no text to be evaluated by`);
  }
  const source = await findOriginal(options, manifest);
  const fullFolder = join(dirname(folder), `.${basename(folder)}.fp32`);
  try {
    const { manifest: full } = await ensureModel({
      ...options,
      model: source,
      name: manifest.name,
      format: "fp32",
      folder: fullFolder,
    });
    const capacity = Math.min(EVALUATION_CAPACITY, manifest.architecture.contextLength);
    const load = (of: string) => createRuntime({ backend, folder: of, slots, capacity, threads });
    using reference = await load(fullFolder);
    using candidate = await load(folder);
    return await compare({ folder, manifest, candidate, full, reference });
  } finally {
    progress.end();
    rmSync(fullFolder, { recursive: true, force: true });
  }
}

/** The file a model was imported from: the reference must have the same weights, or the comparison would be of two models. */
async function findOriginal(options: EvaluateModelOptions, { name, source }: Manifest): Promise<string> {
  const path = await pathOfOriginal(options);
  if (path === undefined) {
    const which = `${source.name} (SHA-256 ${source.sha256})`;
    throw new ImportError("unreadable-file", `${name} was imported from ${which}: say where it is with --source FILE`);
  }
  if ((await describeLocal(path)).source.sha256 === source.sha256) return path;
  throw new ImportError("unreadable-file", `${path} is not the file that ${name} was imported from`);
}

async function pathOfOriginal(options: EvaluateModelOptions): Promise<string | undefined> {
  const source = findSource(options.source ?? options.model);
  if (source === undefined) return undefined;
  return source.kind === "file" ? source.path : (await pull(source.reference, options)).path;
}
