/** Whether there is room on the disk for what is about to be written. Knows nothing of what that is. */
import { statfsSync } from "node:fs";
import { ImportError } from "../../manifest/import-error.ts";
import { formatBytes } from "../progress/transfer-rate.ts";

/** What is left to others, and to small files that nobody counts: bytes. */
const SPARE_BYTES = 64 * 2 ** 20;

/** How many bytes may be written to the file system that a folder is on. */
export type FreeBytes = (folder: string) => number;

const fileSystemBytes: FreeBytes = (folder) => {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
};

/** @throws {ImportError} `disk-full`, before anything is written that could not be kept */
export function requireRoom(
  bytes: number,
  { name, folder, freeBytes = fileSystemBytes }: { name: string; folder: string; freeBytes?: FreeBytes | undefined },
): void {
  const needed = bytes + SPARE_BYTES;
  const free = freeBytes(folder);
  if (needed <= free) return;
  const what = `${name} needs ${formatBytes(needed)} in ${folder}, where ${formatBytes(free)} are free`;
  throw new ImportError("disk-full", what);
}
