/** The feed-forward part of a decoder layer: a gate, and the values that the gate multiplies. */
import type { LayerWeights } from "./decoder-weights.ts";
import type { Matrix } from "./matrix.ts";
import { multiply } from "./multiply.ts";
import { type LayerContext, layerName, one } from "./nodes.ts";

/** `down · rotated(activation(gate · input) * (up · input))`, all of the graph's type. */
export function feedForward(context: LayerContext, { gateUp, beforeDown, down }: LayerWeights, input: string): string {
  const { graph } = context;
  const name = layerName(context);
  const [gate, up] = graph.node("Split", `${name}.gate`, [multiply(context, gateUp, input)], {
    outputs: 2,
    attributes: { axis: -1, num_outputs: 2 },
  }) as [string, string];
  const gated = one(graph.node("Mul", `${name}.gated`, [activate(context, gate), up]));
  return multiply(context, down, beforeDown === undefined ? gated : rotateBlocks(context, beforeDown, gated, down));
}

function activate(context: LayerContext, gate: string): string {
  const { graph, config } = context;
  const { activation } = config;
  const name = layerName(context);
  const domain = "com.microsoft";
  switch (activation) {
    case "silu":
      // QuickGelu is x * sigmoid(alpha * x): with an alpha of 1 it is SiLU, in one kernel.
      return one(graph.node("QuickGelu", `${name}.silu`, [gate], { domain, attributes: { alpha: { float: 1 } } }));
    case "gelu_tanh":
      return one(graph.node("FastGelu", `${name}.gelu`, [gate], { domain }));
    default:
      return activation satisfies never;
  }
}

/** Multiplies every block of a matrix's inputs by a small square matrix. */
function rotateBlocks(context: LayerContext, square: Matrix, value: string, { columns }: Matrix): string {
  const { graph } = context;
  const name = layerName(context);
  const size = square.columns;
  // A number, not -1: with no sampled token the value is empty, and ONNX Runtime can't infer a size from it.
  const apart = graph.constant("ffn.apart", [0, 0, columns / size, size]);
  const blocks = one(graph.node("Reshape", `${name}.gated.blocks`, [value, apart]));
  const rotated = multiply(context, square, blocks, `${name}.gated.turned`);
  return one(graph.node("Reshape", `${name}.gated.joined`, [rotated, graph.constant("ffn.joined", [0, 0, columns])]));
}
