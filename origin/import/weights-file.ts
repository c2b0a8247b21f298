/**
 * Writes weights one after the other into the data file beside an ONNX model, and remembers where each one lies. Holds
 * one weight at a time; knows nothing of what they are.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { basename } from "node:path";
import type { ElementType, ExternalTensor } from "./onnx.ts";

/** Weights begin on a page, so that a reader can map them one by one. */
const PAGE_BYTES = 4096;

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
    const offset = Math.ceil(this.#bytes / PAGE_BYTES) * PAGE_BYTES;
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    for (let written = 0; written < bytes.length;) {
      written += writeSync(this.#descriptor, bytes, written, bytes.length - written, offset + written);
    }
    this.#bytes = offset + bytes.length;
    const type: ElementType = values instanceof Float32Array ? "float32" : "uint8";
    return { name, type, shape, location: { file: this.#file, offset, length: bytes.length } };
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }
}
