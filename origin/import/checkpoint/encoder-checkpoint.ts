/**
 * What the encoder's graph writer needs of a checkpoint: the numbers and the weights, whatever file they came from. The
 * names are GGUF's, as the decoder's are.
 */
import type { RowSource } from "./rows.ts";

/** An encoder of layers that attend in both directions and feed forward, each part added and then normed. */
export interface EncoderConfig {
  readonly layers: number;
  readonly hiddenSize: number;
  readonly heads: number;
  readonly ffnSize: number;
  readonly vocabSize: number;
  /** Positions that there are embeddings for. */
  readonly contextLength: number;
  /** The layer norms' epsilon. */
  readonly normEpsilon: number;
  /** What the feed-forward part goes through: GELU, exact or in its tanh approximation. */
  readonly activation: "gelu" | "gelu_tanh";
}

/** Each is a matrix `[outputs, inputs]` and a bias. */
export type EncoderProjection = "attn_q" | "attn_k" | "attn_v" | "attn_output" | "ffn_up" | "ffn_down";
/** Each is gains and a bias. */
type EncoderNorm = "attn_output_norm" | "layer_output_norm";

type Parameter = "weight" | "bias";
export type EncoderMatrixName = "token_embd.weight" | `blk.${number}.${EncoderProjection}.weight`;
export type EncoderVectorName =
  | `token_embd_norm.${Parameter}`
  | `blk.${number}.${EncoderProjection}.bias`
  | `blk.${number}.${EncoderNorm}.${Parameter}`;
export type EncoderTensorName = EncoderMatrixName | EncoderVectorName | "position_embd.weight" | "token_types.weight";

/** An opened checkpoint. */
export interface EncoderCheckpoint {
  readonly config: EncoderConfig;
  /** Reads one tensor, row-major. */
  tensor(name: EncoderTensorName): Float32Array;
  /** A matrix, to be read by rows. */
  matrix(name: EncoderMatrixName): RowSource;
}
