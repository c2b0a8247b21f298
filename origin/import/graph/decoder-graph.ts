/**
 * Writes a decoder as ONNX: the graphs of a plain, a mixed and a draft step, and one file of weights that
 * all refer to. Says which operators compute a layer; knows neither where the weights come from nor who runs them.
 *
 * The graphs share everything but attention:
 *
 *   plain   tokens [rows, length]: `rows` running rows of one token, or one row of a prompt's chunk
 *   mixed   tokens [1, rows + chunk]: all running rows and one prompt's chunk; attention sees them apart, through two
 *           views of one KV slab, and everything else sees `rows + chunk` tokens at once
 *   draft   tokens [1, rows + guessed]: all running rows, and guessed tokens of one of them. Attention sees each guessed
 *           token alone, behind those before it: over several at once it would add in another order, and an answer would
 *           show whether its tokens were guessed
 *
 * Keys and values are inputs and outputs of the graph. Given the same buffer for both, attention appends in place.
 * The first two are written once more for GPUs: matrices and attention compute in `float16`, keys and values too. CUDA's
 * attention has no other, and its matrices are fast in no other. The CPU is fastest in `float32` throughout.
 *
 * `sampled` names the tokens, by their place in the run, that logits are wanted of: only those go through the last
 * layer's feed-forward part and the LM head.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  DECODER_FILE,
  DRAFT_DECODER_FILE,
  HALF_DECODER_FILE,
  HALF_MIXED_DECODER_FILE,
  MIXED_DECODER_FILE,
  WEIGHTS_FILE,
} from "../../manifest/manifest.ts";
import type { Checkpoint, DecoderConfig } from "../checkpoint.ts";
import { OnnxGraph } from "../../onnx/onnx-graph.ts";
import type { WeightFormat } from "../quantize.ts";
import { rotateCheckpoint } from "../rotate.ts";
import { type Attention, draftAttention, mixedAttention, plainAttention, project } from "./attention.ts";
import { embed } from "./embedding.ts";
import { feedForward } from "./feed-forward.ts";
import { multiply } from "./multiply.ts";
import { addAndNorm, cast, type ComputeType, convert, norm, one, takeSampled } from "./nodes.ts";
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
  const source = format.rotated ? rotateCheckpoint(checkpoint, format.rotated) : checkpoint;
  const weights = writeWeights(source, join(folder, WEIGHTS_FILE), format, onProgress);
  const { config } = checkpoint;
  const write = (file: string, attention: Attention, type: ComputeType): void =>
    writeFileSync(join(folder, file), buildDecoder(config, weights, attention, type).encode());
  write(DECODER_FILE, plainAttention, "float32");
  write(MIXED_DECODER_FILE, mixedAttention, "float32");
  write(DRAFT_DECODER_FILE, draftAttention, "float32");
  write(HALF_DECODER_FILE, plainAttention, "float16");
  write(HALF_MIXED_DECODER_FILE, mixedAttention, "float16");
}

function buildDecoder(config: DecoderConfig, weights: Weights, attention: Attention, type: ComputeType): OnnxGraph {
  const graph = new OnnxGraph();
  const tokens = graph.input("tokens", "int32", attention.tokens);
  const sampled = graph.input("sampled", "int32", ["sampled"]);
  attention.declare(graph);
  const widen = (value: string): string =>
    type === "float32" ? value : cast(graph, value, "float32", `${value}.wide`);
  let residual = embed(graph, config, weights.embedding, tokens);
  let branch: string | undefined;
  for (const [layer, parts] of weights.layers.entries()) {
    const at = `blk.${layer}`;
    let normed: string;
    [normed, residual] = addAndNorm(graph, config, `${at}.attn_norm`, parts.attentionNorm, residual, branch);
    const projections = project(graph, type, config, at, parts, convert(graph, normed, type));
    const [cos, sin] = [parts.rotations.cos, parts.rotations.sin].map((table) =>
      convert(graph, graph.external(table), type),
    ) as [string, string];
    let attended = attention.attend(graph, { config, type, layer, cos, sin }, projections);
    // After the last attention no token looks at another one, so that the rest are done with.
    if (layer === weights.layers.length - 1) {
      attended = takeSampled(graph, `${at}.attended`, attended, sampled, config.queryHeads * config.headDim);
      residual = takeSampled(graph, `${at}.residual`, residual, sampled, config.hiddenSize);
    }
    branch = widen(multiply(graph, type, parts.attentionOutput, attended));
    if (parts.attentionPostNorm) branch = norm(graph, config, `${at}.attn_post_norm`, parts.attentionPostNorm, branch);
    [normed, residual] = addAndNorm(graph, config, `${at}.ffn_norm`, parts.ffnNorm, residual, branch);
    branch = widen(feedForward(graph, type, config, at, parts, convert(graph, normed, type)));
    if (parts.ffnPostNorm) branch = norm(graph, config, `${at}.ffn_post_norm`, parts.ffnPostNorm, branch);
  }
  const [normed] = addAndNorm(graph, config, "output_norm", weights.outputNorm, residual, branch);
  const turned = convert(graph, turnBeforeHead(graph, weights, normed), type);
  if (type === "float32") multiply(graph, type, weights.head, turned, "logits");
  else cast(graph, multiply(graph, type, weights.head, turned), "float32", "logits");
  graph.output("logits", "float32", [1, "sampled", config.vocabSize]);
  return graph;
}

/** What a rotation leaves to be done where the head is the embedding table. */
function turnBeforeHead(graph: OnnxGraph, { beforeHead }: Weights, normed: string): string {
  if (beforeHead === undefined) return normed;
  const matrix = cast(graph, graph.external(beforeHead), "float32");
  return one(graph.node("MatMul", "before_head.turned", [normed, matrix]));
}
