/**
 * What every source of weights is once it is open: metadata, tensors by name, and their values as floats. Whoever reads
 * one knows which names to expect (`format` says whose they are); whoever opens one knows nothing of models.
 */

/** Keys and values as the source writes them: anything at all, until the reader has looked. */
export type Metadata = Readonly<Record<string, unknown>>;

/** An opened checkpoint, in one file or several; dispose of it to close them. */
export interface TensorFile extends Disposable {
  /** Whose names the metadata and the tensors have: GGUF's, or those of Hugging Face's `config.json` and models. */
  readonly format: "gguf" | "safetensors";
  /** The file, or the folder of several, for messages. */
  readonly path: string;
  /** GGUF's key-values, or the parsed `config.json`. */
  readonly metadata: Metadata;
  /** The tensors' shapes by name, the contiguous dimension last: a matrix is `[outputs, inputs]`. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;
  /**
   * Reads one tensor, de-quantized, row-major.
   *
   * @throws {ImportError} `invalid-file` where there is none of that name or it has weights that are no finite numbers,
   * `truncated-file` where the file shrank
   */
  readTensor(name: string): Float32Array;
  /**
   * Reads the rows `from` to `to` (exclusive) of one tensor, so that a large matrix never is in memory as a whole. A row
   * is what lies along the last dimension.
   *
   * @throws {ImportError} as `readTensor` does
   * @throws {RangeError} for rows that the tensor does not have
   */
  readRows(name: string, from: number, to: number): Float32Array;
  /**
   * The text of a file beside the weights (`tokenizer.json`, `generation_config.json`); `undefined` where there is none,
   * and always for GGUF, which has everything in one file.
   *
   * @throws {ImportError} `unreadable-file`, or `invalid-file` where it is too large to be such a text
   */
  readText(name: string): string | undefined;
}
