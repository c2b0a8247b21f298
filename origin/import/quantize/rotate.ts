/**
 * The same model in another basis, one in which it quantizes better. A few of a decoder's hidden channels are a hundred
 * times as large as the rest; in a block that shares one scale they leave the others with a handful of codes, and the
 * longer the block, the more channels suffer. Every channel of a rotated hidden state is a mix of all, so none sticks
 * out, and longer blocks lose no more than blocks of 32 did.
 *
 *   hidden state   RMS norm's gains go into the matrices that read it; what is left of the norm does not notice a
 *                  rotation. Whatever writes the hidden state then writes it rotated, whatever reads it turns it back.
 *   values         each head's values are rotated on the way in and turned back on the way out; attention only adds
 *                  them up. Queries and keys stay: their positions are a rotation of their own.
 *
 * Both are folded into the weights, so a step costs what it did. The last norm's gains can't be where the head is the
 * embedding table: there they become a matrix between the two, the gains turned into the new basis, that sampled tokens
 * go through. A third rotation can't be folded in either, and is for formats that need it:
 *
 *   gated values   the last of a layer's matrices reads a product of two others' results, element by element: whatever turns
 *                  it comes behind. So every 64 of them go through one small matrix in the step itself, and the weights turn
 *                  them back. With blocks of 32 KL is 0.0083 and with all 1536 mixed 0.0074 where 64 make 0.0078, and
 *                  without any 0.0190.
 *
 * Source: Ashkboos et al. 2024, "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs", section 4. Tried besides
 * and left: smoothing the feed-forward part by its weights (after Xiao et al. 2023, "SmoothQuant") and sorting its
 * channels by size changed less than one text differs from the next.
 */
import {
  type Checkpoint,
  type DecoderConfig,
  isMatrix,
  type LayerMatrix,
  type TensorName,
} from "../checkpoint/checkpoint.ts";
import type { RotatedStates } from "../../onnx/weight-formats.ts";
import { mapRows, readAll, rowsOf, type RowSource } from "../checkpoint/rows.ts";

/**
 * Whether a decoder can be rotated. A norm behind a part is of the hidden state's own channels: between what is normed and
 * what is added stands a gain for each, which no matrix can take in.
 */
export function isRotatable({ postNorms }: DecoderConfig): boolean {
  return !postNorms;
}

/**
 * A checkpoint of the same logits with rotated weights. Reads the given one's tensors as it is asked for its own.
 *
 * @throws {RangeError} for one that is not `isRotatable`
 */
export function rotateCheckpoint(checkpoint: Checkpoint, states: RotatedStates): Checkpoint {
  const { config } = checkpoint;
  if (!isRotatable(config)) throw new RangeError("a decoder with norms behind its parts can't be rotated");
  const { hiddenSize, tiedEmbeddings } = config;
  const hidden = createRotation(hiddenSize);
  const value = createRotation(config.headDim);
  const gated = states === "all" ? createRotation(gatedBlock(config)) : undefined;
  const readRotated = (matrix: TensorName, rotation: Rotation): RowSource =>
    mapRows(checkpoint.matrix(matrix), (weights) => rotateInputs(weights, rotation));
  const behindNorm = (matrix: TensorName, norm: TensorName): RowSource => {
    const gains = checkpoint.tensor(norm);
    return mapRows(checkpoint.matrix(matrix), (weights) => rotateInputs(withGains(weights, gains), hidden));
  };

  const layerMatrix = (name: TensorName, layer: number, part: LayerMatrix): RowSource => {
    switch (part) {
      case "attn_q.weight":
      case "attn_k.weight":
        return behindNorm(name, `blk.${layer}.attn_norm.weight`);
      case "attn_v.weight":
        return rotateOutputs(behindNorm(name, `blk.${layer}.attn_norm.weight`), value);
      case "ffn_gate.weight":
      case "ffn_up.weight":
        return behindNorm(name, `blk.${layer}.ffn_norm.weight`);
      case "attn_output.weight":
        return rotateOutputs(readRotated(name, value), hidden);
      case "ffn_down.weight":
        return rotateOutputs(gated === undefined ? checkpoint.matrix(name) : readRotated(name, gated), hidden);
      default:
        return part satisfies never;
    }
  };
  const matrix = (name: TensorName): RowSource => {
    const [, layer, part] = /^blk\.(\d+)\.(.+)$/.exec(name) ?? [];
    if (part !== undefined) return layerMatrix(name, Number(layer), part as LayerMatrix);
    if (name === "output.weight") return behindNorm(name, "output_norm.weight");
    return readRotated(name, hidden);
  };
  const tensor = (name: TensorName): Float32Array => {
    if (isMatrix(name)) return readAll(matrix(name));
    // Their gains are in the matrices now. A head's query and key are not rotated, and neither are their norms.
    if (/(attn_norm|ffn_norm|output_norm)\.weight$/.test(name)) return new Float32Array(hiddenSize).fill(1);
    const values = checkpoint.tensor(name);
    return name.endsWith(".attn_v.bias") ? rotateInputs(values.slice(), value) : values;
  };
  const beforeHead = tiedEmbeddings ? rotateGains(checkpoint.tensor("output_norm.weight"), hidden) : undefined;
  const beforeDown = gated && matrixOf(gated);
  return { config, matrix, tensor, ...(beforeHead && { beforeHead }), ...(beforeDown && { beforeDown }) };
}

