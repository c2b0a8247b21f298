/**
 * The main thread's side of grammars: has them compiled, remembers them, and lends each sequence a channel to its
 * grammar's thread. A grammar engine that meets a schema it can't digest is lost with all it knew, and one that meets a
 * hostile one may never come back: so every engine has a thread that can be ended, and compiles only while no row depends
 * on it. Knows no requests and no HTTP.
 */
import { Worker } from "node:worker_threads";
import { closeMaskChannel, createMaskChannel, type MaskSource } from "../engine/mask-channel.ts";
import type { FromGrammarThread, GrammarSpec, GrammarThreadOptions, ToGrammarThread } from "./messages.ts";

export type GrammarErrorReason = "refused" | "busy" | "crashed";

/** `refused`: the grammar is at fault, and the message says how. `busy`: every thread is taken. `crashed`: try again. */
export class GrammarError extends Error {
  override readonly name = "GrammarError";
  readonly reason: GrammarErrorReason;

  constructor(reason: GrammarErrorReason, message: string) {
    super(message);
    this.reason = reason;
  }
}

export interface GrammarServiceOptions extends Omit<GrammarThreadOptions, "bell"> {
  /** Threads, each with an engine of its own; so many different grammars can be in use at once, at least. */
  readonly threadsMax: number;
  /** How long a grammar may take to compile, or to wait for a thread that is free. */
  readonly compileMs: number;
  /** Memory of one engine; a grammar that needs more is refused. */
  readonly bytesMax: number;
}

/** A grammar in use; dispose of it when its last sequence has ended. */
export interface GrammarLease extends Disposable {
  /** A channel for one sequence; closed with the lease. */
  open(): MaskSource;
}

/** Compiled grammars that a thread remembers, and refusals that the service does. */
const REMEMBERED = 32;

const THREAD = new URL("./thread.ts", import.meta.url);

export class GrammarService {
  readonly #options: GrammarServiceOptions;
  readonly #threads = new Set<GrammarThread>();
  readonly #compiling = new Map<string, Promise<void>>();
  readonly #refusals = new Map<string, string>();
  /** Resolved and replaced whenever a thread may have become free. */
  #change = Promise.withResolvers<void>();

  constructor(options: GrammarServiceOptions) {
    this.#options = options;
  }

  /** Threads that live. */
  get threads(): number {
    return this.#threads.size;
  }

