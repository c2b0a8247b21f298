/// <reference lib="esnext.float16" />
/**
 * GGML's blocks of 32 weights with one scale: Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0. If two codes share a byte, the low nibbles
 * are the first half of the block.
 */
import type { WeightEncoding } from "./weight-encoding.ts";
import { halves } from "./plain.ts";

/** `{ half scale; nibble codes[32] }`, weight = (code - 8) * scale. */
export const Q4_0: WeightEncoding = {
  name: "Q4_0",
  blockSize: 32,
  blockBytes: 18,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 32, offset += 18) {
      const scale = half[offset >> 1]!;
      for (let i = 0; i < 16; i++) {
        const pair = bytes[offset + 2 + i]!;
        out[at + i] = ((pair & 15) - 8) * scale;
        out[at + 16 + i] = ((pair >> 4) - 8) * scale;
      }
    }
  },
};

/** `{ half scale; half min; nibble codes[32] }`, weight = code * scale + min. */
export const Q4_1: WeightEncoding = {
  name: "Q4_1",
  blockSize: 32,
  blockBytes: 20,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 32, offset += 20) {
      const scale = half[offset >> 1]!;
      const min = half[(offset >> 1) + 1]!;
      for (let i = 0; i < 16; i++) {
        const pair = bytes[offset + 4 + i]!;
        out[at + i] = (pair & 15) * scale + min;
        out[at + 16 + i] = (pair >> 4) * scale + min;
      }
    }
  },
};

/** `{ half scale; bit fifth[32]; nibble codes[32] }`, weight = (code - 16) * scale; the fifth bit is the highest. */
export const Q5_0: WeightEncoding = {
  name: "Q5_0",
  blockSize: 32,
  blockBytes: 22,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 32, offset += 22) {
      const scale = half[offset >> 1]!;
      const fifth = word(bytes, offset + 2);
      for (let i = 0; i < 16; i++) {
        const pair = bytes[offset + 6 + i]!;
        out[at + i] = (((pair & 15) | (((fifth >>> i) & 1) << 4)) - 16) * scale;
        out[at + 16 + i] = (((pair >> 4) | (((fifth >>> (i + 16)) & 1) << 4)) - 16) * scale;
      }
    }
  },
};

/** `{ half scale; half min; bit fifth[32]; nibble codes[32] }`, weight = code * scale + min. */
export const Q5_1: WeightEncoding = {
  name: "Q5_1",
  blockSize: 32,
  blockBytes: 24,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 32, offset += 24) {
      const scale = half[offset >> 1]!;
      const min = half[(offset >> 1) + 1]!;
      const fifth = word(bytes, offset + 4);
      for (let i = 0; i < 16; i++) {
        const pair = bytes[offset + 8 + i]!;
        out[at + i] = ((pair & 15) | (((fifth >>> i) & 1) << 4)) * scale + min;
        out[at + 16 + i] = ((pair >> 4) | (((fifth >>> (i + 16)) & 1) << 4)) * scale + min;
      }
    }
  },
};

/** `{ half scale; int8 codes[32] }`, weight = code * scale. */
export const Q8_0: WeightEncoding = {
  name: "Q8_0",
  blockSize: 32,
  blockBytes: 34,
  decode: (bytes, out) => {
    const half = halves(bytes);
    const codes = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0, offset = 0; at < out.length; at += 32, offset += 34) {
      const scale = half[offset >> 1]!;
      for (let i = 0; i < 32; i++) out[at + i] = codes[offset + 2 + i]! * scale;
    }
  },
};

function word(bytes: Uint8Array, offset: number): number {
  return bytes[offset]! | (bytes[offset + 1]! << 8) | (bytes[offset + 2]! << 16) | (bytes[offset + 3]! << 24);
}
