/**
 * What a rename makes appear is on the disk before its name is: a machine that loses its power must not come back with a
 * model whose page is there and whose weights are not. Knows no models.
 *
 * Source: POSIX, fsync; fsync(2): a new name needs its folder synced, too.
 */
import { closeSync, fsyncSync, openSync, readdirSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";

/** Renames a file, or a folder with the files in it, once every byte of it is on the disk; then the name is, too. */
export function renameDurably(from: string, to: string): void {
  if (statSync(from).isDirectory()) {
    for (const file of readdirSync(from)) sync(join(from, file));
  }
  sync(from);
  renameSync(from, to);
  sync(dirname(to));
}

function sync(path: string): void {
  // Windows opens no folders.
  if (process.platform === "win32" && statSync(path).isDirectory()) return;
  const file = openSync(path, "r");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
