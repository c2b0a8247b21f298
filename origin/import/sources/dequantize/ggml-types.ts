/**
 * GGML's types that can be read, by GGML's numbers. The files beside this one decode them.
 *
 * Every decoder gives exactly the floats of llama.cpp's reference, which computes in single precision. JavaScript computes in
 * double precision and rounds once, when the float is stored. A half times an integer of a few bits is exact in both, so both
 * round only once.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (the block structs) and ggml-quants.c
 */
import { IQ4_NL, IQ4_XS } from "./iq4.ts";
import { Q2_K, Q3_K, Q4_K, Q5_K, Q6_K } from "./k-quants.ts";
import { BF16, F16, F32 } from "./plain.ts";
import { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 } from "./small-blocks.ts";
import type { WeightEncoding } from "./weight-encoding.ts";

const GGML_TYPES: ReadonlyMap<number, WeightEncoding> = new Map([
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

/** The encoding of GGML's type number `dtype`; undefined if the type can't be read. */
export function ggmlType(dtype: number): WeightEncoding | undefined {
  return GGML_TYPES.get(dtype);
}

/** The names of all types that can be read, for messages. */
export function ggmlTypeNames(): string {
  return [...GGML_TYPES.values()].map(({ name }) => name).join(", ");
}