/** As long a piece of the gated values as divides them and costs a step little; 64 of every published model. */
export function gatedBlock({ ffnSize }: Pick<DecoderConfig, "ffnSize">): number {
  let block = 64;
  while (ffnSize % block !== 0) block--;
  return block;
}

/** What a vector is multiplied by, `[outputs, inputs]`. */
function matrixOf(rotation: Rotation): RowSource {
  const { size } = rotation;
  const identity = Float32Array.from({ length: size * size }, (_, index) => (index % (size + 1) === 0 ? 1 : 0));
  return rotateOutputs(rowsOf(identity, size), rotation);
}

/** What multiplying by gains is in another basis: turn back, multiply, turn. */
function rotateGains(gains: Float32Array, rotation: Rotation): RowSource {
  const { size } = rotation;
  const diagonal = new Float32Array(size * size);
  for (const [at, gain] of gains.entries()) diagonal[at * size + at] = gain;
  return rotateOutputs(rowsOf(rotateInputs(diagonal, rotation), size), rotation);
}

/** An orthogonal matrix that mixes all of a vector's elements. */
export interface Rotation {
  readonly size: number;
  /** Multiplies a vector of `size` elements by it, in place. */
  readonly apply: (vector: Float64Array) => void;
}

/**
 * Signs, then a Hadamard matrix on the largest power of two in `size`, and a cosine transform on the rest: 576 is 64 by 9.
 * The signs keep what the two transforms would gather in one element, a constant say, from being gathered; they are the
 * same at every import.
 */
export function createRotation(size: number): Rotation {
  const inner = size & -size;
  const outer = size / inner;
  const cosines = cosineTransform(outer);
  const column = new Float64Array(outer);
  const signs = Float64Array.from({ length: size }, (_, index) => (isFlipped(index) ? -1 : 1));
  const norm = 1 / Math.sqrt(inner);
  const apply = (vector: Float64Array): void => {
    for (let i = 0; i < size; i++) vector[i]! *= signs[i]!;
    for (let half = 1; half < inner; half *= 2) mixPairs(vector, half);
    for (let at = 0; at < inner; at++) {
      for (let k = 0; k < outer; k++) {
        let sum = 0;
        for (let t = 0; t < outer; t++) sum += cosines[k * outer + t]! * vector[t * inner + at]!;
        column[k] = sum * norm;
      }
      for (let k = 0; k < outer; k++) vector[k * inner + at] = column[k]!;
    }
  };
  return { size, apply };
}

/** One level of the fast Walsh-Hadamard transform: sums and differences of elements that are `half` apart. */
function mixPairs(vector: Float64Array, half: number): void {
  for (let from = 0; from < vector.length; from += half * 2) {
    for (let i = from; i < from + half; i++) {
      const left = vector[i]!;
      const right = vector[i + half]!;
      vector[i] = left + right;
      vector[i + half] = left - right;
    }
  }
}

/** The orthonormal DCT-II matrix, row-major. */
function cosineTransform(size: number): Float64Array {
  return Float64Array.from({ length: size * size }, (_, index) => {
    const [k, t] = [Math.floor(index / size), index % size];
    return Math.sqrt((k === 0 ? 1 : 2) / size) * Math.cos((Math.PI * (t + 0.5) * k) / size);
  });
}

/** One bit of MurmurHash3's finalizer: as good as a coin, and always the same one. */
function isFlipped(index: number): boolean {
  let hash = index + 1;
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return ((hash ^ (hash >>> 16)) & 1) === 1;
}

/** Multiplies every row by the norm's gains, element by element, in place. */
function withGains(weights: Float32Array, gains: Float32Array): Float32Array {
  for (let from = 0; from < weights.length; from += gains.length) {
    for (let i = 0; i < gains.length; i++) weights[from + i]! *= gains[i]!;
  }
  return weights;
}

/** Turns what a matrix reads: every row, piece by piece of the rotation's size, in place. */
function rotateInputs(weights: Float32Array, { size, apply }: Rotation): Float32Array {
  const vector = new Float64Array(size);
  for (let from = 0; from < weights.length; from += size) {
    const piece = weights.subarray(from, from + size);
    vector.set(piece);
    apply(vector);
    piece.set(vector);
  }
  return weights;
}

/** Turns what a matrix writes: every column, piece by piece of as many rows, which therefore are read together. */
function rotateOutputs(source: RowSource, { size, apply }: Rotation): RowSource {
  const { columns } = source;
  const vector = new Float64Array(size);
  const rotate = (weights: Float32Array): Float32Array => {
    for (let from = 0; from < weights.length; from += size * columns) {
      for (let column = from; column < from + columns; column++) {
        for (let i = 0; i < size; i++) vector[i] = weights[column + i * columns]!;
        apply(vector);
        for (let i = 0; i < size; i++) weights[column + i * columns] = vector[i]!;
      }
    }
    return weights;
  };
  return mapRows(source, rotate, size);
}
