/**
 * Writes a decoder as ONNX: the graphs of a plain, a mixed and a draft step, and one file of weights that they share. Depends
 * neither on where the weights come from nor on what runs the graphs.
 *
 * The graphs differ only in attention:
 *
 *   plain   tokens [rows, length]: running rows with one token each, or one chunk of one prompt
 *   mixed   tokens [1, rows + chunk]: all running rows and one chunk of a prompt. Attention splits them and uses two views of
 *           one KV slab; everything else computes `rows + chunk` tokens at once
 *   draft   tokens [1, rows + drafted]: all running rows, and drafted tokens of one of them. Attention computes each drafted
 *           token alone, after those before it: several at once are added up in another order, and the answer would depend on
 *           whether its tokens were drafted
 *
 * Keys and values are inputs and outputs of the graph. With the same buffer for both, attention appends in place.
 * The plain and the mixed graph are also written for GPUs, with matrices, attention, keys and values in `float16`: CUDA's
 * attention supports no other type, and its matrix products are fast in no other. The CPU is fastest in `float32`.
 *
 * `sampled` holds the positions of the tokens whose logits are read. Only these pass through the last layer's feed-forward
 * part and the LM head.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WeightFormat } from "../../onnx/weight-formats.ts";
import {
  DECODER_FILE,
  DRAFT_DECODER_FILE,
  HALF_DECODER_FILE,
  HALF_MIXED_DECODER_FILE,
  MIXED_DECODER_FILE,
  WEIGHTS_FILE,
} from "../../manifest/manifest.ts";
import type { Checkpoint, DecoderConfig } from "../checkpoint/checkpoint.ts";
import { OnnxGraph } from "../../onnx/onnx-graph.ts";
import { rotateCheckpoint } from "../quantize/rotate.ts";
import { type Attention, draftAttention, mixedAttention, plainAttention, project } from "./attention.ts";
import { type DecoderWeights, type LayerWeights, writeDecoderWeights } from "./decoder-weights.ts";
import { embed } from "./embedding.ts";
import { feedForward } from "./feed-forward.ts";
import { multiply } from "./multiply.ts";
import {
  addAndNorm,
  cast,
  type ComputeType,
  convert,
  type LayerContext,
  layerName,
  norm,
  one,
  takeSampled,
  type TypedGraph,
} from "./nodes.ts";
import type { OnMatrixWritten } from "./weights-writer.ts";

export interface DecoderGraphOptions {
  /** An existing folder, which the graphs and `model.onnx.data` are written to. */
  readonly folder: string;
  readonly format: WeightFormat;
  /** Called after every matrix. */
  readonly onProgress?: OnMatrixWritten | undefined;
}

/** Writes the graphs and the weights. Holds one piece of one matrix in memory at a time. */
export function writeDecoderGraph(checkpoint: Checkpoint, options: DecoderGraphOptions): void {
  const { folder, format, onProgress } = options;
  const source = format.rotated ? rotateCheckpoint(checkpoint, format.rotated) : checkpoint;
  const weights = writeDecoderWeights(source, { path: join(folder, WEIGHTS_FILE), format, onProgress });
  const { config } = checkpoint;
  const write = (file: string, attention: Attention, type: ComputeType): void =>
    writeFileSync(join(folder, file), new DecoderGraph({ config, weights, attention, type }).build().encode());
  write(DECODER_FILE, plainAttention, "float32");
  write(MIXED_DECODER_FILE, mixedAttention, "float32");
  write(DRAFT_DECODER_FILE, draftAttention, "float32");
  write(HALF_DECODER_FILE, plainAttention, "float16");
  write(HALF_MIXED_DECODER_FILE, mixedAttention, "float16");
}

interface DecoderParts {
  readonly config: DecoderConfig;
  readonly weights: DecoderWeights;
  readonly attention: Attention;
  readonly type: ComputeType;
}

/** The state between two parts of a layer. What a part computes is added to the residual stream by the next norm. */
interface Stream {
  readonly residual: string;
  readonly branch: string | undefined;
}

class DecoderGraph {
  readonly #parts: DecoderParts;
  readonly #graph = new OnnxGraph();
  readonly #typed: TypedGraph;

