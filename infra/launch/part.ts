/**
 * One process of the stack: started in a group of its own, so that a Ctrl-C in the terminal reaches the launcher alone
 * and the parts stop in order; its output goes to a log file. Knows nothing of what the process does.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync } from "node:fs";
import { LaunchFailure } from "./failure.ts";
import type { Guard } from "./guard.ts";

/** How many lines of a log are worth showing. */
const LOG_TAIL_LINES = 12;

export interface PartOptions {
  /** As the operator reads it: "origin", "Redis". */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Written to standard input, which is then closed: for what must not be seen in a process list. */
  readonly input?: string;
  /** An open file descriptor that the process gets as its own number 3; ours may be closed after the start. */
  readonly descriptor?: number;
  /**
   * The log file, overwritten; `terminal` shows standard error, where progress and complaints go; `inherit` is for a
   * service whose log lines are this process' own.
   */
  readonly output: { readonly file: string } | "terminal" | "inherit";
  readonly guard: Guard;
}

/** How a process ended. */
export interface PartExit {
  readonly name: string;
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** The last lines of its log, empty where the terminal had them. */
  readonly logTail: string;
}

export interface Part {
  readonly name: string;
  readonly pid: number;
  /** Resolves when the process has ended, however it did. */
  readonly exited: Promise<PartExit>;
  /** SIGTERM, and SIGKILL to its whole group when it has not ended after the grace. */
  stop(graceMs: number): Promise<void>;
  /** Ends the whole group at once. */
  kill(): void;
}

/**
 * Starts one process.
 *
 * @throws {LaunchFailure} when the program can't be started at all
 */
export async function startPart(options: PartOptions): Promise<Part> {
  const { name, guard, output } = options;
  const log = typeof output === "string" ? undefined : openSync(output.file, "w", 0o600);
  const standardOutput = log ?? (output === "inherit" ? "inherit" : "ignore");
  const child = spawn(options.command, options.args, {
    env: options.env,
    cwd: options.cwd,
    detached: true,
    stdio: [
      options.input === undefined ? "ignore" : "pipe",
      standardOutput,
      log ?? "inherit",
      ...(options.descriptor === undefined ? [] : [options.descriptor]),
    ],
  });
  if (log !== undefined) closeSync(log);
  const { pid } = child;
  if (pid !== undefined) guard.watch(pid);

  const exited = new Promise<PartExit>((resolve) => {
    child.once("exit", (code, signal) => {
      // Whatever it had started itself must not outlive it.
      if (pid !== undefined) signalGroup(pid, "SIGKILL");
      if (pid !== undefined) guard.release(pid);
      resolve({ name, code, signal, logTail: typeof output === "string" ? "" : tailOf(output.file) });
    });
  });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", (cause) =>
      reject(new LaunchFailure(`${name} could not be started: ${cause.message}`, { cause })),
    );
  });
  if (pid === undefined) throw new LaunchFailure(`${name} could not be started`);
  // A process that ends before it has read its input says so by its exit.
  child.stdin?.on("error", () => {}).end(options.input);

  const kill = () => signalGroup(pid, "SIGKILL");
  return {
    name,
    pid,
    exited,
    kill,
    stop: async (graceMs) => {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
      const timer = setTimeout(kill, graceMs);
      await exited;
      clearTimeout(timer);
    },
  };
}

/** "ended with exit code 1" or "was ended by SIGKILL", for a sentence. */
export function describeExit(exit: PartExit): string {
  return exit.signal === null ? `ended with exit code ${exit.code}` : `was ended by ${exit.signal}`;
}

function signalGroup(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-pid, signal);
  } catch (error) {
    // The group is already gone.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

function tailOf(file: string): string {
  return readFileSync(file, "utf8").trimEnd().split("\n").slice(-LOG_TAIL_LINES).join("\n");
}
