/**
 * Decoders written straight from their architectures' definitions, as slow as they are plain: what the imported graph is
 * held to. Shares nothing with the product but the checkpoint's tensors; sizes, rotation and everything else an architecture
 * adds are the caller's (`reference-models.ts` has them for published configurations).
 *
 * Source: Touvron et al. 2023, "LLaMA", section 2.2 (RMSNorm before each part, SwiGLU, rotary embeddings); Su et al. 2021,
 * "RoFormer", in the rotate-half form of Hugging Face's modeling_llama.py; Ainslie et al. 2023, "GQA"; Jiang et al. 2023,
 * "Mistral 7B" (windows); Yang et al. 2025, "Qwen3" (normed queries and keys); Gemma Team 2025, "Gemma 3" (norms behind each
 * part, GELU in Hendrycks and Gimpel's tanh form, scaled embeddings).
 */
import type { LayerTensor, TensorName } from "../../../origin/import/checkpoint/checkpoint.ts";

export interface ReferenceModel {
  readonly layers: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ropeBase: number;
  /** What each pair's frequency is divided by; default 1. */
  readonly ropeFactors?: readonly number[];
  /** What cosines and sines are multiplied by; default 1. */
  readonly ropeMagnitude?: number;
  readonly normEpsilon: number;
  readonly tied: boolean;
  /** Biases on queries, keys and values; default false. */
  readonly qkvBias?: boolean;
  /** Each head's query and key normed; default false. */
  readonly qkNorm?: boolean;
  /** What attention and feed-forward give normed; default false. */
  readonly postNorms?: boolean;
  /** Default "silu". */
  readonly activation?: "silu" | "gelu_tanh";
  /** Default 1. */
  readonly embeddingScale?: number;
  /** What a score is divided by the root of; default the size of a head. */
  readonly scoreDivisor?: number;
  /** The layers that see the last `window` tokens only, and whose unscaled RoPE may have another base; default none. */
  readonly local?: {
    readonly layers: readonly number[];
    readonly window: number;
    readonly ropeBase?: number;
  };
  readonly tensor: (name: TensorName) => Float32Array;
  /** A square matrix that normed states are multiplied by in front of the head; default none. */
  readonly beforeHead?: Float32Array;
  /** A square matrix that the inputs of `ffn_down` are multiplied by, as many at a time as it has columns; default none. */
  readonly beforeDown?: Float32Array;
}

/** The logits after every token, one array of the vocabulary's size each. */
export function referenceLogits(model: ReferenceModel, tokens: readonly number[]): Float64Array[] {
  const embedding = model.tensor("token_embd.weight");
  const outputNorm = model.tensor("output_norm.weight");
  const size = outputNorm.length;
  const { embeddingScale = 1, postNorms = false } = model;
  let hidden: Float64Array[] = tokens.map((token) =>
    Float64Array.from(embedding.subarray(token * size, (token + 1) * size), (value) => value * embeddingScale),
  );
  for (let layer = 0; layer < model.layers; layer++) {
    const weights = (name: LayerTensor) => model.tensor(`blk.${layer}.${name}`);
    const norm = (x: Float64Array, name: LayerTensor) => rmsNorm(x, weights(name), model.normEpsilon);
    const behind = (x: Float64Array, name: LayerTensor) => (postNorms ? norm(x, name) : x);
    const attended = attention(
      model,
      layer,
      weights,
      hidden.map((x) => norm(x, "attn_norm.weight")),
    );
    hidden = hidden.map((x, position) => add(x, behind(attended[position]!, "post_attention_norm.weight")));
    hidden = hidden.map((x) =>
      add(x, behind(feedForward(model, weights, norm(x, "ffn_norm.weight")), "post_ffw_norm.weight")),
    );
  }
  const head = model.tied ? embedding : model.tensor("output.weight");
  return hidden.map((x) => {
    const normed = rmsNorm(x, outputNorm, model.normEpsilon);
    return multiply(head, model.beforeHead === undefined ? normed : multiply(model.beforeHead, normed));
  });
}

type LayerWeights = (name: LayerTensor) => Float32Array;

function feedForward(
  { activation = "silu", beforeDown }: ReferenceModel,
  weights: LayerWeights,
  x: Float64Array,
): Float64Array {
  const gate = multiply(weights("ffn_gate.weight"), x).map(activation === "silu" ? silu : geluTanh);
  const up = multiply(weights("ffn_up.weight"), x);
  const gated = up.map((value, i) => value * gate[i]!);
  return multiply(weights("ffn_down.weight"), beforeDown === undefined ? gated : multiplyPieces(beforeDown, gated));
}

