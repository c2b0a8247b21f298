/**
 * Writes a Llama-family decoder as ONNX: the graph of a plain step, the graph of a mixed step, and one file of weights
 * that all refer to. Says which operators compute a layer; knows neither where the weights come from nor who runs them.
 *
 * Both graphs share everything but attention:
 *
 *   plain   tokens [rows, length]: `rows` running rows of one token, or one row of a prompt's chunk
 *   mixed   tokens [1, rows + chunk]: all running rows and one prompt's chunk; attention sees them apart, through two
 *           views of one KV slab, and everything else sees `rows + chunk` tokens at once
 *
 * Keys and values are inputs and outputs of the graph. Given the same buffer for both, attention appends in place.
 * Both are written once more with attention in `float16`, keys and values too: the CUDA provider has no other. The CPU is
 * fastest in `float32` throughout.
 *
 * `sampled` names the tokens, by their place in the run, that logits are wanted of: only those go through the last
 * layer's feed-forward part and the LM head.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  DECODER_FILE,
  HALF_DECODER_FILE,
  HALF_MIXED_DECODER_FILE,
  MIXED_DECODER_FILE,
  WEIGHTS_FILE,
} from "../../manifest.ts";
import type { Checkpoint, DecoderConfig } from "../checkpoint.ts";
import { ELEMENT_TYPES, OnnxGraph } from "../onnx.ts";
import type { WeightFormat } from "../quantize.ts";
import { rotateCheckpoint } from "../rotate.ts";
import { type Attention, type AttentionType, declareAttention, mixedAttention, plainAttention } from "./attention.ts";
import { embed } from "./embedding.ts";
import { gate } from "./feed-forward.ts";
import { addAndNorm, multiply, one, takeSampled } from "./nodes.ts";
import { type Weights, writeWeights } from "./weights.ts";

export interface DecoderGraphOptions {
  /** An existing folder; the graphs and `model.onnx.data` are written to it. */
  readonly folder: string;
  readonly format: WeightFormat;
  /** Told after every matrix. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Writes the graphs and the weights. Holds a piece of one matrix in memory at a time. */
export function writeDecoderGraph(checkpoint: Checkpoint, options: DecoderGraphOptions): void {
  const { folder, format, onProgress } = options;
  const source = format.rotated ? rotateCheckpoint(checkpoint) : checkpoint;
  const weights = writeWeights(source, join(folder, WEIGHTS_FILE), format, onProgress);
  const { config } = checkpoint;
  const write = (file: string, attention: Attention, type: AttentionType): void =>
    writeFileSync(join(folder, file), buildDecoder(config, weights, attention, type).encode());
  write(DECODER_FILE, plainAttention, "float32");
  write(MIXED_DECODER_FILE, mixedAttention, "float32");
  write(HALF_DECODER_FILE, plainAttention, "float16");
  write(HALF_MIXED_DECODER_FILE, mixedAttention, "float16");
}

function buildDecoder(
  config: DecoderConfig,
  weights: Weights,
  attention: Attention,
  attentionType: AttentionType,
): OnnxGraph {
  const graph = new OnnxGraph();
  const mixed = attention === mixedAttention;
  const tokens = graph.input("tokens", "int32", mixed ? [1, "tokens"] : ["rows", "length"]);
  const sampled = graph.input("sampled", "int32", ["sampled"]);
  if (mixed) {
    graph.input("split", "int64", [2]);
    declareAttention(graph, "decode.", "rows");
    declareAttention(graph, "prefill.", 1);
  } else declareAttention(graph, "", "rows");

  const cast = (value: string, to: AttentionType): string =>
    attentionType === "float32"
      ? value
      : one(graph.node("Cast", `${value}.${to}`, [value], { attributes: { to: ELEMENT_TYPES[to] } }));
  const [cos, sin] = [weights.cos, weights.sin].map((table) => cast(graph.external(table), attentionType)) as [
    string,
    string,
  ];
  const attendAs = (layer: number, qkv: string): string => {
    const attended = attention(graph, { config, type: attentionType, cos, sin }, layer, cast(qkv, attentionType));
    return cast(attended, "float32");
  };

  let residual = embed(graph, weights.embedding, tokens);
  let branch: string | undefined;
  for (const [layer, parts] of weights.layers.entries()) {
    const at = `blk.${layer}`;
    let normed: string;
    [normed, residual] = addAndNorm(graph, config, `${at}.attn_norm`, parts.attentionNorm, residual, branch);
    let attended = attendAs(layer, multiply(graph, parts.qkv, normed));
    // After the last attention no token looks at another one, so that the rest are done with.
    if (layer === weights.layers.length - 1) {
      attended = takeSampled(graph, `${at}.attended`, attended, sampled, config.queryHeads * config.headDim);
      residual = takeSampled(graph, `${at}.residual`, residual, sampled, config.hiddenSize);
    }
    const mixedIn = multiply(graph, parts.attentionOutput, attended);
    [normed, residual] = addAndNorm(graph, config, `${at}.ffn_norm`, parts.ffnNorm, residual, mixedIn);
    branch = multiply(graph, parts.down, gate(graph, at, multiply(graph, parts.gateUp, normed)));
  }
  const [normed] = addAndNorm(graph, config, "output_norm", weights.outputNorm, residual, branch);
  multiply(graph, weights.head, normed, "logits");
  graph.output("logits", "float32", [1, "sampled", config.vocabSize]);
  return graph;
}
