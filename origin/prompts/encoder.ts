/**
 * Prompts to token ids without holding up the main thread: a short one is tokenized at once, because that costs less than
 * asking somebody else; a long one by a thread of its own, since a hostile text just inside the context takes seconds, in
 * which no stream would move. The shortest goes first, so that hostile ones wait for the others and not the reverse. A
 * prompt that takes too long ends the thread, and the next one gets another. Knows nothing of a request's other fields.
 */
import { Worker } from "node:worker_threads";
import { ColdpathError } from "../../shared/errors.ts";
import type { Tokenizer } from "../tokenize/tokenizer.ts";
import {
  encodeSource,
  type FromPromptThread,
  type PromptSource,
  type TokenizerFiles,
  type ToPromptThread,
} from "./messages.ts";

export interface PromptEncoderOptions {
  readonly tokenizer: Tokenizer;
  /** Where the thread reads the same tokenizer. */
  readonly files: TokenizerFiles;
  /** Long prompts that may wait for the thread. */
  readonly queueMax: number;
  /** How long a long prompt may take, and how long it may wait for the ones before it. */
  readonly encodeMs: number;
}

/**
 * A prompt of so many characters, as JSON, is short. Prose of this length takes 1.4 ms and the worst text 5. The thread
 * costs the main thread 0.1 ms and makes the prompt late by about 1 ms.
 */
const SHORT_CHARS_MAX = 2048;

const THREAD = new URL("./thread.ts", import.meta.url);

/** Waits, then runs, then is settled; or is settled while it waits. */
interface Job {
  readonly json: string;
  readonly resolve: (ids: Int32Array) => void;
  readonly reject: (cause: Error) => void;
}

export class PromptEncoder {
  readonly #options: PromptEncoderOptions;
  /** In the order of arrival. */
  #waiting: Job[] = [];
  /** Present while the thread works on it. */
  #running: Job | undefined;
  #overdue: NodeJS.Timeout | undefined;
  /** Started when first needed; absent again after its death. */
  #thread: Worker | undefined;
  #stopped = false;

  constructor(options: PromptEncoderOptions) {
    this.#options = options;
  }

  /**
   * Turns a prompt into ids.
   *
   * @param signal - aborted when nobody wants them any more; then this throws its reason
   * @throws {ColdpathError} `invalid_request` for a prompt that the chat template refuses or that takes too long,
   * `queue_full` when too many wait or it waited too long, `not_ready` when the thread died of it
   */
  async encode(source: PromptSource, signal: AbortSignal): Promise<Int32Array> {
    const json = JSON.stringify(source);
    if (json.length <= SHORT_CHARS_MAX) return encodeSource(this.#options.tokenizer, source);
    signal.throwIfAborted();
    if (this.#waiting.length >= this.#options.queueMax) throw busy();

    const { promise, resolve, reject } = Promise.withResolvers<Int32Array>();
    const job: Job = { json, resolve, reject };
    const giveUp = (cause: Error) => {
      this.#waiting = this.#waiting.filter((other) => other !== job);
      reject(cause);
    };
    const leave = () => giveUp(signal.reason as Error);
    signal.addEventListener("abort", leave, { once: true });
    const late = setTimeout(() => {
      if (this.#running !== job) giveUp(busy());
    }, this.#options.encodeMs);
    this.#waiting.push(job);
    this.#next();
    try {
      return await promise;
    } finally {
      clearTimeout(late);
      signal.removeEventListener("abort", leave);
    }
  }

  /** Starts the thread before it is needed: it takes half a second. */
  start(): void {
    if (!this.#stopped) this.#thread ??= this.#startThread();
  }

  /** Ends the thread, and what waits for it. */
  async stop(): Promise<void> {
    this.#stopped = true;
    for (const { reject } of this.#waiting.splice(0)) reject(gone("the model is being stopped"));
    await this.#end("the model is being stopped");
  }

  /** Gives the thread its next prompt, if it is free. */
  #next(): void {
    if (this.#running !== undefined || this.#waiting.length === 0) return;
    if (this.#stopped) return this.#waiting.splice(0).forEach(({ reject }) => reject(gone("the model has stopped")));
    const job = this.#waiting.reduce((shortest, other) =>
      other.json.length < shortest.json.length ? other : shortest,
    );
    this.#waiting = this.#waiting.filter((other) => other !== job);
    this.#running = job;
    this.start();
    this.#overdue = setTimeout(() => this.#expire(job), this.#options.encodeMs);
    this.#tell(job.json);
  }

  #startThread(): Worker {
    const thread = new Worker(THREAD, { workerData: this.#options.files, name: "tokenizer" });
    // It must not keep a process alive that has nothing else to do.
    thread.unref();
    thread.on("message", (answer: FromPromptThread) => {
      if (thread === this.#thread) this.#settle(answer);
    });
    const lost = () => {
      if (thread === this.#thread) void this.#end("the tokenizer's thread has died");
    };
    return thread.on("error", lost).on("exit", lost);
  }

  #settle(answer: FromPromptThread): void {
    const job = this.#release();
    switch (answer.type) {
      case "encoded":
        job?.resolve(answer.ids);
        break;
      case "refused": {
        const { code, message, param } = answer;
        job?.reject(new ColdpathError(code, message, param === null ? {} : { param }));
        break;
      }
      case "failed":
        job?.reject(new Error(`a prompt could not be tokenized: ${answer.message}`));
        break;
      default:
        answer satisfies never;
    }
    this.#next();
  }

  #expire(job: Job): void {
    const { encodeMs } = this.#options;
    job.reject(new ColdpathError("invalid_request", `the prompt takes longer than ${encodeMs} ms to tokenize`));
    void this.#end("");
  }

  /** Without its thread a prompt under way is lost; those that wait get the next one. */
  async #end(why: string): Promise<void> {
    const thread = this.#thread;
    this.#thread = undefined;
    this.#release()?.reject(gone(why));
    this.#next();
    await thread?.terminate();
  }

  #release(): Job | undefined {
    clearTimeout(this.#overdue);
    const job = this.#running;
    this.#running = undefined;
    return job;
  }

  #tell(message: ToPromptThread): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
    this.#thread?.postMessage(message);
  }
}

function busy(): ColdpathError {
  return new ColdpathError("queue_full", "too many long prompts wait to be tokenized; try again shortly", {
    retryAfterSeconds: 1,
  });
}

function gone(why: string): ColdpathError {
  return new ColdpathError("not_ready", why, { retryAfterSeconds: 1 });
}
