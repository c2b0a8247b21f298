/** Where a tensor lies in a file, and how it is read from there. Knows no format's header. */
import { ImportError } from "../../manifest/import-error.ts";
import { dequantize, type ElementType } from "./dequantize/element-types.ts";
import type { ReadableFile } from "./readable-file.ts";
import type { TensorFile } from "./tensor-file.ts";

/** A tensor's place, which lies inside its file. */
export interface StoredTensor {
  readonly file: ReadableFile;
  /** The contiguous dimension last. */
  readonly shape: readonly number[];
  /** How its elements are stored; the name alone where they can't be read. */
  readonly type: ElementType | string;
  /** Bytes from the beginning of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** The part of a `TensorFile` that is about tensors. */
export function tensorReader(
  path: string,
  tensors: ReadonlyMap<string, StoredTensor>,
): Pick<TensorFile, "shapes" | "readTensor" | "readRows"> {
  const find = (name: string): StoredTensor & { readonly type: ElementType } => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new ImportError("invalid-file", `${path} has no tensor ${name}`);
    const { type } = tensor;
    if (typeof type === "object") return { ...tensor, type };
    throw new ImportError("unsupported-model", `${tensor.file.path} stores ${name} as ${type}, which can't be read`);
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

/** A weight that is no number makes every answer nonsense, and a quantizer would make a number of it in silence. */
function checkFinite(values: Float32Array, { path }: ReadableFile, name: string): Float32Array {
  for (let i = 0; i < values.length; i++) {
    if (Number.isFinite(values[i])) continue;
    throw new ImportError("invalid-file", `${path} has weights in ${name} that are infinite or no numbers`);
  }
  return values;
}

/** The number of elements of a shape; `undefined` where it is no shape or more than can be counted. */
export function elementCount(shape: readonly number[]): number | undefined {
  if (!shape.every((size) => Number.isSafeInteger(size) && size >= 0)) return undefined;
  const count = shape.reduce((product, size) => product * size, 1);
  return Number.isSafeInteger(count) ? count : undefined;
}
