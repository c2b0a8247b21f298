/**
 * A GGUF in several files, as `llama-gguf-split` names them: `some-00001-of-00003.gguf`. Opens none; that the files
 * belong together is for their reader to see.
 *
 * Source: llama.cpp, `llama_split_path` and tools/gguf-split.
 */

import { existsSync } from "node:fs";
import { ImportError } from "../../manifest/import-error.ts";

/** A name of one part, and of how many. */
interface Part {
  /** What comes before the number, its folder included. */
  readonly stem: string;
  readonly count: number;
  readonly ending: string;
}

/** More parts than any model has; all of them are open at once. */
const PARTS_MAX = 500;

function parsePart(path: string): Part | undefined {
  const match = /^(.*)-(\d{5})-of-(\d{5})(\.gguf)$/is.exec(path);
  if (match === null) return undefined;
  const [, stem = "", number, total, ending = ""] = match;
  const count = Number(total);
  const isSound = Number(number) >= 1 && Number(number) <= count && count <= PARTS_MAX;
  return isSound ? { stem, count, ending } : undefined;
}

/**
 * The names of all parts, in order, of which `path` is one.
 *
 * @returns `path` alone where it does not have a part's name
 */
export function ggufParts(path: string): readonly string[] {
  const part = parsePart(path);
  if (part === undefined) return [path];
  return Array.from(
    { length: part.count },
    (_, index) => `${part.stem}-${fiveDigits(index + 1)}-of-${fiveDigits(part.count)}${part.ending}`,
  );
}

function fiveDigits(number: number): string {
  return String(number).padStart(5, "0");
}

/**
 * The paths of all parts, each of which is there.
 *
 * @throws {ImportError} `unreadable-file` where a part is missing; whether `path` itself is there is not looked at
 */
export function presentGgufParts(path: string): readonly string[] {
  const parts = ggufParts(path);
  const missing = parts.find((part) => part !== path && !existsSync(part));
  if (missing === undefined) return parts;
  throw new ImportError("unreadable-file", `${path} is one of ${parts.length} parts, and ${missing} is not there`);
}

/** The name without what makes it one of several: `some.gguf`. */
export function wholeGgufName(path: string): string {
  const part = parsePart(path);
  return part === undefined ? path : `${part.stem}${part.ending}`;
}
