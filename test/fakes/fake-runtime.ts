/**
 * A runtime without a model: each row's logits are a hash of every token its slot holds, so a row that is moved, mixed
 * up or fed in the wrong order gives other tokens, and a row's answer can't depend on its batch. It refuses whatever the
 * port forbids. Also the `runtimeModule` of engines that tests start in a real thread.
 */
import { checkBatch, checkCopy, checkLoad, checkResize, checkSave } from "../../origin/runtime/port/check-batch.ts";
import {
  type KvBlock,
  type Resize,
  type Runtime,
  RuntimeError,
  type RuntimeLimits,
  type RuntimeShape,
  type StepBatch,
} from "../../origin/runtime/port/runtime.ts";

/** What a slot and a block hold of a token: itself. */
const TOKEN_BYTES = Int32Array.BYTES_PER_ELEMENT;

/** The sizes are the limits; the slab starts empty. */
export interface FakeRuntimeOptions extends RuntimeShape {
  /** Default 3. */
  readonly draftTokens?: number;
  /** A row that holds this token has NaN logits. */
  readonly poisonToken?: number;
  /** A run that is fed this token fails. */
  readonly failToken?: number;
  /** A run that is fed this token throws what no engine expects: the thread dies. */
  readonly crashToken?: number;
  /** A run that is fed this token throws out of the engine's sight: nobody catches it, and the thread dies of it. */
  readonly throwToken?: number;
  /** A run that is fed this token blocks its thread for `hangMs`. */
  readonly hangToken?: number;
  readonly hangMs?: number;
  /** How long each step takes, blocking its thread as the real one does. */
  readonly stepMs?: number;
  /** Answers from a later turn of the event loop, as the binding back end does. */
  readonly asynchronous?: boolean;
  /** Never sampled: lowers these tokens' logits. */
  readonly shunned?: readonly number[];
  /** The likeliest token after those of a slot, in place of a hash. */
  readonly next?: (held: readonly number[]) => number;
}

export function createRuntime(options: FakeRuntimeOptions): Promise<Runtime> {
  return Promise.resolve(new FakeRuntime(options));
}

export class FakeRuntime implements Runtime {
  readonly limits: RuntimeLimits;
  /** What every slot holds. */
  held: number[][] = [];
  steps = 0;
  readonly #options: FakeRuntimeOptions;
  #capacity = 0;
  /** One for all steps, so that whoever keeps a view of it past its step reads nonsense. */
  #logits = new Float32Array();

  constructor(options: FakeRuntimeOptions) {
    const { slots, capacity, vocabSize, draftTokens = 3 } = options;
    this.limits = { slots, capacity, vocabSize, tokenBytes: TOKEN_BYTES, draftTokens };
    this.#options = options;
  }

  get shape(): RuntimeShape {
    return { vocabSize: this.limits.vocabSize, slots: this.held.length, capacity: this.#capacity };
  }

  step(batch: StepBatch): Float32Array | Promise<Float32Array> {
    this.steps += 1;
    checkBatch(this.shape, this.limits, batch);
    const { decode, prefill } = batch;
    const fed = new Set([...decode.tokens, ...(prefill?.tokens ?? [])]);
    if (fed.has(this.#options.failToken ?? -1)) throw new RuntimeError("the run failed");
    if (fed.has(this.#options.throwToken ?? -1)) {
      setImmediate(() => {
        throw new Error("a bug in the runtime");
      });
      return new Promise(() => {});
    }
    if (fed.has(this.#options.hangToken ?? -1)) blockFor(this.#options.hangMs ?? 0);
    // The port's promise: no result, and not a rejected one either.
    if (fed.has(this.#options.crashToken ?? -1)) process.exit(3);

    decode.tokens.forEach((token, row) => this.#append(row, decode.pasts[row] ?? -1, [token]));
    // Before the chunk, which may lie behind a row in its own slot.
    const histories = [...decode.tokens.keys()].map((row) => (this.held[row] ?? []).slice());
    if (prefill !== undefined) this.#append(prefill.slot, prefill.past, prefill.tokens);

    if (prefill !== undefined) {
      const held = this.held[prefill.slot] ?? [];
      const unsampled = held.length - prefill.sampled;
      for (let token = 1; token <= prefill.sampled; token++) histories.push(held.slice(0, unsampled + token));
    }
    const { vocabSize } = this.limits;
    const size = histories.length * vocabSize;
    if (size > this.#logits.length) this.#logits = new Float32Array(size);
    const logits = this.#logits.subarray(0, size);
    for (const [row, history] of histories.entries()) {
      this.#fill(logits.subarray(row * vocabSize, (row + 1) * vocabSize), history);
    }
    this.#pass();
    return this.#options.asynchronous === true ? new Promise((resolve) => setImmediate(() => resolve(logits))) : logits;
  }

  copySlot(copy: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    checkCopy(this.shape, copy);
    this.held[copy.to] = this.#holding(copy.from, copy.tokens).slice(0, copy.tokens);
  }

  resize({ slots, capacity, kept }: Resize): void {
    checkResize(this.shape, this.limits, { slots, capacity, kept });
    this.held = Array.from({ length: slots }, (_, slot) => {
      const tokens = kept[slot] ?? 0;
      return tokens === 0 ? [] : this.#holding(slot, tokens).slice(0, tokens);
    });
    this.#capacity = capacity;
  }

  saveTokens(slot: number, from: number, to: number): KvBlock {
    checkSave(this.shape, slot, from, to);
    const tokens = Int32Array.from(this.#holding(slot, to).slice(from, to));
    return { from, tokens: tokens.length, bytes: new Uint8Array(tokens.buffer) };
  }

  loadTokens(slot: number, from: number, block: KvBlock): void {
    checkLoad(this.shape, this.limits, { slot, from, block });
    this.#append(slot, from, new Int32Array(block.bytes.slice().buffer));
  }

  [Symbol.dispose](): void {}

  /** A slot's tokens, of which at least so many were written: the real one would hand out what lay there before. */
  #holding(slot: number, tokens: number): readonly number[] {
    const held = this.held[slot] ?? [];
    if (held.length < tokens) throw new RuntimeError(`slot ${slot} does not hold ${tokens} tokens`);
    return held;
  }

  #append(slot: number, past: number, tokens: Iterable<number>): void {
    const held = this.held[slot];
    if (held === undefined || past < 0 || past > held.length) throw new RuntimeError(`slot ${slot} does not hold that`);
    held.length = past;
    held.push(...tokens);
  }

  #fill(logits: Float32Array, held: readonly number[]): void {
    if (held.includes(this.#options.poisonToken ?? -1)) return void logits.fill(NaN);
    // FNV-1a over the history, then one round of a mixer per candidate.
    let hash = 0x811c9dc5;
    for (const token of held) hash = Math.imul(hash ^ token, 0x01000193);
    for (let id = 0; id < logits.length; id++) {
      let mixed = Math.imul(hash ^ Math.imul(id + 1, 0x9e3779b9), 0x85ebca6b);
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
      logits[id] = ((mixed ^ (mixed >>> 16)) >>> 0) / 0x2000_0000;
    }
    for (const id of this.#options.shunned ?? []) logits[id] = -100;
    const next = this.#options.next?.(held);
    if (next !== undefined) logits[next] = 100;
  }

  #pass(): void {
    const { stepMs = 0 } = this.#options;
    if (stepMs > 0) blockFor(stepMs);
  }
}

function blockFor(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}
