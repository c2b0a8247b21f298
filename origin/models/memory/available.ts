/**
 * How much memory this machine has and can still give, limits of a container included. What is counted as taken but only
 * caches files counts as free: the system gives it up before it refuses anybody memory.
 *
 * Source: proc_meminfo(5) (MemAvailable), Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
 */
import { readFileSync } from "node:fs";
import { freemem, totalmem } from "node:os";

export interface MachineMemory {
  /** Bytes there are, or may be used by this process and those that share its limit. */
  readonly totalBytes: number;
  /** Bytes that can be had now. */
  readonly availableBytes: number;
}

/** On systems that don't say what they could give up, this much of the memory counts as free. */
const ASSUMED_FREE = 0.75;

/** Asks the system. */
export function readMachineMemory(): MachineMemory {
  const total = totalmem();
  const free = process.platform === "darwin" ? total * ASSUMED_FREE : freemem();
  // 0, or more than there is, where there is no limit.
  const limit = process.constrainedMemory();
  if (limit <= 0 || limit >= total) return { totalBytes: total, availableBytes: free };
  const withinLimit = Math.min(limit, process.availableMemory() + readCachedBytes(readText));
  return { totalBytes: limit, availableBytes: Math.min(free, withinLimit) };
}

/**
 * Bytes of files' pages that count against this process's limit, which Node's figure takes for used.
 *
 * @param read - a file's text, `undefined` where there is none
 */
export function readCachedBytes(read: (path: string) => string | undefined): number {
  const own = read("/proc/self/cgroup") ?? "";
  const version1 = /^\d+:(?:[^:]*,)?memory(?:,[^:]*)?:(.*)$/m.exec(own)?.[1];
  const version2 = /^0::(.*)$/m.exec(own)?.[1];
  // A container may see its own group as the root, whatever the path says.
  const places = [
    ...(version1 === undefined ? [] : [`/sys/fs/cgroup/memory${version1}`, "/sys/fs/cgroup/memory"]),
    ...(version2 === undefined ? [] : [`/sys/fs/cgroup${version2}`, "/sys/fs/cgroup"]),
  ];
  for (const place of places) {
    const text = read(`${place}/memory.stat`);
    if (text !== undefined) return sumOf(text, version1 === undefined ? "" : "total_");
  }
  return 0;
}

function sumOf(stat: string, prefix: string): number {
  const counts = ["inactive_file", "active_file"].map(
    (name) => new RegExp(`^${prefix}${name} (\\d+)$`, "m").exec(stat)?.[1],
  );
  return counts.reduce((sum, count) => sum + Number(count ?? 0), 0);
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined;
  }
}
