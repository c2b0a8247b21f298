/**
 * How a model's matrices may be stored: the formats that an import can choose, as data. Does not depend on how codes are
 * computed or multiplied.
 */

/** What a block's codes are. */
export interface CodeFormat {
  readonly bits: 4 | 8;
  /** True: the zero point is fixed at half of the codes (8 or 128). False: every block has its own. */
  readonly symmetric: boolean;
}

/** How the codes of one matrix are made. */
export interface BlockFormat extends CodeFormat {
  /** Weights that share a scale: a power of two, at least 16. */
  readonly blockSize: number;
  /**
   * True: a block's scale is searched for. Default: it is taken from the block's largest weight. Pays in 4 bits with zero
   * points only: 1.32 instead of int4's 1.37 times fp32's perplexity; symmetric 4-bit codes and 8 bits predict no better
   * for it.
   */
  readonly fitted?: boolean;
}

/** How one matrix is stored. */
export interface RowFormat {
  readonly bits: 8;
  readonly scale: "row";
  /**
   * True: what the matrix reads has a mean square of 1, as a norm without gains leaves it, and every token's codes count in
   * one step (`import/graph/multiply-rows.ts`). Default: a token's count in a step of its own.
   */
  readonly normedInputs?: boolean;
}

/** What is rotated: `folded` what costs a step nothing, `all` the gated values too. */
export type RotatedStates = "folded" | "all";

/**
 * Codes with a scale for each block or each row, or numbers: `fp32` leaves them as they are, `fp16` also multiplies in half
 * precision.
 */
export type MatrixFormat = BlockFormat | RowFormat | DenseFormat;
type DenseFormat = "fp32" | "fp16";

/**
 * What can have a format of its own: the embedding table and the LM head, which are one matrix where the embeddings are
 * tied; attention's matrices; those that begin the feed-forward part, and the one that ends it.
 */
export type MatrixKind = "head" | "attention" | "up" | "down";

/** How a model's matrices are stored. */
export interface WeightFormat {
  readonly name: string;
  readonly matrices: Readonly<Record<MatrixKind, MatrixFormat>>;
  /** What is turned into a basis without outliers first (`import/quantize/rotate.ts`). */
  readonly rotated: RotatedStates | false;
}

const int4: BlockFormat = { bits: 4, blockSize: 32, symmetric: true };
const int8: BlockFormat = { bits: 8, blockSize: 32, symmetric: true };
const int8Rows: RowFormat = { bits: 8, scale: "row" };

/** The formats by the name that `--format` takes. What each costs and loses is measured by `npm run bench -- quality`. */
export const WEIGHT_FORMATS = {
  int4: uniform("int4", int4),
  "int4-asymmetric": uniform("int4-asymmetric", { ...int4, symmetric: false }),
  "int4-fitted": uniform("int4-fitted", { ...int4, symmetric: false, fitted: true }),
  "int4-block128": uniform("int4-block128", { ...int4, blockSize: 128 }),
  "int4-mixed": {
    name: "int4-mixed",
    matrices: { head: int8, attention: int8, up: { ...int4, symmetric: false, fitted: true }, down: int8 },
    rotated: false,
  },
  int8: uniform("int8", int8),
  "int8-block128": uniform("int8-block128", { ...int8, blockSize: 128 }),
  "int8-rotated": {
    name: "int8-rotated",
    // What the last of a layer's matrices reads stays as it is: shorter blocks lose less there.
    matrices: { ...all({ ...int8, blockSize: 64 }), down: int8 },
    rotated: "folded",
  },
  // With one scale for all of a token's values outliers leave the rest hardly a code: without its own rotation what the last
  // of a layer's matrices reads makes KL 0.019 instead of 0.008. One step for all tokens saves a step of one row and of many 3
  // to 5 %: where the feed-forward part begins KL is 0.0009 more for it, in attention's matrices 0.0025 and 0.0050.
  "int8-rows": {
    name: "int8-rows",
    matrices: { ...all(int8Rows), up: { ...int8Rows, normedInputs: true } },
    rotated: "all",
  },
  fp16: uniform("fp16", "fp16"),
  fp32: uniform("fp32", "fp32"),
} as const satisfies Record<string, WeightFormat>;

function uniform(name: string, blocks: MatrixFormat): WeightFormat {
  return { name, matrices: all(blocks), rotated: false };
}

function all(format: MatrixFormat): Readonly<Record<MatrixKind, MatrixFormat>> {
  return { head: format, attention: format, up: format, down: format };
}

export type WeightFormatName = keyof typeof WEIGHT_FORMATS;

/**
 * What an import writes when it is not told otherwise: int8's quality with fewer scales to keep. Not in blocks of
 * 128, which would be a few percent faster still: from there on ONNX Runtime 1.30 adds one row's products up in another
 * order than several rows', so that an answer would depend on what runs beside it (with 32 and 64 it does not, to the
 * bit; on x64, with every number of rows tried). Nor in 4 bits, where it depends on that with every block, and three of
 * ten first choices change. The README has the table.
 */
export const DEFAULT_WEIGHT_FORMAT: WeightFormatName = "int8-rotated";
