/**
 * How long work shows itself on a terminal: a bar that moves, or, where nobody watches (a pipe, a log), a plain line now
 * and then. Knows no download and no import.
 */
import { SingleBar } from "cli-progress";
import { TransferRate } from "./transfer-rate.ts";

/** What the import's steps report to; the step decides when, the implementation how. */
export interface Progress {
  /** One line that stays. */
  line(text: string): void;
  /** Begins a task of `total` units; of bytes it shows the speed. Ends the task before it. */
  begin(task: string, total: number, unit?: "bytes"): void;
  update(done: number): void;
  /** Ends the task; without one it does nothing. */
  end(): void;
}

/** A plain line is written at most this often. */
const PLAIN_INTERVAL_MS = 5_000;

/** Reports on a stream: standard error, so that standard output stays the command's own. */
export function reportProgress(stream: NodeJS.WriteStream, now: () => number = Date.now): Progress {
  return stream.isTTY ? barProgress(stream, now) : plainProgress(stream, now);
}

/** Reports to nobody. */
export const silentProgress: Progress = { line: () => {}, begin: () => {}, update: () => {}, end: () => {} };

function barProgress(stream: NodeJS.WriteStream, now: () => number): Progress {
  let bar: SingleBar | undefined;
  let total = 0;
  let rate: TransferRate | undefined;
  const end = () => {
    bar?.stop();
    bar = undefined;
  };
  return {
    line: (text) => {
      end();
      stream.write(`${text}\n`);
    },
    begin: (task, count, unit) => {
      end();
      total = count;
      rate = unit === "bytes" ? new TransferRate(now) : undefined;
      const rest = rate === undefined ? "{eta_formatted}" : "{rate}";
      bar = new SingleBar({ stream, format: `${task} [{bar}] {percentage}% | ${rest}`, hideCursor: true });
      bar.start(count, 0, { rate: "" });
    },
    update: (done) => {
      rate?.note(done);
      bar?.update(done, { rate: rate?.describe(total) ?? "" });
    },
    end,
  };
}

function plainProgress(stream: NodeJS.WriteStream, now: () => number): Progress {
  let task = "";
  let total = 0;
  let lastMs = 0;
  let rate: TransferRate | undefined;
  return {
    line: (text) => void stream.write(`${text}\n`),
    begin: (name, count, unit) => {
      task = name;
      total = count;
      lastMs = now();
      rate = unit === "bytes" ? new TransferRate(now) : undefined;
    },
    update: (done) => {
      rate?.note(done);
      if (now() - lastMs < PLAIN_INTERVAL_MS) return;
      lastMs = now();
      const speed = rate?.describe(total) ?? "";
      stream.write(`${task}: ${Math.floor((100 * done) / total)} %${speed === "" ? "" : `, ${speed}`}\n`);
    },
    end: () => {},
  };
}
