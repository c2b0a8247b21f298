/**
 * Writes weights one after the other into the data file beside an ONNX model, and remembers where each one lies. A
 * weight may come in pieces; knows nothing of what they are.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { basename } from "node:path";
import type { ExternalTensor } from "./onnx.ts";

/** Weights begin on a page, so that a reader can map them one by one. */
const PAGE_BYTES = 4096;

/** Where a weight goes. */
export interface WeightPlace {
  readonly tensor: ExternalTensor;
  /** Writes the weight's next elements. */
  write(values: Float32Array | Uint8Array): void;
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
  append(name: string, shape: readonly number[], values: Float32Array | Uint8Array): ExternalTensor {
    const place = this.reserve(name, values instanceof Float32Array ? "float32" : "uint8", shape);
    place.write(values);
    return place.tensor;
  }

  /** Appends the place of a weight, which is to be filled piece by piece. */
  reserve(name: string, type: "float32" | "uint8", shape: readonly number[]): WeightPlace {
    const offset = Math.ceil(this.#bytes / PAGE_BYTES) * PAGE_BYTES;
    const length = shape.reduce((product, size) => product * size, type === "float32" ? 4 : 1);
    this.#bytes = offset + length;
    let filled = 0;
    return {
      tensor: { name, type, shape, location: { file: this.#file, offset, length } },
      write: (values) => {
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