/** A square matrix times every piece of `x` that is as long as its rows. */
function multiplyPieces(matrix: Float32Array, x: Float64Array): Float64Array {
  const size = Math.sqrt(matrix.length);
  const out = new Float64Array(x.length);
  for (let from = 0; from < x.length; from += size) out.set(multiply(matrix, x.slice(from, from + size)), from);
  return out;
}

function silu(x: number): number {
  return x / (1 + Math.exp(-x));
}

function geluTanh(x: number): number {
  return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
}

function attention(
  model: ReferenceModel,
  layer: number,
  weights: LayerWeights,
  inputs: readonly Float64Array[],
): Float64Array[] {
  const { queryHeads, kvHeads, headDim, scoreDivisor = headDim, qkvBias = false, qkNorm = false, local } = model;
  const window = local?.layers.includes(layer) === true ? local.window : Number.POSITIVE_INFINITY;
  const project = (x: Float64Array, part: "q" | "k" | "v"): Float64Array[] => {
    const projected = multiply(weights(`attn_${part}.weight`), x);
    const biased = qkvBias ? add(projected, Float64Array.from(weights(`attn_${part}.bias`))) : projected;
    return Array.from({ length: biased.length / headDim }, (_, head) =>
      biased.slice(head * headDim, (head + 1) * headDim),
    );
  };
  const turned = (x: Float64Array, part: "q" | "k", position: number): Float64Array[] =>
    project(x, part).map((head) => {
      const normed = qkNorm ? rmsNorm(head, weights(`attn_${part}_norm.weight`), model.normEpsilon) : head;
      return rotate(model, layer, normed, position);
    });
  const keys = inputs.map((x, position) => turned(x, "k", position));
  const values = inputs.map((x) => project(x, "v"));
  return inputs.map((x, position) => {
    const joined = new Float64Array(queryHeads * headDim);
    const first = Math.max(0, position + 1 - window);
    for (const [head, query] of turned(x, "q", position).entries()) {
      const kvHead = Math.floor(head / (queryHeads / kvHeads));
      const visible = keys.slice(first, position + 1);
      const shares = softmax(visible.map((key) => dot(query, key[kvHead]!) / Math.sqrt(scoreDivisor)));
      for (const [index, share] of shares.entries()) {
        values[first + index]![kvHead]!.forEach((value, i) => (joined[head * headDim + i]! += share * value));
      }
    }
    return multiply(weights("attn_output.weight"), joined);
  });
}

/** Turns the pair `(i, i + headDim / 2)` by `position * base^(-2i / headDim) / factor`, and makes it longer. */
function rotate(model: ReferenceModel, layer: number, head: Float64Array, position: number): Float64Array {
  const { headDim, local } = model;
  const isApart = local?.ropeBase !== undefined && local.layers.includes(layer);
  const base = isApart ? local.ropeBase : model.ropeBase;
  const magnitude = isApart ? 1 : (model.ropeMagnitude ?? 1);
  const half = headDim / 2;
  const turned = new Float64Array(headDim);
  for (let i = 0; i < half; i++) {
    const factor = isApart ? 1 : (model.ropeFactors?.[i] ?? 1);
    const angle = (position * base ** ((-2 * i) / headDim)) / factor;
    const [a, b] = [head[i]!, head[i + half]!];
    turned[i] = magnitude * (a * Math.cos(angle) - b * Math.sin(angle));
    turned[i + half] = magnitude * (b * Math.cos(angle) + a * Math.sin(angle));
  }
  return turned;
}

function rmsNorm(x: Float64Array, weight: Float32Array, epsilon: number): Float64Array {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + epsilon);
  return x.map((value, i) => value * scale * weight[i]!);
}

/** `matrix · x`, the matrix row-major `[outputs, x.length]`. */
function multiply(matrix: Float32Array, x: Float64Array): Float64Array {
  const out = new Float64Array(matrix.length / x.length);
  for (let row = 0; row < out.length; row++) {
    let sum = 0;
    const from = row * x.length;
    for (let i = 0; i < x.length; i++) sum += matrix[from + i]! * x[i]!;
    out[row] = sum;
  }
  return out;
}

function softmax(scores: readonly number[]): number[] {
  const max = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - max));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, value, i) => sum + value * b[i]!, 0);
}

function add(a: Float64Array, b: Float64Array): Float64Array {
  return a.map((value, i) => value + b[i]!);
}
