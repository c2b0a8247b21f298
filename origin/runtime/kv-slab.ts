/**
 * The keys and values of every slot in this process's memory: for each layer one buffer of keys and one of values,
 * `[slots, kvHeads, capacity, headDim]`. Neighbouring slots are neighbours in memory, so that running rows are a view.
 * Knows no ONNX Runtime.
 */
import { kvHeadBytes, type KvModel, kvTokenBytes, type TokenRange } from "./kv-model.ts";
import { type KvBlock, type Resize, RuntimeError } from "./runtime.ts";

export class KvSlab {
  readonly model: KvModel;
  #slots = 0;
  #capacity = 0;
  #buffers: Uint8Array<ArrayBuffer>[];

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
  get buffers(): readonly Uint8Array<ArrayBuffer>[] {
    return this.#buffers;
  }

  /** Bytes that one slot takes in one buffer. */
  get slotBytes(): number {
    return this.model.kvHeads * this.#capacity * kvHeadBytes(this.model);
  }

  /**
   * Gives the slab another shape. No tensor may show it any more: its memory is given back at once.
   *
   * @throws {RuntimeError} when the memory can't be had; nothing is changed then
   */
  resize({ slots, capacity, kept }: Resize): void {
    const { kvHeads } = this.model;
    const headBytes = kvHeadBytes(this.model);
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
    this.#slots = slots;
    this.#capacity = capacity;
  }

  /** Copies the first `tokens` tokens of one slot to another. */
  copySlot({ from, to, tokens }: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    const { kvHeads } = this.model;
    const headBytes = kvHeadBytes(this.model);
    const strideBytes = this.#capacity * headBytes;
    for (const buffer of this.#buffers) {
      for (let head = 0; head < kvHeads; head++) {
        const source = (from * kvHeads + head) * strideBytes;
        buffer.copyWithin((to * kvHeads + head) * strideBytes, source, source + tokens * headBytes);
      }
    }
  }

  /** Copies tokens out. */
  save(range: TokenRange): KvBlock {
    const { from, tokens } = range;
    const bytes = new Uint8Array(tokens * kvTokenBytes(this.model));
    this.#eachRun(range, (run, offset) => bytes.set(run, offset));
    return { from, tokens, bytes };
  }

  /** Copies a block of `tokens * kvTokenBytes` bytes into a slot. */
  load(slot: number, { from, tokens, bytes }: KvBlock): void {
    this.#eachRun({ slot, from, tokens }, (run, offset) => run.set(bytes.subarray(offset, offset + run.length)));
  }

  /** The tokens' numbers lie together by head: tells of each such run, and where it is in a block. */
  #eachRun({ slot, from, tokens }: TokenRange, visit: (run: Uint8Array, offset: number) => void): void {
    const { kvHeads } = this.model;
    const headBytes = kvHeadBytes(this.model);
    const length = tokens * headBytes;
    let offset = 0;
    for (const buffer of this.#buffers) {
      for (let head = slot * kvHeads; head < (slot + 1) * kvHeads; head++) {
        const start = (head * this.#capacity + from) * headBytes;
        visit(buffer.subarray(start, start + length), offset);
        offset += length;
      }
    }
  }

  #allocate(bytes: number): Uint8Array<ArrayBuffer>[] {
    try {
      return Array.from({ length: this.model.layers * 2 }, () => new Uint8Array(new ArrayBuffer(bytes)));
    } catch (cause) {
      throw new RuntimeError("there is no memory for a KV slab of that size", { cause });
    }
  }
}
