/// <reference lib="esnext.float16" />
/**
 * Writes weights one after the other into the data file beside an ONNX model, and remembers where each one lies. A
 * weight may come in pieces; knows nothing of what they are.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { basename } from "node:path";
import type { ElementType, ExternalTensor } from "../../onnx/onnx-graph.ts";

/** Weights begin on a cache line. On pages of their own the many small ones would be half a percent of a small model. */
const ALIGNMENT_BYTES = 64;

/** What a weight's elements may be, and the arrays that hold them. */
type Elements = Float32Array | Float16Array | Uint8Array | Int8Array;

const ELEMENT_BYTES = { float32: 4, float16: 2, uint8: 1, int8: 1 } as const satisfies Partial<
  Record<ElementType, number>
>;
type StoredType = keyof typeof ELEMENT_BYTES;

/** Where a weight goes. */
export interface WeightPlace {
  readonly tensor: ExternalTensor;
  /** Writes the weight's next elements, or those from `at` on; what comes next then comes behind these. */
  write(values: Elements, options?: { readonly at: number }): void;
}

export class WeightsFile implements Disposable {
  readonly #descriptor: number;
  readonly #file: string;
  #bytes = 0;

  /** Creates the file, or empties the one that is there. */
  constructor(path: string) {
    this.#descriptor = openSync(path, "w");
    this.#file = basename(path);
  }

  /** Appends a weight. `shape` must multiply to the number of its elements. */
  append(name: string, shape: readonly number[], values: Elements): ExternalTensor {
    const place = this.reserve(name, typeOf(values), shape);
    place.write(values);
    return place.tensor;
  }

  /** Appends the place of a weight, which is to be filled piece by piece. */
  reserve(name: string, type: StoredType, shape: readonly number[]): WeightPlace {
    const offset = Math.ceil(this.#bytes / ALIGNMENT_BYTES) * ALIGNMENT_BYTES;
    const length = shape.reduce((product, size) => product * size, ELEMENT_BYTES[type]);
    this.#bytes = offset + length;
    let filled = 0;
    return {
      tensor: { name, type, shape, location: { file: this.#file, offset, length } },
      write: (values, { at } = { at: filled / ELEMENT_BYTES[type] }) => {
        filled = at * ELEMENT_BYTES[type];
        const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
        if (filled + bytes.length > length)
          throw new RangeError(`${name} has more than the ${length} bytes of its place`);
        for (let written = 0; written < bytes.length;) {
          written += writeSync(this.#descriptor, bytes, written, bytes.length - written, offset + filled + written);
        }
        filled += bytes.length;
      },
    };
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }
}

function typeOf(values: Elements): StoredType {
  if (values instanceof Float32Array) return "float32";
  if (values instanceof Float16Array) return "float16";
  return values instanceof Int8Array ? "int8" : "uint8";
}
