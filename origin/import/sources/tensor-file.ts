/**
 * The common interface of all formats of weights: metadata, and tensors by name with their values as floats. The formats do
 * not depend on models; the readers of models know which names each format has.
 */

/** Keys and values of the source, not yet checked. */
export type Metadata = Readonly<Record<string, unknown>>;

/** Opened weights, in one file or several. Dispose to close the files. */
export interface TensorFile extends Disposable {
  /** The convention of names of metadata and tensors: GGUF's, or that of Hugging Face's `config.json` and models. */
  readonly format: "gguf" | "safetensors";
  /** The file, or the folder of several files, for messages. */
  readonly path: string;
  /** GGUF's keys and values, or the parsed `config.json`. */
  readonly metadata: Metadata;
  /** Shapes of the tensors by name, the contiguous dimension last: a matrix is `[outputs, inputs]`. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /**
   * Reads one tensor, dequantized, row-major.
   *
   * @throws {ImportError} `invalid-file` if the tensor does not exist or has weights that are not finite, `truncated-file` if
   * the file became shorter
   */
  readTensor(name: string): Float32Array;
  /**
   * Reads the rows `from` to `to` (exclusive) of one tensor, so that a large matrix need not be in memory as a whole. A row
   * runs along the last dimension.
   *
   * @throws {ImportError} errors of `readTensor`
   * @throws {RangeError} for rows that the tensor does not have
   */
  readRows(name: string, from: number, to: number): Float32Array;
  /**
   * Reads the text of a file beside the weights, such as `tokenizer.json`. Undefined if the file does not exist, and always
   * for GGUF, which has everything in one file.
   *
   * @throws {ImportError} `unreadable-file`; `invalid-file` if the file is too large
   */
  readText(name: string): string | undefined;
}
