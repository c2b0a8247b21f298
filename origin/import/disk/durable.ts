/**
 * Renames that survive a power failure: everything under the new name is on the disk before the name is. Otherwise a machine
 * could restart with a model whose manifest exists and whose weights do not. Does not depend on models.
 *
 * Source: POSIX, fsync; fsync(2): a new name is only durable once its folder is synced too.
 */
import { closeSync, fsyncSync, openSync, readdirSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

/** Renames a file, or a folder with the files in it, after syncing every byte to the disk; then syncs the new name. */
export function renameDurably(from: string, to: string): void {
  if (statSync(from).isDirectory()) {
    for (const file of readdirSync(from)) sync(join(from, file));
  }
  sync(from);
  renameSync(from, to);
  sync(dirname(to));
}

function sync(path: string): void {
  // Windows can't open folders.
  if (process.platform === "win32" && statSync(path).isDirectory()) return;
  const file = openSync(path, "r");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
