/**
 * CPU time of a process, by the kernel's own count: on a shared machine it tells more than requests a second, because the
 * time in which others ran is not in it. And how long it was kept from a core: what a tail of latencies is to be read by.
 * Linux only.
 */
import { readFileSync } from "node:fs";

/** Linux counts in USER_HZ, 100 a second on every architecture that Node runs on. */
const TICK_MICROSECONDS = 10_000;

/** Microseconds since the process began, user and system time of all its threads; NaN where there is no such process. */
export function cpuMicroseconds(pid: number | undefined): number {
  if (pid === undefined) return Number.NaN;
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return Number.NaN;
  }
  // The second field, the program's name in brackets, may hold anything; utime and stime are the 14th and 15th.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_MICROSECONDS;
}

/**
 * Milliseconds since it began in which the process' main thread could have run and another had the core; NaN where there
 * is no such process. Node and workerd handle requests on that thread.
 *
 * Source: the Linux kernel's Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat.
 */
export function waitedForCoreMs(pid: number): number {
  try {
    const [, waitedNs] = readFileSync(`/proc/${pid}/task/${pid}/schedstat`, "utf8").split(" ");
    return Number(waitedNs) / 1e6;
  } catch {
    return Number.NaN;
  }
}
