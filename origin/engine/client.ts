/**
 * The main thread's side of the engine: submit a prompt, read its tokens, cancel. Whatever happens to the engine's
 * thread, every open generation ends. Knows nothing of HTTP or text, and does not start a dead engine again.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { RuntimeLimits } from "../runtime/runtime.ts";
import type { SequenceUpdate } from "./engine.ts";
import type { TokenLogprobs } from "./logprobs.ts";
import {
  type FromWorker,
  type Occupancy,
  type ToWorker,
  type WorkerOptions,
  attachLogprobs,
  unpackReport,
} from "./messages.ts";
import type { SequenceRequest } from "./sequence.ts";

/** Why a generation ended without an answer. */
export type EngineErrorReason = "cancelled" | "poisoned" | "expired" | "failed" | "crashed" | "stopped";

export class EngineError extends Error {
  override readonly name = "EngineError";
  readonly reason: EngineErrorReason;

  constructor(reason: EngineErrorReason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/**
 * `tokens`: what was generated since the last event, with a log probability each where they were asked for, else with
 * none. `finish`: the end; `generated` counts an end token too.
 */
export type GenerationEvent =
  | { readonly type: "tokens"; readonly tokens: readonly number[]; readonly logprobs: readonly TokenLogprobs[] }
  | { readonly type: "finish"; readonly reason: "stop" | "length"; readonly generated: number };

/** One sequence's tokens as they come. Read by one reader; leaving the loop cancels. */
export interface Generation extends AsyncIterable<GenerationEvent> {
  /** Frees the row within a step; the reader gets an `EngineError` with reason `cancelled`. */
  cancel(): void;
}

export interface EngineClientOptions extends WorkerOptions {
  /** Called once when the thread dies without having been told to. */
  readonly onCrash: (cause: Error) => void;
  /** Called when a run failed and the engine went on. */
  readonly onTrouble: (message: string) => void;
  /** How long `stop()` waits for the step in progress. */
  readonly stopMs: number;
}

const WORKER = new URL("./worker.ts", import.meta.url);

/**
 * Starts the engine's thread and waits until the model is loaded.
 *
 * @throws the error of the runtime that could not be created
 */
export async function startEngine(options: EngineClientOptions): Promise<EngineClient> {
  const { onCrash, onTrouble, stopMs, ...workerData } = options;
  const worker = new Worker(WORKER, { workerData: workerData satisfies WorkerOptions, name: "engine" });
  const limits = await readLimits(worker);
  return new EngineClient(worker, limits, { onCrash, onTrouble, stopMs });
}

/** Listeners are taken off one by one: a worker has hidden ones of its own. */
async function readLimits(worker: Worker): Promise<RuntimeLimits> {
  const { promise, resolve, reject } = Promise.withResolvers<RuntimeLimits>();
  const onExit = (code: number) => reject(new Error(`the engine's thread ended with code ${code} while loading`));
  const onMessage = (message: FromWorker) => {
    if (message.type === "ready") resolve(message.limits);
  };
  worker.on("error", reject).on("exit", onExit).on("message", onMessage);
  try {
    return await promise;
  } finally {
    worker.off("error", reject).off("exit", onExit).off("message", onMessage);
  }
}

export class EngineClient {
  readonly limits: RuntimeLimits;
  readonly #worker: Worker;
  readonly #hooks: Pick<EngineClientOptions, "onCrash" | "onTrouble" | "stopMs">;
  readonly #open = new Map<number, OpenGeneration>();
  #nextId = 1;
  #occupancy: Occupancy = { running: 0, waiting: 0 };
  /** Undefined while the thread lives; then what every later caller is told. */
  #end: EngineError | undefined;

  constructor(
    worker: Worker,
    limits: RuntimeLimits,
    hooks: Pick<EngineClientOptions, "onCrash" | "onTrouble" | "stopMs">,
  ) {
    this.#worker = worker;
    this.limits = limits;
    this.#hooks = hooks;
    worker.on("message", (message: FromWorker) => this.#hear(message));
    worker.on("error", (cause) => this.#crash(cause));
    worker.on("exit", (code) => this.#crash(new Error(`the engine's thread ended with code ${code}`)));
  }

  /** Rows in use and sequences waiting, as of the last step. */
  get occupancy(): Occupancy {
    return this.#occupancy;
  }

  /**
   * Starts a generation.
   *
   * @param request - as the engine requires it: a prompt that fits, tokens inside the vocabulary
   * @throws {EngineError} when the engine's thread has ended
   */
  submit(request: Omit<SequenceRequest, "id">): Generation {
    if (this.#end !== undefined) throw this.#end;
    const id = this.#nextId;
    this.#nextId = id === 0x7fff_ffff ? 1 : id + 1;
    const generation = new OpenGeneration(() => {
      this.#open.delete(id);
      this.#tell({ type: "cancel", id });
    });
    this.#open.set(id, generation);
    this.#tell({ type: "submit", request: { ...request, id } });
    return generation;
  }

  /** Ends what is open and the thread; resolves when it is gone. */
  async stop(): Promise<void> {
    if (this.#end !== undefined) return;
    this.#finishAll(new EngineError("stopped", "the engine was stopped"));
    const gone = once(this.#worker, "exit");
    this.#tell({ type: "stop" });
    const late = setTimeout(() => void this.#worker.terminate(), this.#hooks.stopMs);
    await gone;
    clearTimeout(late);
  }

  #tell(message: ToWorker): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
    this.#worker.postMessage(message);
  }

  #hear(message: FromWorker): void {
    switch (message.type) {
      case "ready":
        return;
      case "trouble":
        return this.#hooks.onTrouble(message.message);
      case "step": {
        const { occupancy, updates } = unpackReport(message.report);
        attachLogprobs(updates, message.logprobs);
        this.#occupancy = occupancy;
        for (const update of updates) this.#deliver(update);
      }
    }
  }

  #deliver(update: SequenceUpdate): void {
    // Absent when it was cancelled while the step ran.
    const generation = this.#open.get(update.id);
    if (generation === undefined) return;
    if (update.status !== "running") this.#open.delete(update.id);
    generation.receive(update);
  }

  #crash(cause: Error): void {
    if (this.#end !== undefined) return;
    this.#finishAll(new EngineError("crashed", "the engine's thread has died", { cause }));
    this.#hooks.onCrash(cause);
  }

  #finishAll(end: EngineError): void {
    this.#end = end;
    this.#occupancy = { running: 0, waiting: 0 };
    for (const generation of this.#open.values()) generation.fail(end);
    this.#open.clear();
  }
}

/**
 * A mailbox between the thread's messages and one reader. It holds at most one answer: the engine never waits for a
 * slow client, and `maxTokens` bounds what can pile up.
 */
class OpenGeneration implements Generation {
  readonly #onCancel: () => void;
  #tokens: number[] = [];
  #logprobs: TokenLogprobs[] = [];
  #generated = 0;
  /** Set once, by whatever ends the sequence first. */
  #end: { readonly reason: "stop" | "length" } | EngineError | undefined;
  #wake: (() => void) | undefined;

  constructor(onCancel: () => void) {
    this.#onCancel = onCancel;
  }

  receive({ token, status, logprobs }: SequenceUpdate): void {
    switch (status) {
      case "running":
      case "length":
        this.#generated += 1;
        this.#tokens.push(token);
        if (logprobs !== undefined) this.#logprobs.push(logprobs);
        if (status === "length") this.#end = { reason: "length" };
        break;
      case "stop":
        this.#generated += 1;
        this.#end = { reason: "stop" };
        break;
      case "poisoned":
        return this.fail(new EngineError("poisoned", "the model gave logits that are not numbers"));
      case "expired":
        return this.fail(new EngineError("expired", "the request waited too long for a free row"));
      case "failed":
        return this.fail(new EngineError("failed", "the model run failed"));
    }
    this.#wake?.();
  }

  fail(error: EngineError): void {
    this.#end = error;
    this.#wake?.();
  }

  cancel(): void {
    if (this.#end !== undefined) return;
    this.#onCancel();
    this.fail(new EngineError("cancelled", "the request was cancelled"));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<GenerationEvent, void, void> {
    try {
      for (;;) {
        if (this.#tokens.length > 0) {
          yield { type: "tokens", tokens: this.#tokens.splice(0), logprobs: this.#logprobs.splice(0) };
        } else if (this.#end === undefined) await this.#news();
        else if (this.#end instanceof EngineError) throw this.#end;
        else return yield { type: "finish", reason: this.#end.reason, generated: this.#generated };
      }
    } finally {
      this.cancel();
    }
  }

  async #news(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
  }
}
