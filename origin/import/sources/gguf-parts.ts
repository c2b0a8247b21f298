/**
 * Names of split GGUF files, as `llama-gguf-split` makes them: `some-00001-of-00003.gguf`. Opens no file: `gguf.ts` checks that
 * the parts belong together.
 *
 * Source: llama.cpp, `llama_split_path` and tools/gguf-split.
 */

import { existsSync } from "node:fs";
import { ImportError } from "../../manifest/import-error.ts";

/** The parsed name of a part. */
interface PartName {
  /** The path before the number. */
  readonly stem: string;
  /** Number of parts. */
  readonly count: number;
  readonly extension: string;
}

/** Upper bound of parts, which are all open at once. No model has so many. */
const PARTS_MAX = 500;

function parsePart(path: string): PartName | undefined {
  const match = /^(.*)-(\d{5})-of-(\d{5})(\.gguf)$/is.exec(path);
  if (match === null) return undefined;
  const [, stem = "", number, total, extension = ""] = match;
  const count = Number(total);
  const isValid = Number(number) >= 1 && Number(number) <= count && count <= PARTS_MAX;
  return isValid ? { stem, count, extension } : undefined;
}

/**
 * The paths of all parts, in order, if `path` is one of them.
 *
 * @returns `path` alone if it is not the name of a part
 */
export function ggufParts(path: string): readonly string[] {
  const part = parsePart(path);
  if (part === undefined) return [path];
  return Array.from(
    { length: part.count },
    (_, index) => `${part.stem}-${fiveDigits(index + 1)}-of-${fiveDigits(part.count)}${part.extension}`,
  );
}

function fiveDigits(number: number): string {
  return String(number).padStart(5, "0");
}

/**
 * The paths of all parts. Checks that they exist, except for `path` itself.
 *
 * @throws {ImportError} `unreadable-file` if a part is missing
 */
export function presentGgufParts(path: string): readonly string[] {
  const parts = ggufParts(path);
  const missing = parts.find((part) => part !== path && !existsSync(part));
  if (missing === undefined) return parts;
  throw new ImportError("unreadable-file", `${path} is one of ${parts.length} parts, but ${missing} is missing`);
}

/** The name of the whole file, without the part's number: `some.gguf`. */
export function wholeGgufName(path: string): string {
  const part = parsePart(path);
  return part === undefined ? path : `${part.stem}${part.extension}`;
}
