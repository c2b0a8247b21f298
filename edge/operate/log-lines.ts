/**
 * Log lines, several in one write: a `console.log` on workerd is a system call and took a quarter of a hit's time. Knows
 * nothing of what is in them.
 *
 * Decision: on Cloudflare the lines of several requests come in one message, under the request that wrote it. Each line
 * has its own request's id.
 */
import type { Platform } from "../platform/platform.ts";

/** How late a line may be. */
const DELAY_MS = 100;
/** Written at once beyond it; a message on Cloudflare may have 256 KB. */
const LINES_MAX = 64;

/** @param write - takes one line or several, the last without its line break */
export function createLogLines(write: (text: string) => void): Platform["log"] {
  let waiting: string[] = [];
  const flush = (): void => {
    const lines = waiting;
    waiting = [];
    if (lines.length > 0) write(lines.join("\n"));
  };
  return (line, waitUntil) => {
    waiting.push(line);
    if (waiting.length >= LINES_MAX) flush();
    // The first one sees to it that the last is written, too.
    else if (waiting.length === 1) waitUntil(new Promise<void>((resolve) => setTimeout(resolve, DELAY_MS)).then(flush));
  };
}
