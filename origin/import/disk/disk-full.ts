/** A disk without room, told apart from what else can fail while something is written. */
import { ImportError } from "../../manifest/import-error.ts";

/** The codes of a full disk, a used-up quota and a limit on files' sizes. */
const FULL = new Set<unknown>(["ENOSPC", "EDQUOT", "EFBIG"]);

/**
 * @param kept - what becomes of the part that was written
 * @returns `undefined` where the failure is another one
 */
export function diskFullError(error: unknown, path: string, kept: string): ImportError | undefined {
  if (!(error instanceof Error && "code" in error && FULL.has(error.code))) return undefined;
  return new ImportError("disk-full", `there is no room left for ${path} (${String(error.code)}); ${kept}`, {
    cause: error,
  });
}
