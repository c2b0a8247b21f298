/** Describes how one type of weights is stored: the numbers of a tensor, in blocks. Depends on no type. */
export interface WeightEncoding {
  readonly name: string;
  /** Weights in a block. */
  readonly blockSize: number;
  /** Bytes of a block. */
  readonly blockBytes: number;
  /** Decodes all blocks of `bytes` into `out`. The bytes must begin at an even offset in their buffer. */
  readonly decode: (bytes: Uint8Array<ArrayBuffer>, out: Float32Array<ArrayBuffer>) => void;
}

/** Decodes whole blocks; `bytes.length` must be a multiple of the block's size. */
export function dequantize(bytes: Uint8Array<ArrayBuffer>, encoding: WeightEncoding): Float32Array<ArrayBuffer> {
  const out = new Float32Array((bytes.length / encoding.blockBytes) * encoding.blockSize);
  encoding.decode(bytes, out);
  return out;
}
