/** Writes the weights of one model, matrix by matrix, and reports progress. Depends on no architecture. */
import type { MatrixKind, WeightFormat } from "../../onnx/weight-formats.ts";
import type { ExternalTensor } from "../../onnx/onnx-graph.ts";
import type { RowSource } from "../checkpoint/rows.ts";
import { type Matrix, writeMatrix } from "./matrix.ts";
import { WeightsFile } from "./weights-file.ts";

export type OnMatrixWritten = (done: number, total: number) => void;

interface WeightsWriterOptions {
  readonly path: string;
  readonly format: WeightFormat;
  /** Number of matrices that will be written. */
  readonly matrices: number;
  /** Called after every matrix. */
  readonly onProgress: OnMatrixWritten | undefined;
}

export class WeightsWriter implements Disposable {
  readonly file: WeightsFile;
  readonly #options: WeightsWriterOptions;
  #done = 0;

  constructor(options: WeightsWriterOptions) {
    this.#options = options;
    this.file = new WeightsFile(options.path);
  }

  /** Writes vectors one behind the other, as a single weight. */
  vector(name: string, parts: readonly Float32Array[]): ExternalTensor {
    const place = this.file.reserve(name, "float32", [parts.reduce((sum, { length }) => sum + length, 0)]);
    for (const part of parts) place.write(part);
    return place.tensor;
  }

  /** Writes stacked matrices in the format of their kind. */
  matrix(
    name: string,
    { sources, columns, kind }: { sources: readonly RowSource[]; columns: number; kind: MatrixKind },
  ): Matrix {
    const { format, matrices, onProgress } = this.#options;
    const written = writeMatrix(this.file, { name, sources, columns, format: format.matrices[kind] });
    onProgress?.(++this.#done, matrices);
    return written;
  }

  [Symbol.dispose](): void {
    this.file[Symbol.dispose]();
  }
}
