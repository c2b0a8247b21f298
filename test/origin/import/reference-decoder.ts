/**
 * A Llama-family decoder written straight from the architecture's definition, as slow as it is plain: what the imported
 * graph is held to. Shares nothing with the product but the checkpoint's tensors; sizes and rotation are the caller's.
 *
 * Source: Touvron et al. 2023, "LLaMA", section 2.2 (RMSNorm before each part, SwiGLU, rotary embeddings); Su et al. 2021,
 * "RoFormer", in the rotate-half form of Hugging Face's modeling_llama.py; Ainslie et al. 2023, "GQA".
 */
import type { LayerTensor, TensorName } from "../../../origin/import/checkpoint.ts";

export interface ReferenceModel {
  readonly layers: number;
  readonly queryHeads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly ropeBase: number;
  /** Llama 3's divisor of each pair's frequency; default 1. */
  readonly ropeFactors?: readonly number[];
  readonly normEpsilon: number;
  readonly tied: boolean;
  readonly tensor: (name: TensorName) => Float32Array;
}

/** The logits after every token, one array of the vocabulary's size each. */
export function referenceLogits(model: ReferenceModel, tokens: readonly number[]): Float64Array[] {
  const embedding = model.tensor("token_embd.weight");
  const outputNorm = model.tensor("output_norm.weight");
  const size = outputNorm.length;
  let hidden: Float64Array[] = tokens.map((token) =>
    Float64Array.from(embedding.subarray(token * size, (token + 1) * size)),
  );
  for (let layer = 0; layer < model.layers; layer++) {
    const weights = (name: LayerTensor) => model.tensor(`blk.${layer}.${name}.weight`);
    const attended = attention(
      model,
      weights,
      hidden.map((x) => rmsNorm(x, weights("attn_norm"), model.normEpsilon)),
    );
    hidden = hidden.map((x, position) => add(x, attended[position]!));
    const [norm, gate, up, down] = [weights("ffn_norm"), weights("ffn_gate"), weights("ffn_up"), weights("ffn_down")];
    hidden = hidden.map((x) => {
      const normed = rmsNorm(x, norm, model.normEpsilon);
      const open = multiply(gate, normed).map((g) => g / (1 + Math.exp(-g)));
      const wide = multiply(up, normed);
      return add(
        x,
        multiply(
          down,
          wide.map((u, i) => u * open[i]!),
        ),
      );
    });
  }
  const head = model.tied ? embedding : model.tensor("output.weight");
  return hidden.map((x) => multiply(head, rmsNorm(x, outputNorm, model.normEpsilon)));
}

function attention(
  model: ReferenceModel,
  weights: (name: LayerTensor) => Float32Array,
  inputs: readonly Float64Array[],
): Float64Array[] {
  const { queryHeads, kvHeads, headDim } = model;
  const [wq, wk, wv, wo] = [weights("attn_q"), weights("attn_k"), weights("attn_v"), weights("attn_output")];
  const heads = (x: Float64Array) =>
    Array.from({ length: x.length / headDim }, (_, head) => x.slice(head * headDim, (head + 1) * headDim));
  const keys = inputs.map((x, position) => heads(multiply(wk, x)).map((head) => rotate(model, head, position)));
  const values = inputs.map((x) => heads(multiply(wv, x)));
  return inputs.map((x, position) => {
    const queries = heads(multiply(wq, x)).map((head) => rotate(model, head, position));
    const joined = new Float64Array(queryHeads * headDim);
    for (const [head, query] of queries.entries()) {
      const kvHead = Math.floor(head / (queryHeads / kvHeads));
      const visible = keys.slice(0, position + 1);
      const shares = softmax(visible.map((key) => dot(query, key[kvHead]!) / Math.sqrt(headDim)));
      for (const [past, share] of shares.entries()) {
        values[past]![kvHead]!.forEach((value, i) => (joined[head * headDim + i]! += share * value));
      }
    }
    return multiply(wo, joined);
  });
}

/** Turns the pair `(i, i + headDim / 2)` by `position * base^(-2i / headDim) / factor`. */
function rotate(
  { headDim, ropeBase, ropeFactors }: ReferenceModel,
  head: Float64Array,
  position: number,
): Float64Array {
  const half = headDim / 2;
  const turned = new Float64Array(headDim);
  for (let i = 0; i < half; i++) {
    const angle = (position * ropeBase ** ((-2 * i) / headDim)) / (ropeFactors?.[i] ?? 1);
    const [a, b] = [head[i]!, head[i + half]!];
    turned[i] = a * Math.cos(angle) - b * Math.sin(angle);
    turned[i + half] = b * Math.cos(angle) + a * Math.sin(angle);
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