  constructor(parts: DecoderParts) {
    this.#parts = parts;
    this.#typed = { graph: this.#graph, type: parts.type };
  }

  build(): OnnxGraph {
    const { config, weights, attention } = this.#parts;
    const graph = this.#graph;
    const tokens = graph.input("tokens", "int32", attention.tokens);
    const sampled = graph.input("sampled", "int32", ["sampled"]);
    attention.declare(graph);
    let stream: Stream = { residual: embed(graph, config, weights.embedding, tokens), branch: undefined };
    for (const [layer, parts] of weights.layers.entries()) stream = this.#layer(layer, parts, stream, sampled);
    const [normed] = addAndNorm(graph, stream, this.#normOptions("output_norm", weights.outputNorm));
    this.#writeLogits(normed);
    graph.output("logits", "float32", [1, "sampled", config.vocabSize]);
    return graph;
  }

  #layer(layer: number, weights: LayerWeights, stream: Stream, sampled: string): Stream {
    const { config } = this.#parts;
    const graph = this.#graph;
    const context: LayerContext = { ...this.#typed, config, layer };
    const name = layerName(context);
    let { residual, branch } = stream;
    let normed: string;
    const attentionNorm = this.#normOptions(`${name}.attn_norm`, weights.attentionNorm);
    [normed, residual] = addAndNorm(graph, { residual, branch }, attentionNorm);
    let attended = this.#attend(context, weights, normed);
    // After the last attention no token reads another one, so that only the sampled tokens are needed.
    if (layer === this.#parts.weights.layers.length - 1) {
      const { queryHeads, headDim, hiddenSize } = config;
      attended = takeSampled(graph, { value: attended, size: queryHeads * headDim, sampled }, `${name}.attended`);
      residual = takeSampled(graph, { value: residual, size: hiddenSize, sampled }, `${name}.residual`);
    }
    branch = this.#widen(multiply(context, weights.attentionOutput, attended));
    branch = this.#postNorm(branch, `${name}.attn_post_norm`, weights.attentionPostNorm);
    const ffnNorm = this.#normOptions(`${name}.ffn_norm`, weights.ffnNorm);
    [normed, residual] = addAndNorm(graph, { residual, branch }, ffnNorm);
    branch = this.#widen(feedForward(context, weights, convert(context, normed)));
    branch = this.#postNorm(branch, `${name}.ffn_post_norm`, weights.ffnPostNorm);
    return { residual, branch };
  }

  #attend(context: LayerContext, weights: LayerWeights, normed: string): string {
    const graph = this.#graph;
    const projections = project(context, weights, convert(context, normed));
    const cos = convert(context, graph.external(weights.rotations.cos));
    const sin = convert(context, graph.external(weights.rotations.sin));
    return this.#parts.attention.attend(context, { cos, sin }, projections);
  }

  #postNorm(branch: string, name: string, gains: LayerWeights["ffnPostNorm"]): string {
    if (gains === undefined) return branch;
    return norm({ graph: this.#graph, type: "float32" }, branch, this.#normOptions(name, gains));
  }

  #normOptions(name: string, gains: LayerWeights["ffnNorm"]) {
    return { name, gains, epsilon: this.#parts.config.normEpsilon };
  }

  /** Casts what a part computes to the type of the residual stream. */
  #widen(value: string): string {
    return this.#parts.type === "float32" ? value : cast(this.#graph, value, "float32", `${value}.wide`);
  }

  #writeLogits(normed: string): void {
    const { head } = this.#parts.weights;
    const states = convert(this.#typed, this.#rotateBeforeHead(normed));
    if (this.#parts.type === "float32") multiply(this.#typed, head, states, "logits");
    else cast(this.#graph, multiply(this.#typed, head, states), "float32", "logits");
  }

  /** The part of a rotation that can't be folded into the weights where the head is the embedding table. */
  #rotateBeforeHead(normed: string): string {
    const { beforeHead } = this.#parts.weights;
    if (beforeHead === undefined) return normed;
    const matrix = cast(this.#graph, this.#graph.external(beforeHead), "float32");
    return one(this.#graph.node("MatMul", "before_head.turned", [normed, matrix]));
  }
}
