/**
 * The memory of a KV slab: for each layer a buffer of keys and one of values, `[slots, kvHeads, stride, headDim]`. The
 * stride is the room that each head of a slot has, in tokens: the slab's capacity or more. Knows no token.
 */
import { kvHeadBytes, type KvModel } from "./kv-model.ts";
import { type Resize, RuntimeError } from "./runtime.ts";

export interface KvSpace {
  /** Keys and values of layer 0, keys and values of layer 1, …. Pages that were never written cost no memory. */
  readonly buffers: readonly Uint8Array<ArrayBuffer>[];
  /** Tokens from one head to the next. */
  readonly stride: number;
  /**
   * Makes room for another shape, and keeps what is to be kept. Nobody may read the present buffers while it does.
   *
   * @throws {RuntimeError} when the memory can't be had; nothing is changed then
   */
  reshape(resize: Resize): void;
}

/** Buffers that are as large as the slab: a new shape is new ones, into which what is kept is copied. */
export class MovingSpace implements KvSpace {
  readonly #model: KvModel;
  #buffers: Uint8Array<ArrayBuffer>[];
  #capacity = 0;

  constructor(model: KvModel) {
    this.#model = model;
    this.#buffers = this.#allocate(0);
  }

  get buffers(): readonly Uint8Array<ArrayBuffer>[] {
    return this.#buffers;
  }

  get stride(): number {
    return this.#capacity;
  }

  reshape({ slots, capacity, kept }: Resize): void {
    const { kvHeads } = this.#model;
    const headBytes = kvHeadBytes(this.#model);
    // All before any is filled: an allocation costs no memory yet, and one that fails must leave the slab whole.
    const buffers = this.#allocate(slots * kvHeads * capacity * headBytes);
    for (const [index, buffer] of buffers.entries()) {
      const old = this.#buffers[index];
      if (old === undefined) throw new RuntimeError("a slab has lost a buffer");
      for (const [slot, tokens] of kept.entries()) {
        if (tokens === 0) continue;
        for (let head = slot * kvHeads; head < (slot + 1) * kvHeads; head++) {
          const source = head * this.#capacity * headBytes;
          buffer.set(old.subarray(source, source + tokens * headBytes), head * capacity * headBytes);
        }
      }
      // Frees the old buffer now, not when it is collected: the peak is both slabs' written pages of one layer.
      old.buffer.transfer(0);
    }
    this.#buffers = buffers;
    this.#capacity = capacity;
  }

  #allocate(bytes: number): Uint8Array<ArrayBuffer>[] {
    try {
      return Array.from({ length: this.#model.layers * 2 }, () => new Uint8Array(new ArrayBuffer(bytes)));
    } catch (cause) {
      throw new RuntimeError("there is no memory for a KV slab of that size", { cause });
    }
  }
}
