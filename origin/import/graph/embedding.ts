/** The embedding table: from token ids to hidden states. */
import type { DecoderConfig } from "../checkpoint/checkpoint.ts";
import type { OnnxGraph } from "../../onnx/onnx-graph.ts";
import type { Matrix } from "./matrix.ts";
import { gatherRowCodes } from "./multiply-rows.ts";
import { cast, computeScales, one } from "./nodes.ts";

/** Looks up the tokens' rows of the embedding table and scales them as the architecture asks. The result is `float32`. */
export function embed(
  graph: OnnxGraph,
  { embeddingScale }: Pick<DecoderConfig, "embeddingScale">,
  embedding: Matrix,
  tokens: string,
): string {
  const rows = gatherRows(graph, embedding, tokens);
  if (embeddingScale === 1) return rows;
  return one(graph.node("Mul", "embed.scaled", [rows, graph.scalar("embed.scale", embeddingScale)]));
}

/** A quantized table is read from the same bytes that a tied LM head multiplies by. */
function gatherRows(graph: OnnxGraph, embedding: Matrix, tokens: string): string {
  const { stored } = embedding;
  if (stored.kind === "dense") {
    const rows = one(graph.node("Gather", "embed", [graph.external(stored.values), tokens]));
    return stored.type === "float32" ? rows : cast(graph, rows, "float32");
  }
  if (stored.kind === "rows") return gatherRowCodes(graph, "embed", stored, tokens);
  const { bits, blockSize } = stored.format;
  const { packed } = stored;
  const [count = 0, blocks = 0, blockBytes = 0] = packed.shape;
  // GatherBlockQuantized takes the codes as a matrix, MatMulNBits as blocks: two shapes of the same place in the file.
  const table = graph.external({ ...packed, name: `${packed.name}.rows`, shape: [count, blocks * blockBytes] });
  const inputs = [table, tokens, computeScales({ graph, type: "float32" }, embedding.name, stored)];
  if (stored.zeroPoints !== undefined) inputs.push(graph.external(stored.zeroPoints));
  const embedded = one(
    graph.node("GatherBlockQuantized", "embed", inputs, {
      domain: "com.microsoft",
      attributes: { bits, block_size: blockSize, gather_axis: 0, quantize_axis: 1 },
    }),
  );
  if (blocks * blockSize === embedding.columns) return embedded;
  const [from, to] = [graph.constant("embed.from", [0]), graph.constant("embed.to", [embedding.columns])];
  return one(graph.node("Slice", "embed.unpadded", [embedded, from, to, graph.constant("embed.axis", [-1])]));
}
