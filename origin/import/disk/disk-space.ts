/** Checks that the disk has enough space before anything is written. Does not depend on what is written. */
import { statfsSync } from "node:fs";
import { ImportError } from "../../manifest/import-error.ts";
import { formatBytes } from "../progress/transfer-rate.ts";

/** Bytes that stay free for other programs and for small files that are not counted. */
const SPARE_BYTES = 64 * 2 ** 20;

/** Returns how many bytes can be written to the file system of a folder. */
export type FreeBytes = (folder: string) => number;

const fileSystemBytes: FreeBytes = (folder) => {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
};

/** @throws {ImportError} `disk-full` if less than `bytes` and a reserve are free */
export function requireSpace(
  bytes: number,
  { name, folder, freeBytes = fileSystemBytes }: { name: string; folder: string; freeBytes?: FreeBytes | undefined },
): void {
  const needed = bytes + SPARE_BYTES;
  const free = freeBytes(folder);
  if (needed <= free) return;
  const reason = `${name} needs ${formatBytes(needed)} in ${folder}, but only ${formatBytes(free)} are free`;
  throw new ImportError("disk-full", reason);
}
