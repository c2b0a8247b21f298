/**
 * The main thread's side of an encoder: starts its thread, hands it texts, and starts another when it dies, after a pause
 * that grows with each crash, until it dies too often. Knows neither tokens nor HTTP.
 */
import { Worker } from "node:worker_threads";
import { ColdpathError } from "../../shared/errors.ts";
import type { Occupancy } from "../engine/messages.ts";
import type { EngineStatus } from "../engine/supervisor.ts";
import type { EmbeddingInput, EncoderThreadOptions, FromEncoderThread, ToEncoderThread } from "./messages.ts";

export interface EmbedderOptions {
  readonly thread: EncoderThreadOptions;
  /** Texts that may be open at once. */
  readonly textsMax: number;
  /** Crashes that are borne; one more within the window and it gives up. */
  readonly crashesMax: number;
  readonly crashWindowMs: number;
  /** The pause before the first start anew; each further crash within the window doubles it. */
  readonly pauseMs: number;
  /** Monotonic milliseconds. */
  readonly now: () => number;
  readonly onCrash: (cause: Error) => void;
  readonly onRestart: () => void;
  readonly onGiveUp: () => void;
}

export interface Embedded {
  /** One for each input, as the encoder gives it: not normalised. */
  readonly vectors: readonly Float32Array[];
  /** Of all inputs together. */
  readonly tokens: number;
}

interface Job {
  readonly texts: number;
  readonly resolve: (embedded: Embedded) => void;
  readonly reject: (cause: Error) => void;
}

const THREAD = new URL("./thread.ts", import.meta.url);

export class Embedder {
  readonly #options: EmbedderOptions;
  readonly #jobs = new Map<number, Job>();
  #thread: Worker | undefined;
  /** `ready` exactly while there is a thread that has said so. */
  #status: EngineStatus = "restarting";
  #texts = 0;
  #lastId = 0;
  #crashes: number[] = [];
  #pause: NodeJS.Timeout | undefined;

  private constructor(options: EmbedderOptions) {
    this.#options = options;
  }

  /** @throws the error of the first start: what can't work at all is not tried again */
  static async start(options: EmbedderOptions): Promise<Embedder> {
    const embedder = new Embedder(options);
    await embedder.#start();
    return embedder;
  }

  get status(): EngineStatus {
    return this.#status;
  }

  /** Requests, all of which are under way: their texts share batches. */
  get occupancy(): Occupancy {
    return { running: this.#jobs.size, waiting: 0 };
  }

  /**
   * Computes a vector for each input.
   *
   * @param signal - aborted when nobody wants them any more; then this throws its reason
   * @throws {ColdpathError} `context_length_exceeded`, `invalid_request`; `queue_full` when too many texts wait, `not_ready`
   * when there is no thread, or it died
   */
  async embed(inputs: readonly EmbeddingInput[], signal: AbortSignal): Promise<Embedded> {
    signal.throwIfAborted();
    if (this.#status !== "ready") throw gone(`the model is not available: ${this.#status}`);
    if (this.#texts + inputs.length > this.#options.textsMax) {
      throw new ColdpathError("queue_full", "too many texts wait for this model; try again shortly, or send fewer", {
        retryAfterSeconds: 1,
      });
    }
    const id = ++this.#lastId;
    const { promise, resolve, reject } = Promise.withResolvers<Embedded>();
    this.#jobs.set(id, { texts: inputs.length, resolve, reject });
    this.#texts += inputs.length;
    const leave = (): void => {
      this.#release(id)?.reject(signal.reason as Error);
      this.#tell({ type: "cancel", id });
    };
    signal.addEventListener("abort", leave, { once: true });
    this.#tell({ type: "embed", id, inputs });
    try {
      return await promise;
    } finally {
      signal.removeEventListener("abort", leave);
    }
  }

  /** Ends what is open, and the thread. */
  async stop(): Promise<void> {
    this.#status = "stopped";
    clearTimeout(this.#pause);
    const thread = this.#thread;
    this.#thread = undefined;
    this.#rejectAll("the model is being stopped");
    await thread?.terminate();
  }

  async #start(): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const thread = new Worker(THREAD, { workerData: this.#options.thread, name: "encoder" });
    this.#thread = thread;
    thread.on("message", (message: FromEncoderThread) => {
      if (thread !== this.#thread) return;
      if (message.type === "ready") resolve();
      else this.#settle(message);
    });
    const lost = (cause: Error): void => {
      if (thread !== this.#thread) return reject(cause);
      this.#thread = undefined;
      if (this.#status === "ready") this.#crashed(cause);
      else reject(cause);
    };
    thread.on("error", (cause) => lost(cause instanceof Error ? cause : new Error("it threw what is no Error")));
    thread.on("exit", (code) => lost(new Error(`the encoder's thread ended with code ${code}`)));
    await promise;
    // A stop that came meanwhile has ended the thread, and this start with it.
    this.#status = "ready";
  }

  #crashed(cause: Error): void {
    const { crashesMax, crashWindowMs, pauseMs, onCrash, onGiveUp, now } = this.#options;
    this.#crashes = [...this.#crashes.filter((at) => at > now() - crashWindowMs), now()];
    this.#status = this.#crashes.length > crashesMax ? "failed" : "restarting";
    this.#rejectAll("the model has stopped");
    onCrash(cause);
    if (this.#status === "failed") return onGiveUp();
    this.#pause = setTimeout(() => void this.#restart(), pauseMs * 2 ** (this.#crashes.length - 1));
  }

  async #restart(): Promise<void> {
    try {
      await this.#start();
    } catch (cause) {
      if (this.#status === "restarting") this.#crashed(cause instanceof Error ? cause : new Error(String(cause)));
      return;
    }
    this.#options.onRestart();
  }

  #settle(message: Exclude<FromEncoderThread, { type: "ready" }>): void {
    const job = this.#release(message.id);
    switch (message.type) {
      case "embedded":
        return job?.resolve(message);
      case "refused": {
        const { code, message: reason, param } = message;
        return job?.reject(new ColdpathError(code, reason, param === null ? {} : { param }));
      }
      case "failed":
        return job?.reject(new Error(`texts could not be embedded: ${message.message}`));
      default:
        return message satisfies never;
    }
  }

  #release(id: number): Job | undefined {
    const job = this.#jobs.get(id);
    this.#jobs.delete(id);
    this.#texts -= job?.texts ?? 0;
    return job;
  }

  #rejectAll(why: string): void {
    for (const id of this.#jobs.keys()) this.#release(id)?.reject(gone(why));
  }

  #tell(message: ToEncoderThread): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
    this.#thread?.postMessage(message);
  }
}

function gone(why: string): ColdpathError {
  return new ColdpathError("not_ready", why, { retryAfterSeconds: 1 });
}
