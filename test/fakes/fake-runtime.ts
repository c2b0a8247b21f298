/**
 * A runtime without a model: each row's logits are a hash of every token its slot holds, so a row that is moved, mixed
 * up or fed in the wrong order gives other tokens, and a row's answer can't depend on its batch. It refuses whatever the
 * port forbids. Also the `runtimeModule` of engines that tests start in a real thread.
 */
import { type Runtime, RuntimeError, type RuntimeShape, type StepBatch } from "../../origin/runtime/runtime.ts";

export interface FakeRuntimeOptions extends RuntimeShape {
  /** A row that holds this token has NaN logits. */
  readonly poisonToken?: number;
  /** A run that is fed this token fails. */
  readonly failToken?: number;
  /** A run that is fed this token throws what no engine expects: the thread dies. */
  readonly crashToken?: number;
  /** How long each step takes, blocking its thread as the real one does. */
  readonly stepMs?: number;
  /** Answers from a later turn of the event loop, as the binding back end does. */
  readonly asynchronous?: boolean;
  /** Never sampled: lowers these tokens' logits. */
  readonly shunned?: readonly number[];
}

export function createRuntime(options: FakeRuntimeOptions): Promise<Runtime> {
  return Promise.resolve(new FakeRuntime(options));
}

export class FakeRuntime implements Runtime {
  readonly shape: RuntimeShape;
  /** What every slot holds. */
  readonly held: number[][];
  steps = 0;
  readonly #options: FakeRuntimeOptions;
  readonly #logits: Float32Array;

  constructor(options: FakeRuntimeOptions) {
    const { slots, capacity, vocabSize } = options;
    this.shape = { slots, capacity, vocabSize };
    this.#options = options;
    this.held = Array.from({ length: slots }, () => []);
    this.#logits = new Float32Array((slots + 1) * vocabSize);
  }

  step(batch: StepBatch): Float32Array | Promise<Float32Array> {
    this.steps += 1;
    const { decode, prefill } = batch;
    const fed = [...decode.tokens, ...(prefill?.tokens ?? [])];
    if (fed.length === 0) throw new RuntimeError("an empty batch");
    if (prefill !== undefined && prefill.slot < decode.tokens.length) throw new RuntimeError("overlapping slots");
    if (fed.includes(this.#options.failToken ?? -1)) throw new RuntimeError("the run failed");
    // The port's promise: no result, and not a rejected one either.
    if (fed.includes(this.#options.crashToken ?? -1)) process.exit(3);

    decode.tokens.forEach((token, row) => this.#append(row, decode.pasts[row] ?? -1, [token]));
    if (prefill !== undefined) this.#append(prefill.slot, prefill.past, prefill.tokens);

    const rows = [...decode.tokens.keys(), ...(prefill?.sampled === true ? [prefill.slot] : [])];
    rows.forEach((slot, row) => this.#fill(row, this.held[slot] ?? []));
    this.#pass();
    const logits = this.#logits.subarray(0, rows.length * this.shape.vocabSize);
    return this.#options.asynchronous === true ? new Promise((resolve) => setImmediate(() => resolve(logits))) : logits;
  }

  copySlot({ from, to, tokens }: { from: number; to: number; tokens: number }): void {
    this.held[to] = (this.held[from] ?? []).slice(0, tokens);
  }

  [Symbol.dispose](): void {}

  #append(slot: number, past: number, tokens: Iterable<number>): void {
    const held = this.held[slot];
    if (held === undefined || past < 0 || past > held.length) throw new RuntimeError(`slot ${slot} does not hold that`);
    held.length = past;
    for (const token of tokens) {
      if (token < 0 || token >= this.shape.vocabSize) throw new RuntimeError("a token outside the vocabulary");
      held.push(token);
    }
    if (held.length > this.shape.capacity) throw new RuntimeError("a row past the capacity");
  }

  #fill(row: number, held: readonly number[]): void {
    const { vocabSize } = this.shape;
    const logits = this.#logits.subarray(row * vocabSize, (row + 1) * vocabSize);
    if (held.includes(this.#options.poisonToken ?? -1)) return void logits.fill(NaN);
    // FNV-1a over the history, then one round of a mixer per candidate.
    let hash = 0x811c9dc5;
    for (const token of held) hash = Math.imul(hash ^ token, 0x01000193);
    for (let id = 0; id < vocabSize; id++) {
      let mixed = Math.imul(hash ^ Math.imul(id + 1, 0x9e3779b9), 0x85ebca6b);
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
      logits[id] = ((mixed ^ (mixed >>> 16)) >>> 0) / 0x2000_0000;
    }
    for (const id of this.#options.shunned ?? []) logits[id] = -100;
  }

  #pass(): void {
    const { stepMs = 0 } = this.#options;
    if (stepMs > 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, stepMs);
  }
}
