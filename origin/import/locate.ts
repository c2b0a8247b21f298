/**
 * What a model's name stands for: a GGUF file or a safetensors checkpoint, something to fetch, or an imported folder, and
 * where its folder is. Apart from the import, because the origin looks a model up and must not load the machinery that
 * makes one.
 */
import { existsSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import type { ImportConfig } from "./config.ts";
import { ImportError } from "../manifest/import-error.ts";
import { wholeGgufName } from "./sources/gguf-parts.ts";
import { parseWanted, type Wanted, wantedModelName } from "./fetch/wanted.ts";

/** What a file of weights ends with. */
const WEIGHTS = /\.(gguf|safetensors|safetensors\.index\.json)$/i;
const CHECKPOINT_CONFIG = "config.json";

/** Where the weights come from: a file or a checkpoint's folder that is there, or something to be fetched. */
export type Source =
  | { readonly kind: "file"; readonly path: string }
  | { readonly kind: "fetch"; readonly wanted: Wanted };

/**
 * Where the import puts a model that is named like this and given no name of its own, whether or not it is there.
 *
 * @param model - what `COLDPATH_MODEL` may be
 * @throws {ImportError} when the file is not there, or its name can't be a model's
 */
export function locateModel({ model, modelsDir }: { readonly model: string; readonly modelsDir: string }): string {
  const source = findSource(model);
  return join(modelsDir, source === undefined ? model : checkName(defaultName(source)));
}

/** A model as it was named, and the folder it is in, or is going to be. */
export interface LocatedModel {
  readonly model: string;
  readonly folder: string;
}

/**
 * Where the models of a list are, in its order.
 *
 * @throws {ImportError} as `locateModel` does; `unknown-model` where two names stand for one folder
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
      const both = `"${other}" and "${model}" are both called ${basename(folder)}`;
      throw new ImportError("unknown-model", `COLDPATH_MODEL: ${both}; import one with another --name, and name it so`);
    }
    byFolder.set(folder, model);
  }
  return [...byFolder].map(([folder, model]) => ({ model, folder }));
}

/**
 * The source that a name or path stands for; `undefined` where it can only be an imported model.
 *
 * @throws {ImportError} `unreadable-file`
 */
export function findSource(model: string): Source | undefined {
  if (isLocal(model)) return { kind: "file", path: resolve(model) };
  const wanted = parseWanted(model);
  // `models/some.gguf` is a file that is missing rather than a repository of somebody called "models".
  const isRepository = wanted !== undefined && (!WEIGHTS.test(model) || model.includes(":"));
  if (isRepository) return { kind: "fetch", wanted };
  if (WEIGHTS.test(model)) throw new ImportError("unreadable-file", `there is no file ${resolve(model)}`);
  if (!/^\.{0,2}\/|\/$/.test(model)) return undefined;
  throw new ImportError("unreadable-file", `${resolve(model)} ${whyNoSource(model)}`);
}

function whyNoSource(path: string): string {
  if (isFolder(path)) return `has no ${CHECKPOINT_CONFIG}: it is no checkpoint`;
  if (!existsSync(path)) return "is not there";
  return "can't be imported: it is neither a .gguf or .safetensors file nor a checkpoint's folder";
}

/** A file of weights, or a folder with a checkpoint's configuration: the folder of an imported model has none. */
function isLocal(path: string): boolean {
  if (WEIGHTS.test(path)) return statSync(path, { throwIfNoEntry: false })?.isFile() ?? false;
  return isFolder(path) && statSync(join(path, CHECKPOINT_CONFIG), { throwIfNoEntry: false }) !== undefined;
}

function isFolder(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
}

/** The imported model's name, where none is given. */
export function defaultName(source: Source): string {
  if (source.kind === "fetch") return wantedModelName(source.wanted);
  const { path } = source;
  // Every checkpoint's file is called "model": its folder has the name.
  const named = /\.safetensors(\.index\.json)?$/.test(path) ? dirname(path) : path;
  return basename(wholeGgufName(named), ".gguf")
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]/g, "-");
}

/**
 * A name is a folder's name and part of URLs and metrics, so it is kept simple.
 *
 * @throws {ImportError} `unknown-model`
 */
export function checkName(name: string): string {
  if (/^[a-z0-9][a-z0-9._-]{0,99}$/i.test(name)) return name;
  throw new ImportError(
    "unknown-model",
    `"${name}" can't be a model's name: letters, digits, dots, dashes, underscores`,
  );
}
