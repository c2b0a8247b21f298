/// <reference lib="esnext.float16" />
/** GGML's non-linear 4-bit types: a code is an index into a fixed table of levels, which are denser near zero. */
import type { WeightEncoding } from "./weight-encoding.ts";
import { halves } from "./plain.ts";

const LEVELS: readonly number[] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/** `{ half scale; nibble codes[32] }`, weight = scale * level. The low nibbles are the first half of the block. */
export const IQ4_NL: WeightEncoding = {
  name: "IQ4_NL",
  blockSize: 32,
  blockBytes: 18,
  decode: (bytes, out) => {
    const half = halves(bytes);
    const levels = Int8Array.from(LEVELS);
    for (let at = 0, offset = 0; at < out.length; at += 32, offset += 18) {
      const scale = half[offset >> 1]!;
      for (let i = 0; i < 16; i++) {
        const pair = bytes[offset + 2 + i]!;
        out[at + i] = scale * levels[pair & 15]!;
        out[at + 16 + i] = scale * levels[pair >> 4]!;
      }
    }
  },
};

/** `{ half d; 2 bits scaleHigh[8]; nibble scaleLow[8]; nibble codes[256] }`, weight = d * (scale - 32) * level. */
export const IQ4_XS: WeightEncoding = {
  name: "IQ4_XS",
  blockSize: 256,
  blockBytes: 136,
  decode: (bytes, out) => {
    const half = halves(bytes);
    const levels = Int8Array.from(LEVELS);
    for (let at = 0, offset = 0; at < out.length; at += 256, offset += 136) {
      const d = half[offset >> 1]!;
      for (let part = 0; part < 8; part++) {
        const low = (bytes[offset + 4 + (part >> 1)]! >> ((part & 1) * 4)) & 15;
        const high = (bytes[offset + 2 + (part >> 2)]! >> ((part & 3) * 2)) & 3;
        const scale = d * ((low | (high << 4)) - 32);
        for (let i = 0; i < 16; i++) {
          const pair = bytes[offset + 8 + part * 16 + i]!;
          out[at + part * 32 + i] = scale * levels[pair & 15]!;
          out[at + part * 32 + 16 + i] = scale * levels[pair >> 4]!;
        }
      }
    }
  },
};
