/**
 * The keys and values of every slot in this process's memory. Neighbouring slots are neighbours in memory, so that running
 * rows are a view. Knows no ONNX Runtime.
 */
import { kvHeadBytes, type KvModel, kvTokenBytes, type TokenRange } from "./kv-model.ts";
import { type KvSpace, MovingSpace } from "./kv-space.ts";
import type { KvBlock, Resize } from "./runtime.ts";

export class KvSlab {
  readonly model: KvModel;
  readonly #space: KvSpace;
  #slots = 0;
  #capacity = 0;

  /** A slab without slots. */
  constructor(model: KvModel, space: KvSpace = new MovingSpace(model)) {
    this.model = model;
    this.#space = space;
  }

  get slots(): number {
    return this.#slots;
  }

  get capacity(): number {
    return this.#capacity;
  }

  /** Tokens from one head of a slot to the next. Another after a `resize`. */
  get stride(): number {
    return this.#space.stride;
  }

  /** Keys and values of layer 0, keys and values of layer 1, …. Others after a `resize`. */
  get buffers(): readonly Uint8Array<ArrayBuffer>[] {
    return this.#space.buffers;
  }

  /**
   * Gives the slab another shape. No tensor may show it any more: its memory may be given back at once.
   *
   * @throws {RuntimeError} when the memory can't be had; nothing is changed then
   */
  resize(resize: Resize): void {
    this.#space.reshape(resize);
    this.#slots = resize.slots;
    this.#capacity = resize.capacity;
  }

  /** Copies the first `tokens` tokens of one slot to another. */
  copySlot({ from, to, tokens }: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    const { kvHeads } = this.model;
    const headBytes = kvHeadBytes(this.model);
    const strideBytes = this.stride * headBytes;
    for (const buffer of this.buffers) {
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
    for (const buffer of this.buffers) {
      for (let head = slot * kvHeads; head < (slot + 1) * kvHeads; head++) {
        const start = (head * this.stride + from) * headBytes;
        visit(buffer.subarray(start, start + length), offset);
        offset += length;
      }
    }
  }
}
