/// <reference lib="esnext.float16" />
/**
 * Turns the bytes of a GGML tensor into floats. Knows element types, not tensors or files.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (the block structs) and ggml-quants.c
 */

/** How one GGML element type is stored. */
export interface ElementType {
  readonly name: string;
  /** Weights in a block. */
  readonly blockSize: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
  /** Decodes every block of `bytes` into `out`. */
  readonly decode: (bytes: DataView, out: Float32Array<ArrayBuffer>) => void;
}

/** The element types that can be read, by GGML's numbers. */
const ELEMENT_TYPES: ReadonlyMap<number, ElementType> = new Map([
  [0, { name: "F32", blockSize: 1, blockBytes: 4, decode: decodeF32 }],
  [1, { name: "F16", blockSize: 1, blockBytes: 2, decode: decodeF16 }],
  [2, { name: "Q4_0", blockSize: 32, blockBytes: 18, decode: decodeQ4_0 }],
  [3, { name: "Q4_1", blockSize: 32, blockBytes: 20, decode: decodeQ4_1 }],
  [8, { name: "Q8_0", blockSize: 32, blockBytes: 34, decode: decodeQ8_0 }],
  [30, { name: "BF16", blockSize: 1, blockBytes: 2, decode: decodeBF16 }],
]);

/** The element type with GGML's number `dtype`, or `undefined` where it can't be read. */
export function elementType(dtype: number): ElementType | undefined {
  return ELEMENT_TYPES.get(dtype);
}

/** The names of all element types that can be read, for messages. */
export function elementTypeNames(): string {
  return [...ELEMENT_TYPES.values()].map(({ name }) => name).join(", ");
}

/** Decodes whole blocks; `bytes.length` must be a multiple of the type's block. */
export function dequantize(bytes: Uint8Array, type: ElementType): Float32Array {
  const out = new Float32Array((bytes.length / type.blockBytes) * type.blockSize);
  type.decode(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), out);
  return out;
}

function decodeF32(bytes: DataView, out: Float32Array): void {
  for (let i = 0; i < out.length; i++) out[i] = bytes.getFloat32(i * 4, true);
}

function decodeF16(bytes: DataView, out: Float32Array): void {
  for (let i = 0; i < out.length; i++) out[i] = bytes.getFloat16(i * 2, true);
}

/** A BF16 is the upper half of a float. */
function decodeBF16(bytes: DataView, out: Float32Array<ArrayBuffer>): void {
  const words = new Uint32Array(out.buffer);
  for (let i = 0; i < words.length; i++) words[i] = bytes.getUint16(i * 2, true) << 16;
}

/** `{ half scale; nibble codes[32] }`, weight = (code - 8) * scale; low nibbles are the first half of the block. */
function decodeQ4_0(bytes: DataView, out: Float32Array): void {
  for (let at = 0, offset = 0; at < out.length; at += 32, offset += 18) {
    const scale = bytes.getFloat16(offset, true);
    for (let i = 0; i < 16; i++) {
      const pair = bytes.getUint8(offset + 2 + i);
      out[at + i] = ((pair & 15) - 8) * scale;
      out[at + 16 + i] = ((pair >> 4) - 8) * scale;
    }
  }
}

/** `{ half scale; half min; nibble codes[32] }`, weight = code * scale + min; nibbles as in Q4_0. */
function decodeQ4_1(bytes: DataView, out: Float32Array): void {
  for (let at = 0, offset = 0; at < out.length; at += 32, offset += 20) {
    const scale = bytes.getFloat16(offset, true);
    const min = bytes.getFloat16(offset + 2, true);
    for (let i = 0; i < 16; i++) {
      const pair = bytes.getUint8(offset + 4 + i);
      out[at + i] = (pair & 15) * scale + min;
      out[at + 16 + i] = (pair >> 4) * scale + min;
    }
  }
}

/** `{ half scale; int8 codes[32] }`, weight = code * scale. */
function decodeQ8_0(bytes: DataView, out: Float32Array): void {
  for (let at = 0, offset = 0; at < out.length; at += 32, offset += 34) {
    const scale = bytes.getFloat16(offset, true);
    for (let i = 0; i < 32; i++) out[at + i] = bytes.getInt8(offset + 2 + i) * scale;
  }
}
