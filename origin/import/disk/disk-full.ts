/** Recognizes a full disk among the errors of writing. */
import { ImportError } from "../../manifest/import-error.ts";

/** Error codes of a full disk, an exhausted quota and a limit on file sizes. */
const FULL = new Set<unknown>(["ENOSPC", "EDQUOT", "EFBIG"]);

/**
 * Makes an import error of a full disk.
 *
 * @param outcome - a clause that says what happened to the part already written
 * @returns `undefined` for any other error
 */
export function diskFullError(error: unknown, path: string, outcome: string): ImportError | undefined {
  if (!(error instanceof Error && "code" in error && FULL.has(error.code))) return undefined;
  return new ImportError("disk-full", `no space left on the disk for ${path} (${String(error.code)}); ${outcome}`, {
    cause: error,
  });
}
