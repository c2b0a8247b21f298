/**
 * How long work shows itself on a terminal: a bar that moves, or, where nobody watches (a pipe, a log), a plain line now
 * and then. Knows no download and no import.
 */
import { SingleBar } from "cli-progress";

/** What the import's steps report to; the step decides when, the implementation how. */
export interface Progress {
  /** One line that stays. */
  line(text: string): void;
  /** Begins a task of `total` units. Ends the task before it. */
  begin(task: string, total: number): void;
  update(done: number): void;
  /** Ends the task; without one it does nothing. */
  end(): void;
}

/** A plain line is written at most this often. */
const PLAIN_INTERVAL_MS = 5_000;

/** Reports on a stream: standard error, so that standard output stays the command's own. */
export function reportProgress(stream: NodeJS.WriteStream, now: () => number = Date.now): Progress {
  return stream.isTTY ? barProgress(stream) : plainProgress(stream, now);
}

/** Reports to nobody. */
export const silentProgress: Progress = { line: () => {}, begin: () => {}, update: () => {}, end: () => {} };

function barProgress(stream: NodeJS.WriteStream): Progress {
  let bar: SingleBar | undefined;
  const end = () => {
    bar?.stop();
    bar = undefined;
  };
  return {
    line: (text) => {
      end();
      stream.write(`${text}\n`);
    },
    begin: (task, total) => {
      end();
      bar = new SingleBar({ stream, format: `${task} [{bar}] {percentage}% | {eta_formatted}`, hideCursor: true });
      bar.start(total, 0);
    },
    update: (done) => bar?.update(done),
    end,
  };
}

function plainProgress(stream: NodeJS.WriteStream, now: () => number): Progress {
  let task = "";
  let total = 0;
  let lastMs = 0;
  return {
    line: (text) => void stream.write(`${text}\n`),
    begin: (name, count) => {
      task = name;
      total = count;
      lastMs = now();
    },
    update: (done) => {
      if (now() - lastMs < PLAIN_INTERVAL_MS) return;
      lastMs = now();
      stream.write(`${task}: ${Math.floor((100 * done) / total)} %\n`);
    },
    end: () => {},
  };
}
