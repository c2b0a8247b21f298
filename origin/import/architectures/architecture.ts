/**
 * What there is to say about an architecture: a description is data, read like a spec. Everything else that differs from
 * one checkpoint to the next (sizes, RoPE scaling, a tied head) is in the file's metadata and read the same way for all.
 */
import type { Activation, CommonTensor, LayerTensor } from "../checkpoint/checkpoint.ts";
import type { Setting, Settings } from "./settings.ts";

export interface Architecture {
  /** GGUF's `general.architecture`, which also begins its keys; undefined where it goes by another's name there. */
  readonly gguf: string | undefined;
  /** `model_type` of `config.json`. */
  readonly modelTypes: readonly string[];
  /** The tensors of a layer by GGUF's names, and what Hugging Face calls them behind `model.layers.N.`. */
  readonly layer: Readonly<Record<CommonTensor, string> & Partial<Record<LayerTensor, string>>>;
  readonly activation: Activation;
  /** What is added to a norm's gains as Hugging Face has them; GGUF has the sum. */
  readonly normOffset: 0 | 1;
  /** Whether GGUF has the rows of `attn_q` and `attn_k` interleaved, for the other form of RoPE. */
  readonly interleavedInGguf: boolean;
  /** Default: embeddings are taken as they are. */
  readonly embeddingScale?: (hiddenSize: number) => number;
  /** What a query's product with a key is divided by the root of. Default: the size of a head. */
  readonly attentionDivisor?: (settings: Settings) => number | undefined;
  /** The layers whose tokens don't see all the others. Default: none. */
  readonly local?: (settings: Settings) => LocalAttention | undefined;
  /** Settings of a file that does not say. */
  readonly defaults?: Readonly<Partial<Record<Setting, number>>>;
}

/** Attention that looks back only so far. */
interface LocalAttention {
  /** Tokens, the one that looks among them. */
  readonly window: number;
  /** Whether a layer, from 0, has it. */
  readonly isLocal: (layer: number) => boolean;
  /** The base of these layers' RoPE, which is not scaled then; undefined: they rotate like the others. */
  readonly ropeBase?: number;
}
