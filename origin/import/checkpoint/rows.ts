/**
 * Matrices that are read by rows, so that a large one never is in memory as a whole: an embedding table alone may be
 * gigabytes. What changes a matrix on its way (another order, a rotation) wraps one in another. Knows no file.
 */

/** A matrix somewhere, `[outputs, inputs]`. */
export interface RowSource {
  readonly rows: number;
  readonly columns: number;
  /** Rows that can only be had together: `read` begins and ends at multiples of it (or at the last row). 1: any. */
  readonly step: number;
  /** Reads the rows `from` to `to` (exclusive), row-major, as a new array that is the caller's own. */
  read(from: number, to: number): Float32Array;
}

/** All of a matrix. */
export function readAll(source: RowSource): Float32Array {
  return source.read(0, source.rows);
}

/** A matrix that is in memory. */
export function rowsOf(values: Float32Array, columns: number): RowSource {
  const rows = values.length / columns;
  return { rows, columns, step: 1, read: (from, to) => values.slice(from * columns, to * columns) };
}

/**
 * The same matrix with every read changed by `change`, which works on whole groups of `step` rows.
 *
 * @param change - returns an array of the same length; may be the one it is given
 * @param step - a multiple of the source's
 */
export function mapRows(
  source: RowSource,
  change: (weights: Float32Array) => Float32Array,
  step = source.step,
): RowSource {
  if (step % source.step !== 0) throw new RangeError(`groups of ${step} rows are not whole groups of ${source.step}`);
  return { ...source, step, read: (from, to) => change(source.read(from, to)) };
}

/**
 * A matrix piece by piece, from the first row to the last.
 *
 * @param weightsMax - weights in a piece at most, unless a single step has more
 */
export function* pieces(source: RowSource, weightsMax: number): Generator<Float32Array> {
  const { rows, columns, step } = source;
  const taken = Math.max(1, Math.floor(weightsMax / (columns * step))) * step;
  for (let from = 0; from < rows; from += taken) yield source.read(from, Math.min(from + taken, rows));
}
