/**
 * The keys and values of every slot: for each layer one buffer of keys and one of values,
 * `[slots, kvHeads, capacity, headDim]`. Neighbouring slots are neighbours in memory, so that running rows are a view.
 * Knows no ONNX Runtime.
 */
import { type KvBlock, type Resize, RuntimeError } from "./runtime.ts";

/** The sizes of a model's keys and values. */
export interface KvModel {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** Which rows of the slab a run sees. */
export interface SlotRange {
  readonly first: number;
  readonly rows: number;
}

const FLOAT_BYTES = Float32Array.BYTES_PER_ELEMENT;

/** Bytes that one token's keys and values take, all layers together. */
export function kvTokenBytes({ layers, kvHeads, headDim }: KvModel): number {
  return 2 * layers * kvHeads * headDim * FLOAT_BYTES;
}

export class KvSlab {
  readonly model: KvModel;
  #slots = 0;
  #capacity = 0;
  #buffers: Float32Array<ArrayBuffer>[];

  /** A slab without slots. */
  constructor(model: KvModel) {
    this.model = model;
    this.#buffers = this.#allocate(0);
  }

  get slots(): number {
    return this.#slots;
  }

  get capacity(): number {
    return this.#capacity;
  }

  /**
   * Keys and values of layer 0, keys and values of layer 1, …. Pages that were never written cost no memory. Others
   * after a `resize`.
   */
  get buffers(): readonly Float32Array<ArrayBuffer>[] {
    return this.#buffers;
  }

  /** The numbers that one slot holds in one buffer. */
  get slotSize(): number {
    return this.model.kvHeads * this.#capacity * this.model.headDim;
  }

  /** The dimensions of a view. */
  dimensions({ rows }: SlotRange): readonly number[] {
    return [rows, this.model.kvHeads, this.#capacity, this.model.headDim];
  }

  /**
   * Gives the slab another shape. No tensor may show it any more: its memory is given back at once.
   *
   * @throws {RuntimeError} when the memory can't be had; nothing is changed then
   */
  resize({ slots, capacity, kept }: Resize): void {
    const { kvHeads, headDim } = this.model;
    // All before any is filled: an allocation costs no memory yet, and one that fails must leave the slab whole.
    const buffers = this.#allocate(slots * kvHeads * capacity * headDim);
    for (const [index, buffer] of buffers.entries()) {
      const old = this.#buffers[index];
      if (old === undefined) throw new RuntimeError("a slab has lost a buffer");
      for (const [slot, tokens] of kept.entries()) {
        if (tokens === 0) continue;
        for (let head = slot * kvHeads; head < (slot + 1) * kvHeads; head++) {
          const source = head * this.#capacity * headDim;
          buffer.set(old.subarray(source, source + tokens * headDim), head * capacity * headDim);
        }
      }
      // Frees the old buffer now, not when it is collected: the peak is both slabs' written pages of one layer.
      old.buffer.transfer(0);
    }
    this.#buffers = buffers;
    this.#slots = slots;
    this.#capacity = capacity;
  }

  /** Copies the first `tokens` tokens of one slot to another. */
  copySlot({ from, to, tokens }: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    const { kvHeads, headDim } = this.model;
    for (const buffer of this.#buffers) {
      for (let head = 0; head < kvHeads; head++) {
        const source = (from * kvHeads + head) * this.#capacity * headDim;
        buffer.copyWithin((to * kvHeads + head) * this.#capacity * headDim, source, source + tokens * headDim);
      }
    }
  }

  /** Copies tokens `from` (inclusive) to `to` (exclusive) of a slot out. */
  save(slot: number, from: number, to: number): KvBlock {
    const tokens = to - from;
    const values = new Float32Array((tokens * kvTokenBytes(this.model)) / FLOAT_BYTES);
    this.#eachRun(slot, { from, tokens }, (run, offset) => values.set(run, offset));
    return { from, tokens, bytes: new Uint8Array(values.buffer) };
  }

  /** Copies a block of `tokens * kvTokenBytes` bytes into a slot. */
  load(slot: number, { from, tokens, bytes }: KvBlock): void {
    const values = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / FLOAT_BYTES);
    this.#eachRun(slot, { from, tokens }, (run, offset) => run.set(values.subarray(offset, offset + run.length)));
  }

  /** The tokens' numbers lie together by head: tells of each such run, and where it is in a block. */
  #eachRun(
    slot: number,
    { from, tokens }: { readonly from: number; readonly tokens: number },
    visit: (run: Float32Array, offset: number) => void,
  ): void {
    const { kvHeads, headDim } = this.model;
    const length = tokens * headDim;
    let offset = 0;
    for (const buffer of this.#buffers) {
      for (let head = slot * kvHeads; head < (slot + 1) * kvHeads; head++) {
        const start = (head * this.#capacity + from) * headDim;
        visit(buffer.subarray(start, start + length), offset);
        offset += length;
      }
    }
  }

  #allocate(size: number): Float32Array<ArrayBuffer>[] {
    try {
      return Array.from({ length: this.model.layers * 2 }, () => new Float32Array(new ArrayBuffer(size * FLOAT_BYTES)));
    } catch (cause) {
      throw new RuntimeError("there is no memory for a KV slab of that size", { cause });
    }
  }
}
