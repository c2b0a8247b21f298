/**
 * What an importer reads and the graph writer needs: the architecture's numbers and its weights, whatever file they
 * came from. The names are GGUF's; a reader of another format maps its own to them.
 */

import { type RowSource, rowsOf } from "./rows.ts";

/** A Llama-family decoder. */
export interface DecoderConfig {
  readonly layers: number;
  readonly hiddenSize: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ffnSize: number;
  readonly vocabSize: number;
  /** Tokens, prompt and answer together. */
  readonly contextLength: number;
  /** The RMS norm's epsilon. */
  readonly normEpsilon: number;
  /** The rotation per position of each of the `headDim / 2` pairs, scaling already applied, in radians. */
  readonly ropeFrequencies: readonly number[];
  /** True where the LM head is the embedding table and `output.weight` does not exist. */
  readonly tiedEmbeddings: boolean;
}

export type LayerTensor =
  | "attn_norm"
  | "attn_q"
  | "attn_k"
  | "attn_v"
  | "attn_output"
  | "ffn_norm"
  | "ffn_gate"
  | "ffn_up"
  | "ffn_down";

export type TensorName =
  | "token_embd.weight"
  | "output_norm.weight"
  | "output.weight"
  | `blk.${number}.${LayerTensor}.weight`;

/** An opened checkpoint. */
export interface Checkpoint {
  readonly config: DecoderConfig;
  /**
   * Reads one tensor, de-quantized, row-major: a matrix is `[outputs, inputs]`. The rows of `attn_q` and `attn_k` are in
   * the rotate-half order of the published model (GGUF's interleaved order undone).
   */
  tensor(name: TensorName): Float32Array;
  /** The same of a matrix, to be read by rows. */
  matrix(name: TensorName): RowSource;
}

/** A checkpoint whose tensors are in memory, or are made there when they are asked for. */
export function memoryCheckpoint(config: DecoderConfig, tensor: (name: TensorName) => Float32Array): Checkpoint {
  return { config, tensor, matrix: (name) => rowsOf(tensor(name), columnsOf(name, config)) };
}

/** The inputs of a decoder's matrix. */
function columnsOf(name: TensorName, { hiddenSize, queryHeads, headDim, ffnSize }: DecoderConfig): number {
  if (name.endsWith(".attn_output.weight")) return queryHeads * headDim;
  return name.endsWith(".ffn_down.weight") ? ffnSize : hiddenSize;
}
