/** Reads tensors at known places in files. Does not depend on the formats of headers. */
import { ImportError } from "../../manifest/import-error.ts";
import { dequantize, type WeightEncoding } from "./dequantize/weight-encoding.ts";
import type { ReadableFile } from "./readable-file.ts";
import type { TensorFile } from "./tensor-file.ts";

/** The place of a tensor, checked to lie inside its file. */
export interface StoredTensor {
  readonly file: ReadableFile;
  /** Dimensions, the contiguous one last. */
  readonly shape: readonly number[];
  /** Encoding of the elements; only its name if they can't be read. */
  readonly type: WeightEncoding | string;
  /** Position in bytes from the beginning of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** Makes the part of a `TensorFile` that reads tensors. */
export function tensorReader(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
): Pick<TensorFile, "shapes" | "readTensor" | "readRows"> {
  const find = (name: string): StoredTensor & { readonly type: WeightEncoding } => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new ImportError("invalid-file", `${path} has no tensor ${name}`);
    const { type } = tensor;
    if (typeof type === "object") return { ...tensor, type };
    throw new ImportError("unsupported-model", `${tensor.file.path} stores ${name} as ${type}, which is not supported`);
  };
  return {
    shapes: new Map([...tensors].map(([name, { shape }]) => [name, shape])),
    readTensor: (name) => {
      const { file, type, offset, bytes } = find(name);
      return checkFinite(dequantize(file.read(offset, bytes), type), file, name);
    },
    readRows: (name, from, to) => {
      const { file, type, offset, bytes, shape } = find(name);
      const rowBytes = ((shape.at(-1) ?? 1) / type.blockSize) * type.blockBytes;
      if (!(from >= 0 && from <= to && to * rowBytes <= bytes)) {
        throw new RangeError(`${name} has no rows ${from} to ${to}`);
      }
      return checkFinite(dequantize(file.read(offset + from * rowBytes, (to - from) * rowBytes), type), file, name);
    },
  };
}

/** Refuses weights that are NaN or infinite. They would make every answer nonsense, and quantization would hide them. */
function checkFinite(values: Float32Array, { path }: ReadableFile, name: string): Float32Array {
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i])) continue;
    throw new ImportError("invalid-file", `${path} has infinite or NaN weights in ${name}`);
  }
  return values;
}

/** The number of elements of a shape; undefined if the shape is invalid or the number is not a safe integer. */
export function elementCount(shape: readonly number[]): number | undefined {
  if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) return undefined;
  const count = shape.reduce((product, size) => product * size, 1);
  return Number.isSafeInteger(count) ? count : undefined;
}
