/**
 * Chooses the files of a repository that make up the requested model: one GGUF file, or a safetensors checkpoint with its
 * configuration and tokenizer. Looks at names only, never into files.
 */
import { ImportError } from "../../manifest/import-error.ts";
import { ggufParts, wholeGgufName } from "../sources/gguf-parts.ts";
import type { Listing, RemoteFile } from "./listing.ts";

export const SINGLE_WEIGHTS = "model.safetensors";
export const WEIGHTS_INDEX = "model.safetensors.index.json";
export const SHARD = /^model-\d{5}-of-\d{5}\.safetensors$/;

/** Files beside the weights that describe the model. The first one is required. */
export const COMPANIONS = [
  "config.json",
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "chat_template.jinja",
  "chat_template.json",
  "tokenizer.model",
  "vocab.txt",
  "modules.json",
  "sentence_bert_config.json",
  "config_sentence_transformers.json",
  "1_Pooling/config.json",
] as const;

/** Most names that an error message lists. */
const NAMES_SHOWN = 12;

/**
 * Chooses a model's files.
 *
 * @param choice - a path in the repository, or the name of a quantization such as `Q8_0`; default the checkpoint
 * @throws {ImportError} `unknown-model`; the message lists the available files
 */
export function chooseFiles({ location, files }: Listing, choice: string | undefined): readonly RemoteFile[] {
  const ggufs = files.filter(({ path }) => /\.gguf$/i.test(path));
  if (choice !== undefined) return withParts(location, chooseOne(location, files, ggufs, choice), ggufs);
  const checkpoint = chooseCheckpoint(location, files);
  if (checkpoint !== undefined) return checkpoint;
  const [only, ...others] = ggufs;
  if (only === undefined) {
    throw new ImportError("unknown-model", `${location} has neither ${SINGLE_WEIGHTS} nor a .gguf file`);
  }
  if (others.length > 0 && !areOneModel(ggufs)) {
    throw new ImportError(
      "unknown-model",
      `${location} has several .gguf files; add a colon and one of these to the name: ${names(ggufs)}`,
    );
  }
  return withParts(location, only, ggufs);
}

function chooseOne(
  location: string,
  files: readonly RemoteFile[],
  ggufs: readonly RemoteFile[],
  choice: string,
): RemoteFile {
  const exact = files.find(({ path }) => path === choice);
  if (exact !== undefined) return exact;
  const matching = ggufs.filter(({ path }) => namesQuantization(path, choice));
  const [first, ...others] = matching;
  if (first === undefined) {
    const available = ggufs.length === 0 ? "no .gguf files" : names(ggufs);
    throw new ImportError("unknown-model", `${location} has no file "${choice}"; it has ${available}`);
  }
  if (others.length === 0 || areOneModel(matching)) return first;
  throw new ImportError("unknown-model", `"${choice}" matches several files of ${location}: ${names(matching)}`);
}

/** Whether a file name has the quantization as a part of its own: `Q4_K` does not match `model-Q4_K_M.gguf`. */
function namesQuantization(path: string, choice: string): boolean {
  const escaped = choice.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`);
  return new RegExp(`(^|[-./])${escaped}([-./]|$)`, "i").test(path);
}

/** Whether all files are parts of the same model. */
function areOneModel(files: readonly RemoteFile[]): boolean {
  return new Set(files.map(({ path }) => wholeGgufName(path))).size === 1;
}

/** The file, or all parts if it is one part of a split GGUF. */
function withParts(location: string, file: RemoteFile, ggufs: readonly RemoteFile[]): readonly RemoteFile[] {
  const byPath = new Map([file, ...ggufs].map((each) => [each.path, each]));
  return ggufParts(file.path).map((path) => {
    const part = byPath.get(path);
    if (part !== undefined) return part;
    throw new ImportError(
      "unknown-model",
      `${location} has ${file.path}, which is one of several parts, but not ${path}`,
    );
  });
}

function chooseCheckpoint(location: string, files: readonly RemoteFile[]): readonly RemoteFile[] | undefined {
  const byPath = new Map(files.map((file) => [file.path, file]));
  const shards = files.filter(({ path }) => SHARD.test(path));
  const index = byPath.get(WEIGHTS_INDEX);
  const single = byPath.get(SINGLE_WEIGHTS);
  // Some repositories have both; the single file is simpler.
  const weights = single !== undefined ? [single] : index !== undefined ? [index, ...shards] : [];
  if (weights.length === 0) return undefined;
  const [config, ...others] = COMPANIONS.map((name) => byPath.get(name));
  if (config === undefined)
    throw new ImportError("unsupported-model", `${location} has weights but no ${COMPANIONS[0]}`);
  return [config, ...others.filter((file) => file !== undefined), ...weights];
}

function names(files: readonly RemoteFile[]): string {
  const shown = files.slice(0, NAMES_SHOWN).map(({ path }) => path);
  return files.length > NAMES_SHOWN ? `${shown.join(", ")} and ${files.length - NAMES_SHOWN} more` : shown.join(", ");
}
