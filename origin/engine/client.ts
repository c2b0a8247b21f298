/**
 * The main thread's side of the engine: submit a prompt, read its tokens, cancel. Whatever happens to the engine's
 * thread, every open generation ends. Knows nothing of HTTP or text, and does not start a dead engine again.
 */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import type { RuntimeLimits, SelfTest } from "../runtime/port/runtime.ts";
import type { EngineCounters, SequenceUpdate } from "./engine.ts";
import type { TokenLogprobs } from "./logprobs.ts";
import {
  type FromWorker,
  type EngineState,
  NO_COUNTERS,
  type Occupancy,
  type StepTimes,
  type ToWorker,
  type WorkerOptions,
  attachLogprobs,
  unpackReport,
} from "./messages.ts";
import type { SequenceRequest } from "./sequence.ts";

/** Why a generation ended without an answer. */
export type EngineErrorReason = "poisoned" | "expired" | "deadline" | "failed" | "stuck" | "crashed" | "stopped";

export class EngineError extends Error {
  override readonly name = "EngineError";
  readonly reason: EngineErrorReason;

  constructor(reason: EngineErrorReason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/**
 * `queued`: it waits for a row, as the first, second, … of those that do. `token`: one was generated; with its log
 * probability where that was asked for. `finish`: the end; `generated` counts an end token too, which is not given.
 * `error`: the end without an answer.
 */
export type GenerationEvent =
  | { readonly type: "queued"; readonly position: number }
  | { readonly type: "token"; readonly token: number; readonly logprobs: TokenLogprobs | undefined }
  | {
      readonly type: "finish";
      readonly reason: "stop" | "length";
      readonly generated: number;
      /** Prompt tokens that came from the prefix cache. */
      readonly cachedTokens: number;
    }
  | { readonly type: "error"; readonly error: EngineError };

/** One sequence under way. Its events are pushed: a step's tokens reach everybody in one turn of the event loop. */
export interface Generation {
  /** Frees the row within a step; no event comes after it. Does nothing when it has ended. */
  cancel(): void;
}

export interface EngineClientOptions extends WorkerOptions {
  /** Called once when the thread dies without having been told to. */
  readonly onCrash: (cause: Error) => void;
  /** Called when a run failed and the engine went on. */
  readonly onTrouble: (message: string) => void;
  /** Called for every step that ran, or gave somebody a row. */
  readonly onStep?: (times: StepTimes) => void;
  /** How long the thread may take to end when it is told to, milliseconds; then it is killed. */
  readonly stopMs: number;
  /** Ends the step in progress from here, and is given up when the thread has ended; absent: steps run to their end. */
  readonly stopSwitch?: (Disposable & { stop(): void }) | undefined;
  /** While anything is open and the thread says nothing for this long, in milliseconds, it counts as dead. */
  readonly silenceMs: number;
}

const EMPTY: EngineState = {
  occupancy: { running: 0, waiting: 0 },
  serviceMs: undefined,
  counters: NO_COUNTERS,
  waiting: [],
};

type Hooks = Pick<EngineClientOptions, "onCrash" | "onTrouble" | "onStep" | "stopMs" | "stopSwitch" | "silenceMs">;

const WORKER = new URL("./worker.ts", import.meta.url);

/**
 * The thread keeps 13 MB alive and makes little garbage, but V8 lets its young generation grow over tens of thousands of
 * requests, to 130 MB, before it sweeps it more often: memory that looks like a leak.
 */
const YOUNG_GENERATION_MB = 24;

/**
 * Starts the engine's thread and waits until the model is loaded.
 *
 * @throws the error of the runtime that could not be created
 */
export async function startEngine(options: EngineClientOptions): Promise<EngineClient> {
  const { onCrash, onTrouble, onStep, stopMs, stopSwitch, silenceMs, ...workerData } = options;
  const resourceLimits = { maxYoungGenerationSizeMb: YOUNG_GENERATION_MB };
  const worker = new Worker(WORKER, { workerData: workerData satisfies WorkerOptions, name: "engine", resourceLimits });
  // Not before: the thread computes with it.
  worker.once("exit", () => stopSwitch?.[Symbol.dispose]());
  return new EngineClient(worker, await readReady(worker), {
    onCrash,
    onTrouble,
    stopMs,
    stopSwitch,
    silenceMs,
    ...(onStep && { onStep }),
  });
}

type ReadyMessage = Extract<FromWorker, { readonly type: "ready" }>;

/** Listeners are taken off one by one: a worker has hidden ones of its own. */
async function readReady(worker: Worker): Promise<ReadyMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<ReadyMessage>();
  const onExit = (code: number) => reject(new Error(`the engine's thread ended with code ${code} while loading`));
  const onMessage = (message: FromWorker) => {
    if (message.type === "ready") resolve(message);
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
  /** What the runtime found out about itself; undefined where it was not tested. */
  readonly selfTest: SelfTest | undefined;
  readonly #worker: Worker;
  readonly #hooks: Hooks;
  readonly #open = new Map<number, OpenGeneration>();
  #nextId = 1;
  #state: EngineState = EMPTY;
  /** Runs while anything is open, and starts anew with every message from the thread. */
  #silence: NodeJS.Timeout | undefined;
  /** Undefined while the thread lives; then what every later caller is told. */
  #end: EngineError | undefined;

  constructor(worker: Worker, { limits, selfTest }: ReadyMessage, hooks: Hooks) {
    this.#worker = worker;
    this.limits = limits;
    this.selfTest = selfTest;
    this.#hooks = hooks;
    worker.on("message", (message: FromWorker) => this.#hear(message));
    worker.on("error", (cause) => this.#crash(cause));
    worker.on("exit", (code) => this.#crash(new Error(`the engine's thread ended with code ${code}`)));
  }

  /** Rows in use and sequences waiting, as of the last step. */
  get occupancy(): Occupancy {
    return this.#state.occupancy;
  }

  /** What the prefix cache, the slab and the drafts have done since the start, as of the last step. */
  get counters(): EngineCounters {
    return this.#state.counters;
  }

  /**
   * How long one more would wait with so many before it, from the time that rows were held lately; undefined before
   * the first was given back.
   */
  estimateWaitMs(before: number): number | undefined {
    const { serviceMs, occupancy } = this.#state;
    return serviceMs === undefined ? undefined : (serviceMs * (before + 1)) / Math.max(1, occupancy.running);
  }

  /**
   * Starts a generation.
   *
   * @param request - as the engine requires it: a prompt that fits, tokens inside the vocabulary
   * @param listen - called for every event, never before this has returned; `finish` or `error` is the last. What it
   * throws ends this generation only
   * @throws {EngineError} when the engine's thread has ended
   */
  submit(request: Omit<SequenceRequest, "id">, listen: (event: GenerationEvent) => void): Generation {
    if (this.#end !== undefined) throw this.#end;
    const id = this.#nextId;
    this.#nextId = id === 0x7fff_ffff ? 1 : id + 1;
    if (this.#silence === undefined) this.#silence = setTimeout(() => this.#hang(), this.#hooks.silenceMs);
    else if (this.#open.size === 0) this.#silence.refresh();
    this.#open.set(id, { listen, generated: 0, position: 0 });
    this.#tell({ type: "submit", request: { ...request, id } });
    return {
      cancel: () => {
        if (this.#open.delete(id)) this.#tell({ type: "cancel", id });
      },
    };
  }

  /** Ends what is open and the thread; resolves when it is gone. */
  async stop(): Promise<void> {
    if (this.#end !== undefined) return;
    this.#finishAll(new EngineError("stopped", "the engine was stopped"));
    await this.#endThread();
  }

  /** By its own last words, which give its native memory back; a thread that does not find them in time is killed. */
  async #endThread(): Promise<void> {
    const { stopMs, stopSwitch } = this.#hooks;
    const gone = once(this.#worker, "exit");
    this.#tell({ type: "stop" });
    stopSwitch?.stop();
    const late = setTimeout(() => void this.#worker.terminate(), stopMs);
    await gone;
    clearTimeout(late);
  }

  #tell(message: ToWorker): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
    this.#worker.postMessage(message);
  }

  #hear(message: FromWorker): void {
    this.#silence?.refresh();
    switch (message.type) {
      case "ready":
        return;
      case "trouble":
        // A run that was ended with its thread is no trouble.
        return this.#end === undefined ? this.#hooks.onTrouble(message.message) : undefined;
      case "step": {
        const { state, updates, times } = unpackReport(message.report);
        if (times.stepMs !== undefined || times.queuedMs.length > 0) this.#hooks.onStep?.(times);
        attachLogprobs(updates, message.logprobs);
        this.#state = state;
        for (const update of updates) this.#deliver(update);
        for (const [i, id] of state.waiting.entries()) this.#place(id, i + 1);
      }
    }
  }

  #deliver({ id, token, status, logprobs, cachedTokens }: SequenceUpdate): void {
    // Absent when it was cancelled while the step ran.
    const open = this.#open.get(id);
    if (open === undefined) return;
    switch (status) {
      case "running":
        open.generated += 1;
        return this.#say(id, open, { type: "token", token, logprobs });
      case "length":
        open.generated += 1;
        this.#say(id, open, { type: "token", token, logprobs });
        return this.#finish(id, { type: "finish", reason: status, generated: open.generated, cachedTokens });
      case "stop":
        return this.#finish(id, { type: "finish", reason: status, generated: open.generated + 1, cachedTokens });
      case "poisoned":
        return this.#finish(id, failure(status, "the model gave logits that are not numbers"));
      case "expired":
        return this.#finish(id, failure(status, "the request waited too long for a free row"));
      case "deadline":
        return this.#finish(id, failure(status, "the request's time was up"));
      case "failed":
        return this.#finish(id, failure(status, "the model run failed"));
      case "stuck":
        return this.#finish(id, failure(status, "the grammar gave no mask, or one without a token"));
      default:
        return status satisfies never;
    }
  }

  #place(id: number, position: number): void {
    const open = this.#open.get(id);
    if (open === undefined || open.position === position) return;
    open.position = position;
    this.#say(id, open, { type: "queued", position });
  }

  /** Says the last word, unless its listener has cancelled or failed at the word before. */
  #finish(id: number, last: GenerationEvent): void {
    const open = this.#open.get(id);
    if (open === undefined) return;
    this.#open.delete(id);
    this.#say(id, open, last);
  }

  /** A listener that throws is a bug of ours in one request, and must not end the others' step. */
  #say(id: number, { listen }: OpenGeneration, event: GenerationEvent): void {
    try {
      listen(event);
    } catch (cause) {
      this.#hooks.onTrouble(`reading an answer failed: ${describe(cause)}`);
      if (!this.#open.has(id)) return;
      this.#tell({ type: "cancel", id });
      this.#finish(id, failure("failed", "the answer could not be read", { cause }));
    }
  }

  #hang(): void {
    this.#silence = undefined;
    if (this.#open.size === 0) return;
    void this.#endThread();
    this.#crash(new Error(`no step has ended for ${this.#hooks.silenceMs} ms`));
  }

  #crash(cause: Error): void {
    if (this.#end !== undefined) return;
    this.#finishAll(new EngineError("crashed", "the engine's thread has died", { cause }));
    this.#hooks.onCrash(cause);
  }

  #finishAll(end: EngineError): void {
    this.#end = end;
    clearTimeout(this.#silence);
    this.#state = { ...this.#state, occupancy: EMPTY.occupancy, waiting: [] };
    for (const id of this.#open.keys()) this.#finish(id, { type: "error", error: end });
  }
}

interface OpenGeneration {
  readonly listen: (event: GenerationEvent) => void;
  /** Tokens given so far. */
  generated: number;
  /** In the queue, from 1, as it was told last; 0 before. */
  position: number;
}

function failure(reason: EngineErrorReason, message: string, options?: ErrorOptions): GenerationEvent {
  return { type: "error", error: new EngineError(reason, message, options) };
}

function describe(thrown: unknown): string {
  return thrown instanceof Error ? (thrown.stack ?? thrown.message) : "something that is no Error was thrown";
}
