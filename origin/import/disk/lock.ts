/**
 * A lock file with the process id of its owner. The lock of a dead owner, for example one killed during a download, is taken
 * over. Works between processes of one machine only.
 */
import { randomUUID } from "node:crypto";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { ImportError } from "../../manifest/import-error.ts";

const POLL_MS = 100;
/**
 * Polls after which the writer of an empty lock file counts as dead. A live writer leaves it empty only for the microseconds
 * between creating and writing it.
 */
const OWNERLESS_POLLS_MAX = 20;

export interface LockOptions {
  /** Milliseconds to wait for another owner. */
  readonly waitMs: number;
  /** Called once, if there is another owner to wait for. */
  readonly onWait?: (ownerPid: number) => void;
}

/**
 * Runs `action` while holding the lock at `path`.
 *
 * @throws {ImportError} `busy` if another process still holds the lock after `waitMs`
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
        `process ${owner ?? "unknown"} still holds ${path} after ${waitMs} ms; stop that process and try again`,
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

/** Undefined while the owner is between creating and writing the file, or just after it released the lock. */
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
    // EPERM: the process exists but belongs to another user.
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/**
 * Removes a dead owner's lock. Two waiting processes may both have read the dead owner, and the slower one could delete the
 * lock that the faster one has just taken. So the file is first moved aside, which only one of them can do, and read again.
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
