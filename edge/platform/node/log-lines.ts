/**
 * Log lines on standard output, several in one write: a write a line costs a system call a request. What is left is
 * written when the process ends.
 */
import { writeSync } from "node:fs";

/** How late a line may be. */
const DELAY_MS = 20;
/** Written at once beyond it. */
const CHARS_MAX = 65_536;

export interface LogLines {
  readonly log: (line: string) => void;
  /** Writes what is waiting. */
  readonly flush: () => void;
}

export function createLogLines(): LogLines {
  let waiting = "";
  let timer: NodeJS.Timeout | undefined;
  const flush = (): void => {
    clearTimeout(timer);
    timer = undefined;
    const text = waiting;
    waiting = "";
    if (text !== "") write(text);
  };
  return {
    flush,
    log: (line) => {
      waiting += `${line}\n`;
      if (waiting.length >= CHARS_MAX) flush();
      else timer ??= setTimeout(flush, DELAY_MS);
    },
  };
}

function write(text: string): void {
  try {
    writeSync(process.stdout.fd, text);
  } catch (error) {
    // A pipe whose reader is slow or gone must not take the edge with it; the lines are lost.
    if (!["EAGAIN", "EPIPE"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}
