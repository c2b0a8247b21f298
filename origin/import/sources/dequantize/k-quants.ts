/// <reference lib="esnext.float16" />
/**
 * GGML's K-quants: super-blocks of 256 weights in 8 or 16 parts. The scales of the parts, and in some types their minima, are
 * small integers that share one half-precision factor.
 */
import type { WeightEncoding } from "./weight-encoding.ts";
import { halves } from "./plain.ts";

/** `{ nibble scale, min [16]; 2 bits codes[256]; half d, dmin }`, weight = d * scale * code - dmin * min. */
export const Q2_K: WeightEncoding = {
  name: "Q2_K",
  blockSize: 256,
  blockBytes: 84,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 256, offset += 84) {
      const d = half[(offset + 80) >> 1]!;
      const dmin = half[(offset + 82) >> 1]!;
      for (let part = 0; part < 16; part++) {
        const packed = bytes[offset + part]!;
        const scale = d * (packed & 15);
        const min = dmin * (packed >> 4);
        const { codes, shift } = placeOfTwoBits(part);
        for (let i = 0; i < 16; i++) {
          out[at + part * 16 + i] = scale * ((bytes[offset + 16 + codes + i]! >> shift) & 3) - min;
        }
      }
    }
  },
};

/** `{ bit third[256]; 2 bits codes[256]; 6 bits scale[16]; half d }`, weight = d * (scale - 32) * code. */
export const Q3_K: WeightEncoding = {
  name: "Q3_K",
  blockSize: 256,
  blockBytes: 110,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 256, offset += 110) {
      const d = half[(offset + 108) >> 1]!;
      for (let part = 0; part < 16; part++) {
        const low = (bytes[offset + 96 + (part & 7)]! >> (part < 8 ? 0 : 4)) & 15;
        const high = (bytes[offset + 104 + (part & 3)]! >> ((part >> 2) * 2)) & 3;
        const scale = d * ((low | (high << 4)) - 32);
        const { codes, shift } = placeOfTwoBits(part);
        const [third, bit] = [offset + (part & 1) * 16, part >> 1];
        for (let i = 0; i < 16; i++) {
          const code = (bytes[offset + 32 + codes + i]! >> shift) & 3;
          // The third bit is inverted: if it is 0, the code is negative.
          out[at + part * 16 + i] = scale * (code - (((bytes[third + i]! >> bit) & 1) === 0 ? 4 : 0));
        }
      }
    }
  },
};

/** `{ half d, dmin; 6 bits scale, min [8]; nibble codes[256] }`, weight = d * scale * code - dmin * min. */
export const Q4_K: WeightEncoding = {
  name: "Q4_K",
  blockSize: 256,
  blockBytes: 144,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 256, offset += 144) {
      const d = half[offset >> 1]!;
      const dmin = half[(offset >> 1) + 1]!;
      for (let part = 0; part < 8; part++) {
        const scale = d * sixBitScale(bytes, offset + 4, part);
        const min = dmin * sixBitMin(bytes, offset + 4, part);
        // Two parts share 32 bytes. The first part has the low nibbles.
        const [codes, shift] = [offset + 16 + (part >> 1) * 32, (part & 1) * 4];
        for (let i = 0; i < 32; i++) out[at + part * 32 + i] = scale * ((bytes[codes + i]! >> shift) & 15) - min;
      }
    }
  },
};

/** `{ half d, dmin; 6 bits scale, min [8]; bit fifth[256]; nibble codes[256] }`, weight as in Q4_K. */
export const Q5_K: WeightEncoding = {
  name: "Q5_K",
  blockSize: 256,
  blockBytes: 176,
  decode: (bytes, out) => {
    const half = halves(bytes);
    for (let at = 0, offset = 0; at < out.length; at += 256, offset += 176) {
      const d = half[offset >> 1]!;
      const dmin = half[(offset >> 1) + 1]!;
      for (let part = 0; part < 8; part++) {
        const scale = d * sixBitScale(bytes, offset + 4, part);
        const min = dmin * sixBitMin(bytes, offset + 4, part);
        const [codes, shift] = [offset + 48 + (part >> 1) * 32, (part & 1) * 4];
        for (let i = 0; i < 32; i++) {
          const fifth = (bytes[offset + 16 + i]! >> part) & 1;
          out[at + part * 32 + i] = scale * (((bytes[codes + i]! >> shift) & 15) | (fifth << 4)) - min;
        }
      }
    }
  },
};

/** `{ nibble codes[256]; 2 bits upper[256]; int8 scale[16]; half d }`, weight = d * scale * (code - 32). */
export const Q6_K: WeightEncoding = {
  name: "Q6_K",
  blockSize: 256,
  blockBytes: 210,
  decode: (bytes, out) => {
    const half = halves(bytes);
    const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let at = 0, offset = 0; at < out.length; at += 256, offset += 210) {
      const d = half[(offset + 208) >> 1]!;
      for (let part = 0; part < 16; part++) {
        const scale = d * signed[offset + 192 + part]!;
        // Each half of the block has 64 bytes of nibbles, low nibbles first, and 32 bytes with four times two bits.
        const [side, quarter, odd] = [part >> 3, (part >> 1) & 3, (part & 1) * 16];
        const [codes, codeShift] = [offset + side * 64 + (quarter & 1) * 32 + odd, (quarter >> 1) * 4];
        const [uppers, upperShift] = [offset + 128 + side * 32 + odd, quarter * 2];
        for (let i = 0; i < 16; i++) {
          const upper = (bytes[uppers + i]! >> upperShift) & 3;
          out[at + part * 16 + i] = scale * ((((bytes[codes + i]! >> codeShift) & 15) | (upper << 4)) - 32);
        }
      }
    }
  },
};

/**
 * The position of a part's 2-bit codes: byte offset and bit shift. Half a block (8 parts) shares 32 bytes; each 32 weights of
 * it take the next two bits of all of them.
 */
function placeOfTwoBits(part: number): { readonly codes: number; readonly shift: number } {
  return { codes: (part >> 3) * 32 + (part & 1) * 16, shift: ((part >> 1) & 3) * 2 };
}

/**
 * A part's scale out of 12 bytes. Parts 0 to 3: the low six bits of bytes 0 to 3. Parts 4 to 7: the low nibbles of bytes 8 to
 * 11, and the high two bits of bytes 0 to 3.
 */
function sixBitScale(bytes: Uint8Array, offset: number, part: number): number {
  if (part < 4) return bytes[offset + part]! & 63;
  return (bytes[offset + 4 + part]! & 15) | ((bytes[offset + part - 4]! >> 6) << 4);
}

/** A part's minimum, stored like the scales: in bytes 4 to 7 and the high nibbles of bytes 8 to 11. */
function sixBitMin(bytes: Uint8Array, offset: number, part: number): number {
  if (part < 4) return bytes[offset + 4 + part]! & 63;
  return (bytes[offset + 4 + part]! >> 4) | ((bytes[offset + part]! >> 6) << 4);
}
