/**
 * Sees to it that no part outlives the launcher, even when the launcher is killed with SIGKILL and can clean up
 * nothing. A shell of its own session waits on a pipe from the launcher: when the pipe closes, it kills the process
 * groups it was last told of. Chosen over `setpriv --pdeathsig`, which is Linux alone and follows the thread that
 * forked, and over a disconnect handler in each part, which Redis and workerd don't have.
 */
import { spawn } from "node:child_process";

/**
 * Each line is the whole list, so the guard keeps no books and a repeated line does no harm. `kill -s KILL --`, because
 * dash takes the `--` of `kill -KILL --` for a process.
 */
const SCRIPT = `
trap '' HUP INT TERM
groups=
while read -r line; do groups=$line; done
for group in $groups; do kill -s KILL -- "-$group"; done
exit 0
`;

export interface Guard {
  /** Takes over a process that leads its own group. */
  watch(pid: number): void;
  /** Forgets a process that has ended, before its number can be used again. */
  release(pid: number): void;
  /** Kills what is still watched. */
  close(): void;
}

/** Starts the guard. */
export function startGuard(): Guard {
  const shell = spawn("sh", ["-c", SCRIPT], { detached: true, stdio: ["pipe", "ignore", "ignore"] });
  // Without a guard the parts still run and stop as usual; only a SIGKILL would leave them behind.
  shell.on("error", () => {});
  shell.stdin.on("error", () => {});
  shell.unref();
  const groups = new Set<number>();
  const tell = () => shell.stdin.write(`${[...groups].join(" ")}\n`);
  return {
    watch: (pid) => {
      groups.add(pid);
      tell();
    },
    release: (pid) => {
      groups.delete(pid);
      tell();
    },
    close: () => {
      shell.stdin.end();
    },
  };
}
