/**
 * What an importer reads and the graph writer needs: the architecture's numbers and its weights, whatever file they
 * came from. The names are GGUF's; a reader of another format maps its own to them.
 */
import { rowsOf, type RowSource } from "./rows.ts";

/** A decoder of layers that attend and feed forward, each part added to what came in. */
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
  /** The RMS norms' epsilon. */
  readonly normEpsilon: number;
  /** True where the LM head is the embedding table and `output.weight` does not exist. */
  readonly tiedEmbeddings: boolean;
  /** What an embedding is multiplied by before the first layer. */
  readonly embeddingScale: number;
  /** What the product of a query and a key is multiplied by before the softmax. */
  readonly attentionScale: number;
  readonly activation: Activation;
  /** Whether `attn_q`, `attn_k` and `attn_v` have biases. */
  readonly qkvBias: boolean;
  /** Whether each head's query and key are normed before they are rotated. */
  readonly qkNorm: boolean;
  /** Whether what attention and feed-forward give is normed before it is added. */
  readonly postNorms: boolean;
  /** By layer. Layers that rotate alike share one `Rope`. */
  readonly attention: readonly LayerAttention[];
}

/** What the feed-forward part's gate goes through: `x * sigmoid(x)`, or GELU in its tanh approximation. */
export type Activation = "silu" | "gelu_tanh";

/** How a layer's queries find their keys. */
export interface LayerAttention {
  /** How many tokens back a token sees, itself the first; undefined: all. */
  readonly window: number | undefined;
  readonly rope: Rope;
}

/** Rotary position embeddings, with whatever scaling there is already applied. */
export interface Rope {
  /** The rotation per position of each of the `headDim / 2` pairs, in radians. */
  readonly frequencies: readonly number[];
  /** What rotated queries and keys are multiplied by: YaRN's attention factor, elsewhere 1. */
  readonly magnitude: number;
}

export type LayerMatrix =
  | "attn_q.weight"
  | "attn_k.weight"
  | "attn_v.weight"
  | "attn_output.weight"
  | "ffn_gate.weight"
  | "ffn_up.weight"
  | "ffn_down.weight";

/** What every layer has. */
export type CommonTensor = LayerMatrix | "attn_norm.weight" | "ffn_norm.weight";

export type LayerTensor =
  | CommonTensor
  | "attn_q.bias"
  | "attn_k.bias"
  | "attn_v.bias"
  | "attn_q_norm.weight"
  | "attn_k_norm.weight"
  | "post_attention_norm.weight"
  | "post_ffw_norm.weight";

export type TensorName = "token_embd.weight" | "output_norm.weight" | "output.weight" | `blk.${number}.${LayerTensor}`;

/** An opened checkpoint. */
export interface Checkpoint {
  readonly config: DecoderConfig;
  /**
   * Reads one tensor, de-quantized, row-major: a matrix is `[outputs, inputs]`. The rows of `attn_q` and `attn_k` are in
   * the rotate-half order of the published model (GGUF's interleaved order undone), a norm's gains are what is multiplied
   * by.
   */
  tensor(name: TensorName): Float32Array;
  /** The same of a matrix, to be read by rows. */
  matrix(name: TensorName): RowSource;
  /**
   * A symmetric matrix, `[hiddenSize, hiddenSize]`, that the normed states go through on their way to the LM head; absent:
   * they go there as they are. No published checkpoint has one: a rotation keeps the embeddings tied by it.
   */
  readonly beforeHead?: RowSource;
  /**
   * A matrix, `[n, n]`, that every `n` values in front of `ffn_down` go through, in all layers; absent: they go there as they
   * are. No published checkpoint has one either.
   */
  readonly beforeDown?: RowSource;
}

/** A checkpoint whose tensors are in memory, or are made there when they are asked for. */
export function memoryCheckpoint(config: DecoderConfig, tensor: (name: TensorName) => Float32Array): Checkpoint {
  return { config, tensor, matrix: (name) => rowsOf(tensor(name), columnsOf(name, config)) };
}

/** Whether a tensor is a matrix; the others, norms and biases, are vectors. */
export function isMatrix(name: TensorName): boolean {
  return !/(norm\.weight|\.bias)$/.test(name);
}

/** The inputs of a decoder's matrix. */
function columnsOf(name: TensorName, { hiddenSize, queryHeads, headDim, ffnSize }: DecoderConfig): number {
  if (name.endsWith(".attn_output.weight")) return queryHeads * headDim;
  return name.endsWith(".ffn_down.weight") ? ffnSize : hiddenSize;
}
