/**
 * Keeps an engine running: when its thread dies another is started, after a pause that grows with each crash, and when
 * they come too often it gives up, so that whoever watches the process sees it. Knows nothing of what an engine computes.
 *
 * A thread that ends by an error of JavaScript, or whose run could be ended, gives its memory back; one that is killed in
 * the middle of native code can't, and leaves its weights behind: one more reason to give up after a few.
 */
import type { RuntimeLimits, SelfTest } from "../runtime/port/runtime.ts";
import { type EngineClient, EngineError, type Generation, type GenerationEvent } from "./client.ts";
import type { EngineCounters } from "./engine.ts";
import { NO_COUNTERS, type Occupancy } from "./messages.ts";
import type { SequenceRequest } from "./sequence.ts";

/** `restarting`: the thread has died and another is being started. `failed`: there will be none. */
export type EngineStatus = "ready" | "restarting" | "failed" | "stopped";

export interface SupervisorOptions {
  /** Starts an engine; `onCrash` is called once if it dies. */
  readonly start: (onCrash: (cause: Error) => void) => Promise<EngineClient>;
  /** Crashes that are borne; one more within the window and it gives up. */
  readonly crashesMax: number;
  readonly crashWindowMs: number;
  /** The pause before the first start anew; each further crash within the window doubles it. */
  readonly pauseMs: number;
  /** The thread has died, or the next one could not be started. */
  readonly onCrash: (cause: Error) => void;
  /** Another one runs. */
  readonly onRestart: () => void;
  /** It crashed too often. */
  readonly onGiveUp: () => void;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

const NOBODY: Occupancy = { running: 0, waiting: 0 };

/**
 * Starts an engine and keeps it running.
 *
 * @throws the error of the first start: what can't work at all is not tried again
 */
export async function superviseEngine(options: SupervisorOptions): Promise<EngineSupervisor> {
  let supervisor: EngineSupervisor | undefined;
  const onCrash = (cause: Error) => supervisor?.crashed(cause);
  const engine = await options.start(onCrash);
  supervisor = new EngineSupervisor(engine, onCrash, options);
  return supervisor;
}

export class EngineSupervisor {
  readonly limits: RuntimeLimits;
  readonly #options: SupervisorOptions;
  readonly #onCrash: (cause: Error) => void;
  /** `ready` exactly while there is an engine. */
  #engine: EngineClient | undefined;
  #status: EngineStatus = "ready";
  /** When it crashed, the latest last; those outside the window are forgotten. */
  #crashes: number[] = [];
  #pause: NodeJS.Timeout | undefined;

  constructor(engine: EngineClient, onCrash: (cause: Error) => void, options: SupervisorOptions) {
    this.limits = engine.limits;
    this.#engine = engine;
    this.#onCrash = onCrash;
    this.#options = options;
  }

  get status(): EngineStatus {
    return this.#status;
  }

  /** Of the engine that runs now: every start tests anew. */
  get selfTest(): SelfTest | undefined {
    return this.#engine?.selfTest;
  }

  get occupancy(): Occupancy {
    return this.#engine?.occupancy ?? NOBODY;
  }

  /** What the present thread has done since its start. */
  get counters(): EngineCounters {
    return this.#engine?.counters ?? NO_COUNTERS;
  }

  /** How long one more would wait for a row now; undefined while that is not known. */
  get waitMs(): number | undefined {
    return this.#engine?.estimateWaitMs(this.#engine.occupancy.waiting);
  }

  /**
   * Starts a generation.
   *
   * @throws {EngineError} when there is no engine now
   */
  submit(request: Omit<SequenceRequest, "id">, listen: (event: GenerationEvent) => void): Generation {
    if (this.#engine !== undefined) return this.#engine.submit(request, listen);
    throw new EngineError(this.#status === "stopped" ? "stopped" : "crashed", `the engine is ${this.#status}`);
  }

  /** The thread has died: its generations have ended by now. */
  crashed(cause: Error): void {
    if (this.#status === "stopped" || this.#status === "failed") return;
    const { crashesMax, crashWindowMs, pauseMs, onCrash, onGiveUp, now } = this.#options;
    this.#engine = undefined;
    this.#crashes = [...this.#crashes.filter((at) => at > now() - crashWindowMs), now()];
    onCrash(cause);
    if (this.#crashes.length > crashesMax) {
      this.#status = "failed";
      return onGiveUp();
    }
    this.#status = "restarting";
    this.#pause = setTimeout(() => void this.#restart(), pauseMs * 2 ** (this.#crashes.length - 1));
  }

  /** Ends what is open, and the thread. */
  async stop(): Promise<void> {
    this.#status = "stopped";
    clearTimeout(this.#pause);
    await this.#engine?.stop();
  }

  async #restart(): Promise<void> {
    let engine: EngineClient;
    try {
      engine = await this.#options.start(this.#onCrash);
    } catch (cause) {
      return this.crashed(cause instanceof Error ? cause : new Error("the engine could not be started", { cause }));
    }
    // It was stopped meanwhile: nobody else knows of this engine.
    if (this.#status !== "restarting") return engine.stop();
    this.#engine = engine;
    this.#status = "ready";
    this.#options.onRestart();
  }
}
