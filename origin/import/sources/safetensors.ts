/**
 * A checkpoint in Hugging Face's layout: a folder with `config.json` and the weights in one safetensors file, or in several
 * that `model.safetensors.index.json` lists. Does not depend on architectures.
 *
 * Source: https://huggingface.co/docs/safetensors, https://huggingface.co/docs/transformers/big_models
 */
import { readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import { ImportError, shown } from "../../manifest/import-error.ts";
import { ReadableFile } from "./readable-file.ts";
import { readSafetensorsHeader } from "./safetensors-header.ts";
import { type StoredTensor, tensorReader } from "./stored-tensor.ts";
import { parseStrictJson } from "./strict-json.ts";
import type { Metadata, TensorFile } from "./tensor-file.ts";

const INDEX_FILE = "model.safetensors.index.json";
const WEIGHTS_FILE = "model.safetensors";
const CONFIG_FILE = "config.json";
/** Upper bound of a text file. A tokenizer of 260,000 tokens takes a third of it. */
const TEXT_BYTES_MAX = 100_000_000;
/** Upper bound of shards, which are all open at once. */
const SHARDS_MAX = 500;

const indexSchema = z.object({ weight_map: z.record(z.string(), z.string()) });

/** The files of a checkpoint's weights, in one folder. */
interface CheckpointFiles {
  readonly folder: string;
  /** Names of the safetensors files. Without an index there is one. */
  readonly weights: readonly string[];
  /** File name by tensor; undefined without an index. */
  readonly index: ReadonlyMap<string, string> | undefined;
}

/**
 * Opens a checkpoint and checks that all of its tensors are complete.
 *
 * @param path - the folder, a safetensors file in it, or the index
 * @throws {ImportError} `unreadable-file`, `invalid-file`, `truncated-file`; `unsupported-model` for a checkpoint that is
 * already quantized
 */
export function openSafetensors(path: string): TensorFile {
  const found = findCheckpoint(path);
  const { folder } = found;
  const readText = (name: string) => readTextFile(join(folder, name));
  const metadata = readConfig(folder, readText(CONFIG_FILE));
  const files: ReadableFile[] = [];
  const close = () => {
    for (const file of files) file[Symbol.dispose]();
  };
  try {
    const tensors = new Map<string, StoredTensor>();
    for (const name of found.weights) {
      const file = new ReadableFile(join(folder, name));
      files.push(file);
      addTensors(tensors, file, found.index);
    }
    checkIndex(folder, tensors, found.index);
    return {
      format: "safetensors",
      path: folder,
      metadata,
      ...tensorReader(folder, tensors),
      readText,
      [Symbol.dispose]: close,
    };
  } catch (error) {
    close();
    throw error;
  }
}

/**
 * Finds the files of a checkpoint's weights, and their index, without opening the weights.
 *
 * @param path - as for `openSafetensors`
 * @throws {ImportError} `unreadable-file`, `invalid-file`
 */
export function weightFiles(path: string): { readonly folder: string; readonly names: readonly string[] } {
  const { folder, weights, index } = findCheckpoint(path);
  const missing = weights.find((name) => statSync(join(folder, name), { throwIfNoEntry: false }) === undefined);
  if (missing !== undefined) {
    throw new ImportError("unreadable-file", `${join(folder, missing)} can't be opened: there is no such file`);
  }
  return { folder, names: index === undefined ? weights : [INDEX_FILE, ...weights] };
}

function findCheckpoint(path: string): CheckpointFiles {
  const isFolder = statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;
  const folder = isFolder ? path : dirname(path);
  const indexText = readTextFile(join(folder, INDEX_FILE));
  const index = indexText === undefined ? undefined : readIndex(join(folder, INDEX_FILE), indexText);
  const shards = index === undefined ? [] : [...new Set(index.values())].toSorted();
  if (shards.length > SHARDS_MAX) {
    throw new ImportError(
      "invalid-file",
      `${folder} has weights in ${shards.length} files; the limit is ${SHARDS_MAX}`,
    );
  }
  if (index !== undefined && (isFolder || shards.includes(basename(path)) || basename(path) === INDEX_FILE)) {
    return { folder, weights: shards, index };
  }
  return { folder, weights: [isFolder ? onlyWeights(folder) : basename(path)], index: undefined };
}

/** The single safetensors file of a folder without an index. */
function onlyWeights(folder: string): string {
  const names = readdirSync(folder).filter((name) => name.endsWith(".safetensors"));
  const [first] = names;
  if (names.includes(WEIGHTS_FILE)) return WEIGHTS_FILE;
  if (first !== undefined && names.length === 1) return first;
  const reason = first === undefined ? "no safetensors file" : `${names.length} safetensors files but no ${INDEX_FILE}`;
  throw new ImportError("unreadable-file", `${folder} has ${reason}`);
}

function readIndex(path: string, text: string): ReadonlyMap<string, string> {
  const parsed = indexSchema.safeParse(parseFile(path, text));
  if (!parsed.success) throw new ImportError("invalid-file", `${path} has no weight_map of tensors to files`);
  const map = new Map(Object.entries(parsed.data.weight_map));
  for (const file of map.values()) {
    // The index decides which files are opened, so it must not lead out of its folder.
    if (file.endsWith(".safetensors") && /^[^/\\\0]+$/.test(file)) continue;
    throw new ImportError("invalid-file", `${path} names ${shown(file)}, which is not a safetensors file beside it`);
  }
  if (map.size === 0) throw new ImportError("invalid-file", `${path} names no tensors`);
  return map;
}

function readConfig(folder: string, text: string | undefined): Metadata {
  if (text === undefined) throw new ImportError("unreadable-file", `${folder} has no ${CONFIG_FILE}`);
  const path = join(folder, CONFIG_FILE);
  const config = parseFile(path, text);
  if (typeof config !== "object" || config === null || Array.isArray(config)) {
    throw new ImportError("invalid-file", `${path} is not a JSON object`);
  }
  const { quantization_config: quantization } = config as { readonly quantization_config?: unknown };
  if (quantization === undefined || quantization === null) return { ...config };
  const { quant_method: method = "another tool" } = quantization as { readonly quant_method?: unknown };
  throw new ImportError(
    "unsupported-model",
    `${folder} is already quantized, by ${shown(method)}; import the original checkpoint instead`,
  );
}

function addTensors(
  tensors: Map<string, StoredTensor>,
  file: ReadableFile,
  index: ReadonlyMap<string, string> | undefined,
): void {
  for (const [name, tensor] of readSafetensorsHeader(file)) {
    if (index !== undefined && index.get(name) !== basename(file.path)) {
      const elsewhere = index.get(name) ?? "no file";
      throw new ImportError(
        "invalid-file",
        `${file.path} has the tensor ${name}, but ${INDEX_FILE} says it is in ${elsewhere}`,
      );
    }
    tensors.set(name, tensor);
  }
}

function checkIndex(
  folder: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  index: ReadonlyMap<string, string> | undefined,
): void {
  for (const [name, file] of index ?? []) {
    if (!tensors.has(name)) throw new ImportError("invalid-file", `${join(folder, file)} lacks the tensor ${name}`);
  }
}

/** Reads the text of a file of limited size; undefined if it does not exist. */
function readTextFile(path: string): string | undefined {
  if (statSync(path, { throwIfNoEntry: false }) === undefined) return undefined;
  using file = new ReadableFile(path);
  if (file.size > TEXT_BYTES_MAX) {
    throw new ImportError("invalid-file", `${path} has ${file.size} bytes; the limit is ${TEXT_BYTES_MAX}`);
  }
  return new TextDecoder().decode(file.read(0, file.size));
}

function parseFile(path: string, text: string): unknown {
  try {
    return parseStrictJson(text);
  } catch (cause) {
    const [reason = ""] = (cause instanceof Error ? cause.message : String(cause)).split("\n");
    throw new ImportError("invalid-file", `${path} is not valid JSON: ${reason}`, { cause });
  }
}
