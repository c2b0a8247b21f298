/**
 * One process at a time: a file that holds the owner's process id. A lock whose owner is dead (killed in the middle of a
 * download) is taken over. Holds among the processes of one machine only.
 */
import { randomUUID } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ImportError } from "../../manifest/import-error.ts";

const POLL_MS = 100;
/** A lock has no owner's id for the microseconds between its two system calls; after so many looks its writer is dead. */
const OWNERLESS_POLLS_MAX = 20;

export interface LockOptions {
  /** How long to wait for another owner. */
  readonly waitMs: number;
  /** Told once, when there is another owner to wait for. */
  readonly onWait?: (ownerPid: number) => void;
}

/**
 * Does `action` while holding the lock at `path`.
 *
 * @throws {ImportError} `busy` when another process still holds it after `waitMs`
 */
export async function withLock<T>(path: string, options: LockOptions, action: () => Promise<T>): Promise<T> {
  await takeLock(path, options);
  try {
    return await action();
  } finally {
    rmSync(path, { force: true });
  }
}

async function takeLock(path: string, { waitMs, onWait }: LockOptions): Promise<void> {
  let ownerlessPolls = 0;
  for (let waitedMs = 0; ; waitedMs += POLL_MS) {
    if (tryWrite(path)) return;
    const owner = readOwner(path);
    ownerlessPolls = owner === undefined ? ownerlessPolls + 1 : 0;
    if (owner === undefined ? ownerlessPolls > OWNERLESS_POLLS_MAX : !isAlive(owner)) {
      removeDead(path, owner);
      ownerlessPolls = 0;
      continue;
    }
    if (owner !== undefined && waitedMs === 0) onWait?.(owner);
    if (waitedMs >= waitMs) {
      throw new ImportError(
        "busy",
        `process ${owner ?? "unknown"} has held ${path} for too long; end it and try again`,
      );
    }
    await sleep(POLL_MS);
  }
}

function tryWrite(path: string): boolean {
  try {
    writeFileSync(path, `${process.pid}`, { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

/** `undefined` while the owner is between creating and writing the file, or has just given it back. */
function readOwner(path: string): number | undefined {
  try {
    const pid = Number(readFileSync(path, "utf8"));
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
  } catch {
    return undefined;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // EPERM: it lives, but belongs to somebody else.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/**
 * Removes a dead owner's lock. Two waiters may both have read the dead owner, and the slower one would remove the faster
 * one's fresh lock: so the file is moved aside first, which only one of them can do, and looked at again.
 */
function removeDead(path: string, owner: number | undefined): void {
  const aside = `${path}.${randomUUID()}`;
  try {
    renameSync(path, aside);
  } catch {
    return;
  }
  if (readOwner(aside) === owner) rmSync(aside, { force: true });
  else renameSync(aside, path);
}
