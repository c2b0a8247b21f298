/// <reference lib="esnext.float16" />
/** Numbers that are stored one by one: single precision, and two ways of half of it. */
import type { ElementType } from "./element-types.ts";

export const F32: ElementType = {
  name: "F32",
  blockSize: 1,
  blockBytes: 4,
  // By bytes: a float's own view would need an offset divisible by four.
  decode: (bytes, out) => new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes),
};

export const F16: ElementType = {
  name: "F16",
  blockSize: 1,
  blockBytes: 2,
  decode: (bytes, out) => {
    const half = halves(bytes);
    // `out.set(half)` takes nearly twice as long in V8 13.6.
    for (let i = 0; i < out.length; i++) out[i] = half[i]!;
  },
};

/** The upper half of a float. */
export const BF16: ElementType = {
  name: "BF16",
  blockSize: 1,
  blockBytes: 2,
  decode: (bytes, out) => {
    const upper = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    const words = new Uint32Array(out.buffer, out.byteOffset, out.length);
    for (let i = 0; i < words.length; i++) words[i] = upper[i]! << 16;
  },
};

/** The bytes as half-precision numbers: how scales lie in a block, every one of which has an even number of bytes. */
export function halves(bytes: Uint8Array<ArrayBuffer>): Float16Array<ArrayBuffer> {
  return new Float16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
}
