/**
 * Writes an encoder as ONNX: one graph, and one file of weights. Depends neither on where the weights come from nor on what
 * runs the graph.
 *
 *   tokens, mask  [rows, length]       texts side by side, padded to the longest; `mask` is 1 for the tokens of the text
 *   positions     [length]             0, 1, 2, …
 *   weights       [rows, 1, length]    share of each token's last state in the text's vector
 *   vectors       [rows, 1, hiddenSize]
 *
 * Pooling is thus a matrix product: the mean and `[CLS]` are two kinds of weights, and only vectors leave the graph.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { WeightFormat } from "../../onnx/weight-formats.ts";
import { ENCODER_FILE, WEIGHTS_FILE } from "../../manifest/manifest.ts";
import type { EncoderCheckpoint, EncoderConfig } from "../checkpoint/encoder-checkpoint.ts";
import { OnnxGraph } from "../../onnx/onnx-graph.ts";
import { embed } from "./embedding.ts";
import {
  type AffineWeights,
  type EncoderLayerWeights,
  type EncoderWeights,
  type LayerNormWeights,
  writeEncoderWeights,
} from "./encoder-weights.ts";
import { multiply } from "./multiply.ts";
import { one } from "./nodes.ts";
import type { OnMatrixWritten } from "./weights-writer.ts";

export interface EncoderGraphOptions {
  /** An existing folder, which the graph and `model.onnx.data` are written to. */
  readonly folder: string;
  readonly format: WeightFormat;
  /** Called after every matrix. */
  readonly onProgress?: OnMatrixWritten | undefined;
}

/** Writes the graph and the weights. Holds one piece of one matrix in memory at a time. */
export function writeEncoderGraph(checkpoint: EncoderCheckpoint, options: EncoderGraphOptions): void {
  const { folder, format, onProgress } = options;
  const weights = writeEncoderWeights(checkpoint, { path: join(folder, WEIGHTS_FILE), format, onProgress });
  writeFileSync(join(folder, ENCODER_FILE), new EncoderGraph(checkpoint.config, weights).build().encode());
}

class EncoderGraph {
  readonly #config: EncoderConfig;
  readonly #weights: EncoderWeights;
  readonly #graph = new OnnxGraph("encoder");

  constructor(config: EncoderConfig, weights: EncoderWeights) {
    this.#config = config;
    this.#weights = weights;
  }

  build(): OnnxGraph {
    const graph = this.#graph;
    const { embedding, positions, embeddingNorm, layers } = this.#weights;
    const tokens = graph.input("tokens", "int32", ["rows", "length"]);
    const mask = graph.input("mask", "int32", ["rows", "length"]);
    const places = graph.input("positions", "int32", ["length"]);
    const pooling = graph.input("weights", "float32", ["rows", 1, "length"]);

    const words = embed(graph, { embeddingScale: 1 }, embedding, tokens);
    const placed = one(graph.node("Gather", "embed.positions", [graph.external(positions), places]));
    const embedded = one(graph.node("Add", "embed.placed", [words, placed]));
    let state = this.#norm("embed.norm", embeddingNorm, embedded);
    for (const [layer, weights] of layers.entries()) state = this.#layer(`blk.${layer}`, weights, { state, mask });
    graph.node("MatMul", "vectors", [pooling, state]);
    graph.output("vectors", "float32", ["rows", 1, this.#config.hiddenSize]);
    return graph;
  }

  #layer(
    name: string,
    weights: EncoderLayerWeights,
    { state, mask }: { readonly state: string; readonly mask: string },
  ): string {
    const projected = this.#affine(`${name}.qkv`, weights.qkv, state);
    const attended = this.#attend(name, projected, mask);
    const output = this.#affine(`${name}.attn_output`, weights.attentionOutput, attended);
    const between = this.#addAndNorm(`${name}.attn_norm`, weights.attentionNorm, [state, output]);
    const up = this.#affine(`${name}.ffn_up`, weights.up, between);
    const down = this.#affine(`${name}.ffn_down`, weights.down, this.#activate(name, up));
    return this.#addAndNorm(`${name}.output_norm`, weights.outputNorm, [between, down]);
  }

  /** Each token attends to all tokens of its text. */
  #attend(name: string, projected: string, mask: string): string {
    const parts = this.#graph.node("Split", `${name}.parts`, [projected], {
      outputs: 3,
      attributes: { axis: -1, num_outputs: 3 },
    });
    return one(
      this.#graph.node("MultiHeadAttention", `${name}.attn`, [...parts, "", mask], {
        domain: "com.microsoft",
        attributes: { num_heads: this.#config.heads },
      }),
    );
  }

  #affine(name: string, { matrix, bias }: AffineWeights, input: string): string {
    const graph = this.#graph;
    const product = multiply({ graph, type: "float32" }, matrix, input);
    return one(graph.node("Add", `${name}.biased`, [product, graph.external(bias)]));
  }

  #activate(name: string, value: string): string {
    const type = this.#config.activation === "gelu" ? "Gelu" : "FastGelu";
    return one(this.#graph.node(type, `${name}.gelu`, [value], { domain: "com.microsoft" }));
  }

  #norm(name: string, { gain, bias }: LayerNormWeights, value: string): string {
    const graph = this.#graph;
    const attributes = { axis: -1, epsilon: { float: this.#config.normEpsilon } };
    return one(
      graph.node("LayerNormalization", name, [value, graph.external(gain), graph.external(bias)], { attributes }),
    );
  }

  /** Layer norm of a sum. */
  #addAndNorm(name: string, { gain, bias }: LayerNormWeights, [residual, branch]: readonly [string, string]): string {
    const graph = this.#graph;
    return one(
      graph.node("SkipLayerNormalization", name, [residual, branch, graph.external(gain), graph.external(bias)], {
        domain: "com.microsoft",
        attributes: { epsilon: { float: this.#config.normEpsilon } },
      }),
    );
  }
}
