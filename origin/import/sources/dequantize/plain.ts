/// <reference lib="esnext.float16" />
/** Numbers that are stored one by one, in single precision and in two 16-bit types. */
import type { WeightEncoding } from "./weight-encoding.ts";

export const F32: WeightEncoding = {
  name: "F32",
  blockSize: 1,
  blockBytes: 4,
  // Copied as bytes: a view of floats would need an offset divisible by four.
  decode: (bytes, out) => new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes),
};

export const F16: WeightEncoding = {
  name: "F16",
  blockSize: 1,
  blockBytes: 2,
  decode: (bytes, out) => {
    const half = halves(bytes);
    // `out.set(half)` takes nearly twice as long in V8 13.6.
    for (let i = 0; i < out.length; i++) out[i] = half[i]!;
  },
};

/** bfloat16: the upper half of a single-precision float. */
export const BF16: WeightEncoding = {
  name: "BF16",
  blockSize: 1,
  blockBytes: 2,
  decode: (bytes, out) => {
    const upper = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    const words = new Uint32Array(out.buffer, out.byteOffset, out.length);
    for (let i = 0; i < words.length; i++) words[i] = upper[i]! << 16;
  },
};

/** Views the bytes as half-precision numbers, to read scales. All blocks have an even number of bytes. */
export function halves(bytes: Uint8Array<ArrayBuffer>): Float16Array<ArrayBuffer> {
  return new Float16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
}