  /**
   * Has a grammar ready.
   *
   * @param signal - aborted when nobody wants it any more; then this throws its reason
   * @throws {GrammarError}
   */
  async lease(spec: GrammarSpec, signal: AbortSignal): Promise<GrammarLease> {
    const key = JSON.stringify(spec);
    for (;;) {
      signal.throwIfAborted();
      const refusal = this.#refusals.get(key);
      if (refusal !== undefined) throw new GrammarError("refused", refusal);
      const thread = [...this.#threads].find((candidate) => candidate.knows(key));
      if (thread !== undefined) return this.#lend(thread, key);
      await unlessAborted(this.#prepare(key, spec), signal);
    }
  }

  /** Ends every thread; rows that depend on one end with it. */
  async stop(): Promise<void> {
    await Promise.all([...this.#threads].map((thread) => thread.end()));
    this.#threads.clear();
  }

  #lend(thread: GrammarThread, key: string): GrammarLease {
    const release = thread.hold(key);
    const channels: (() => void)[] = [];
    return {
      open: () => {
        const { source, close } = thread.open(key, this.#options.vocabSize);
        channels.push(close);
        return source;
      },
      [Symbol.dispose]: () => {
        for (const close of channels) close();
        release();
        this.#announce();
      },
    };
  }

  /** One compilation for all who ask for the same meanwhile. */
  #prepare(key: string, spec: GrammarSpec): Promise<void> {
    const known = this.#compiling.get(key);
    if (known !== undefined) return known;
    const work = this.#compile(key, spec).finally(() => {
      this.#compiling.delete(key);
      this.#announce();
    });
    this.#compiling.set(key, work);
    // Whoever waits hears of a failure; that nobody waits any more is no failure.
    work.catch(() => {});
    return work;
  }

  async #compile(key: string, spec: GrammarSpec): Promise<void> {
    const thread = await this.#findIdle();
    const { refusal, broken } = await thread.compile(key, spec, this.#options);
    if (broken) {
      this.#threads.delete(thread);
      await thread.end();
    }
    if (refusal === undefined) return;
    if (this.#refusals.size >= REMEMBERED) this.#refusals.delete(this.#refusals.keys().next().value ?? "");
    this.#refusals.set(key, refusal);
    throw new GrammarError("refused", refusal);
  }

  /** A thread on which no row depends, reserved. */
  async #findIdle(): Promise<GrammarThread> {
    const endMs = performance.now() + this.#options.compileMs;
    for (;;) {
      const idle = [...this.#threads].find((thread) => thread.idle) ?? this.#start();
      if (idle !== undefined) {
        idle.reserve();
        return idle;
      }
      const late = Promise.withResolvers<"late">();
      const timer = setTimeout(() => late.resolve("late"), Math.max(endMs - performance.now(), 0));
      const outcome = await Promise.race([this.#change.promise, late.promise]);
      clearTimeout(timer);
      if (outcome === "late") throw new GrammarError("busy", "all grammar threads are in use; try again shortly");
    }
  }

  #start(): GrammarThread | undefined {
    if (this.#threads.size >= this.#options.threadsMax) return undefined;
    const thread = new GrammarThread(this.#options, () => {
      this.#threads.delete(thread);
      this.#announce();
    });
    this.#threads.add(thread);
    return thread;
  }

  #announce(): void {
    this.#change.resolve();
    this.#change = Promise.withResolvers();
  }
}

interface CompileLimits {
  readonly compileMs: number;
  readonly bytesMax: number;
}

/** One thread as the main thread knows it: free, reserved for a compilation, or held by leases. */
class GrammarThread {
  readonly #worker: Worker;
  readonly #bell = new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT);
  /** Grammars it has compiled; the most recently used last. */
  readonly #keys = new Set<string>();
  readonly #channels = new Map<number, SharedArrayBuffer>();
  #leases = 0;
  #reserved = false;
  #nextId = 1;
  #ended = false;
  #answer: ((answer: FromGrammarThread) => void) | undefined;

  constructor({ vocabulary, vocabSize, endTokens }: GrammarServiceOptions, onEnd: () => void) {
    const workerData: GrammarThreadOptions = { vocabulary, vocabSize, endTokens, bell: this.#bell };
    this.#worker = new Worker(THREAD, { workerData, name: "grammar" });
    // It must not keep a process alive that has nothing else to do.
    this.#worker.unref();
    this.#worker.on("message", (answer: FromGrammarThread) => this.#answer?.(answer));
    const lost = () => {
      this.#lose();
      onEnd();
    };
    this.#worker.on("error", lost).on("exit", lost);
  }

  get idle(): boolean {
    return this.#leases === 0 && !this.#reserved && !this.#ended;
  }

  knows(key: string): boolean {
    // A thread that compiles would keep a row's masks waiting.
    return this.#keys.has(key) && !this.#ended && !this.#reserved;
  }

  reserve(): void {
    this.#reserved = true;
  }

  /** Keeps the grammar, and the thread from compiling another. */
  hold(key: string): () => void {
    this.#keys.delete(key);
    this.#keys.add(key);
    this.#leases += 1;
    return () => void (this.#leases -= 1);
  }

  open(key: string, vocabSize: number): { readonly source: MaskSource; readonly close: () => void } {
    const id = this.#nextId++;
    const channel = createMaskChannel(vocabSize);
    if (this.#ended) closeMaskChannel(channel);
    this.#channels.set(id, channel);
    this.#tell({ type: "open", id, key, channel });
    const close = () => {
      this.#channels.delete(id);
      closeMaskChannel(channel);
      this.#tell({ type: "close", id });
    };
    return { source: { channel, bell: this.#bell }, close };
  }

  /** Compiles on a reserved thread. A grammar that takes too long takes the thread with it. */
  async compile(
    key: string,
    spec: GrammarSpec,
    { compileMs, bytesMax }: CompileLimits,
  ): Promise<Pick<FromGrammarThread, "refusal" | "broken">> {
    const { promise, resolve } = Promise.withResolvers<FromGrammarThread>();
    this.#answer = resolve;
    const give = (refusal: string) => resolve({ key, refusal, broken: true, bytes: 0 });
    const late = setTimeout(() => give(`it takes longer than ${compileMs} ms to compile`), compileMs);
    this.#tell({ type: "compile", key, spec });
    const { refusal, broken, bytes } = await promise;
    clearTimeout(late);
    this.#answer = undefined;
    this.#reserved = false;
    if (bytes > bytesMax) return { refusal: `it takes more than ${bytesMax} bytes of memory`, broken: true };
    if (refusal === undefined) this.#remember(key);
    else if (!broken) this.#tell({ type: "forget", key });
    if (this.#ended && !broken) throw new GrammarError("crashed", "the grammar engine has ended");
    return { refusal, broken };
  }

  async end(): Promise<void> {
    this.#lose();
    await this.#worker.terminate();
  }

  #remember(key: string): void {
    const oldest = this.#keys.size >= REMEMBERED ? this.#keys.values().next().value : undefined;
    if (oldest !== undefined) {
      this.#keys.delete(oldest);
      this.#tell({ type: "forget", key: oldest });
    }
    this.#keys.add(key);
  }

  #lose(): void {
    this.#ended = true;
    for (const channel of this.#channels.values()) closeMaskChannel(channel);
    this.#channels.clear();
    this.#answer?.({ key: "", refusal: undefined, broken: false, bytes: 0 });
  }

  #tell(message: ToGrammarThread): void {
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread's port, not a window
    this.#worker.postMessage(message);
  }
}

function unlessAborted<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  const { promise, reject } = Promise.withResolvers<never>();
  const leave = () => reject(signal.reason as Error);
  signal.addEventListener("abort", leave, { once: true });
  return Promise.race([work, promise]).finally(() => signal.removeEventListener("abort", leave));
}
