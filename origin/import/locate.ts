/**
 * Resolves a model's name: to a local GGUF file or safetensors checkpoint, to a reference to fetch, or to an imported model;
 * and finds the model's folder. Separate from the import, because the origin resolves names and must not load the code that
 * imports models.
 */
import { existsSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { ImportConfig } from "./config.ts";
import { ImportError } from "../manifest/import-error.ts";
import { type ModelReference, parseReference, referencedModelName } from "./fetch/reference.ts";
import { wholeGgufName } from "./sources/gguf-parts.ts";

/** Endings of files of weights. */
const WEIGHTS = /\.(gguf|safetensors|safetensors\.index\.json)$/i;
const CHECKPOINT_CONFIG = "config.json";

/** The origin of a model's weights: an existing file or checkpoint's folder, or a reference to fetch. */
export type ModelSource =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "fetch"; readonly reference: ModelReference };

/**
 * The folder that an import without `--name` puts this model into, whether or not it exists.
 *
 * @param model - any value that `COLDPATH_MODEL` accepts
 * @throws {ImportError} if the file does not exist, or its name can't be a model's name
 */
export function locateModel({ model, modelsDir }: { readonly model: string; readonly modelsDir: string }): string {
  const source = findSource(model);
  return join(modelsDir, source === undefined ? model : checkName(defaultName(source)));
}

/** A model's name as it was given, and its folder, which may not exist yet. */
export interface LocatedModel {
  readonly model: string;
  readonly folder: string;
}

/**
 * The folders of several models, in their order.
 *
 * @throws {ImportError} errors of `locateModel`; `unknown-model` if two names have the same folder
 */
export function locateModels({
  models,
  modelsDir,
}: Pick<ImportConfig, "models" | "modelsDir">): readonly LocatedModel[] {
  const byFolder = new Map<string, string>();
  for (const model of models) {
    const folder = locateModel({ model, modelsDir });
    const other = byFolder.get(folder);
    if (other === model) throw new ImportError("unknown-model", `COLDPATH_MODEL names "${model}" twice`);
    if (other !== undefined) {
      const both = `"${other}" and "${model}" both have the name ${basename(folder)}`;
      throw new ImportError(
        "unknown-model",
        `COLDPATH_MODEL: ${both}; import one with --name and list that name instead`,
      );
    }
    byFolder.set(folder, model);
  }
  return [...byFolder].map(([folder, model]) => ({ model, folder }));
}

/**
 * Finds the source of a name or path.
 *
 * @returns undefined if the name can only be an imported model
 * @throws {ImportError} `unreadable-file`
 */
export function findSource(model: string): ModelSource | undefined {
  if (isLocal(model)) return { kind: "file", path: resolve(model) };
  const reference = parseReference(model);
  // `models/some.gguf` is a missing file rather than a repository of an owner called "models".
  const isReference = reference !== undefined && (!WEIGHTS.test(model) || model.includes(":"));
  if (isReference) return { kind: "fetch", reference };
  if (WEIGHTS.test(model)) throw new ImportError("unreadable-file", `there is no file ${resolve(model)}`);
  if (!/^\.{0,2}\/|\/$/.test(model)) return undefined;
  throw new ImportError("unreadable-file", `${resolve(model)} ${whyNoSource(model)}`);
}

function whyNoSource(path: string): string {
  if (isFolder(path)) return `has no ${CHECKPOINT_CONFIG}, so it is not a checkpoint`;
  if (!existsSync(path)) return "does not exist";
  return "can't be imported: it is neither a .gguf or .safetensors file nor a checkpoint's folder";
}

/** Whether a path is a file of weights, or a checkpoint's folder. Folders of imported models have no `config.json`. */
function isLocal(path: string): boolean {
  if (WEIGHTS.test(path)) return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
  return isFolder(path) && statSync(join(path, CHECKPOINT_CONFIG), { throwIfNoEntry: false }) !== undefined;
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** The default name of the imported model. */
export function defaultName(source: ModelSource): string {
  if (source.kind === "fetch") return referencedModelName(source.reference);
  const { path } = source;
  // The file of every checkpoint is called "model", so the folder's name is used.
  const named = /\.safetensors(\.index\.json)?$/.test(path) ? dirname(path) : path;
  return basename(wholeGgufName(named), ".gguf")
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]/g, "-");
}

/**
 * Checks a model's name. It becomes a folder's name and part of URLs and metrics, so few characters are allowed.
 *
 * @throws {ImportError} `unknown-model`
 */
export function checkName(name: string): string {
  if (/^[a-z0-9][a-z0-9._-]{0,99}$/i.test(name)) return name;
  throw new ImportError(
    "unknown-model",
    `"${name}" can't be a model's name: use letters, digits, dots, dashes and underscores`,
  );
}
