/**
 * How the numbers of a tensor are stored, GGML's types by their numbers among them: the families beside this file say how
 * each is decoded. Knows element types, not tensors or files.
 *
 * Every decoder gives the very floats that llama.cpp's reference does, which computes in single precision. JavaScript
 * computes in double and rounds once, when the float is stored; a half times an integer of a few bits is exact in both,
 * so there never is a second rounding to lose.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (the block structs) and ggml-quants.c
 */
import { IQ4_NL, IQ4_XS } from "./iq4.ts";
import { Q2_K, Q3_K, Q4_K, Q5_K, Q6_K } from "./k-quants.ts";
import { BF16, F16, F32 } from "./plain.ts";
import { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 } from "./small-blocks.ts";

/** How one element type is stored. */
export interface ElementType {
  readonly name: string;
  /** Weights in a block. */
  readonly blockSize: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
  /** Decodes every block of `bytes`, which begin at an even offset in their buffer, into `out`. */
  readonly decode: (bytes: Uint8Array<ArrayBuffer>, out: Float32Array<ArrayBuffer>) => void;
}

/** The element types that can be read, by GGML's numbers. */
const GGML_TYPES: ReadonlyMap<number, ElementType> = new Map([
  [0, F32],
  [1, F16],
  [2, Q4_0],
  [3, Q4_1],
  [6, Q5_0],
  [7, Q5_1],
  [8, Q8_0],
  [10, Q2_K],
  [11, Q3_K],
  [12, Q4_K],
  [13, Q5_K],
  [14, Q6_K],
  [20, IQ4_NL],
  [23, IQ4_XS],
  [30, BF16],
]);

/** The element type with GGML's number `dtype`, or `undefined` where it can't be read. */
export function ggmlType(dtype: number): ElementType | undefined {
  return GGML_TYPES.get(dtype);
}

/** The names of all GGML types that can be read, for messages. */
export function ggmlTypeNames(): string {
  return [...GGML_TYPES.values()].map(({ name }) => name).join(", ");
}

/** Decodes whole blocks; `bytes.length` must be a multiple of the type's block. */
export function dequantize(bytes: Uint8Array<ArrayBuffer>, type: ElementType): Float32Array<ArrayBuffer> {
  const out = new Float32Array((bytes.length / type.blockBytes) * type.blockSize);
  type.decode(bytes, out);
  return out;
}
