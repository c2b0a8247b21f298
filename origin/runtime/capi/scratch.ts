/**
 * Memory for the small inputs of one run. They are copied here because the arrays of a plan may lie in the collected
 * heap, where they move; this buffer does not.
 */
import { RuntimeError } from "../port/runtime.ts";
import { addressOf } from "./tensor.ts";

/** What the kernels' widest loads like. */
const ALIGNMENT_BYTES = 64;
/** More inputs than any graph has besides the KV slab; each may waste one alignment. */
const INPUTS_MAX = 16;

export class Scratch {
  readonly #memory: Uint8Array<ArrayBuffer>;
  readonly #address: bigint;
  #used = 0;

  /** @param bytes - what the inputs of one run come to at most */
  constructor(bytes: number) {
    this.#memory = new Uint8Array(new ArrayBuffer(bytes + INPUTS_MAX * ALIGNMENT_BYTES));
    this.#address = addressOf(this.#memory);
  }

  /** Begins the next run. */
  clear(): void {
    this.#used = 0;
  }

  /** Copies an array in and returns its address, good until `clear`. */
  put(values: Int32Array | BigInt64Array): bigint {
    const offset = this.#used;
    if (offset + values.byteLength > this.#memory.length) throw new RuntimeError("the inputs of a run are too long");
    this.#memory.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), offset);
    this.#used = Math.ceil((offset + values.byteLength) / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    return this.#address + BigInt(offset);
  }
}
