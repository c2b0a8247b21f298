/**
 * Shows the progress of long work: a bar that is redrawn in place on a terminal, or an occasional plain line where the output
 * goes to a pipe or a log. Does not depend on what the work is.
 */
import { SingleBar } from "cli-progress";
import { TransferRate } from "./transfer-rate.ts";

/** Receives the progress of the steps of an import. */
export interface ProgressReporter {
  /** Prints a line that stays. */
  line(text: string): void;
  /** Begins a task of `total` units; for bytes the speed is shown. Ends the task before it. */
  begin(task: string, total: number, unit?: "bytes"): void;
  update(done: number): void;
  /** Ends the current task, if there is one. */
  end(): void;
}

/** Least milliseconds between two plain lines. */
const PLAIN_INTERVAL_MS = 5_000;

/** Reports on a stream, usually standard error, so that standard output holds only the command's result. */
export function reportProgress(stream: NodeJS.WriteStream, now: () => number = Date.now): ProgressReporter {
  return stream.isTTY ? new BarReporter(stream, now) : new PlainReporter(stream, now);
}

/** Reports nothing. */
export const silentProgress: ProgressReporter = { line: () => {}, begin: () => {}, update: () => {}, end: () => {} };

interface Task {
  readonly name: string;
  readonly total: number;
  /** Undefined for units other than bytes. */
  readonly rate: TransferRate | undefined;
  done: number;
}

/** The bar disappears when its task ends. Only a completed task leaves a line. */
class BarReporter implements ProgressReporter {
  readonly #stream: NodeJS.WriteStream;
  readonly #now: () => number;
  #current: { readonly task: Task; readonly bar: SingleBar } | undefined;

  constructor(stream: NodeJS.WriteStream, now: () => number) {
    this.#stream = stream;
    this.#now = now;
  }

  line(text: string): void {
    this.end();
    this.#stream.write(`${text}\n`);
  }

  begin(name: string, total: number, unit?: "bytes"): void {
    this.end();
    const rate = unit === "bytes" ? new TransferRate(this.#now) : undefined;
    const rest = rate === undefined ? "{eta_formatted}" : "{rate}";
    const format = `${name} [{bar}] {percentage}% | ${rest}`;
    const bar = new SingleBar({ stream: this.#stream, format, hideCursor: true, clearOnComplete: true });
    bar.start(total, 0, { rate: "" });
    this.#current = { task: { name, total, rate, done: 0 }, bar };
  }

  update(done: number): void {
    if (this.#current === undefined) return;
    const { task, bar } = this.#current;
    task.done = done;
    task.rate?.note(done);
    bar.update(done, { rate: task.rate?.describe(task.total) ?? "" });
  }

  end(): void {
    if (this.#current === undefined) return;
    const { task, bar } = this.#current;
    this.#current = undefined;
    bar.stop();
    if (task.done >= task.total) this.#stream.write(`${task.name}: done\n`);
  }
}

class PlainReporter implements ProgressReporter {
  readonly #stream: NodeJS.WriteStream;
  readonly #now: () => number;
  #task: Task | undefined;
  #lastMs = 0;

  constructor(stream: NodeJS.WriteStream, now: () => number) {
    this.#stream = stream;
    this.#now = now;
  }

  line(text: string): void {
    this.#stream.write(`${text}\n`);
  }

  begin(name: string, total: number, unit?: "bytes"): void {
    this.#lastMs = this.#now();
    this.#task = { name, total, rate: unit === "bytes" ? new TransferRate(this.#now) : undefined, done: 0 };
  }

  update(done: number): void {
    if (this.#task === undefined) return;
    const { name, total, rate } = this.#task;
    rate?.note(done);
    if (this.#now() - this.#lastMs < PLAIN_INTERVAL_MS) return;
    this.#lastMs = this.#now();
    const speed = rate?.describe(total) ?? "";
    this.line(`${name}: ${Math.floor((100 * done) / total)} %${speed === "" ? "" : `, ${speed}`}`);
  }

  end(): void {
    this.#task = undefined;
  }
}
