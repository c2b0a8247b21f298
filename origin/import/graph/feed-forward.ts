/** The feed-forward part of a layer: a gate, and what passes it. */
import type { Activation, DecoderConfig } from "../checkpoint.ts";
import type { OnnxGraph } from "../../onnx/onnx-graph.ts";
import { multiply } from "./multiply.ts";
import { type ComputeType, one } from "./nodes.ts";
import type { LayerWeights, Matrix } from "./weights.ts";

/** `down · turned(activation(gate · input) * (up · input))`, all of `type`. */
export function feedForward(
  graph: OnnxGraph,
  type: ComputeType,
  { activation }: DecoderConfig,
  at: string,
  { gateUp, beforeDown, down }: LayerWeights,
  input: string,
): string {
  const [gate, up] = graph.node("Split", `${at}.gate`, [multiply(graph, type, gateUp, input)], {
    outputs: 2,
    attributes: { axis: -1, num_outputs: 2 },
  }) as [string, string];
  const gated = one(graph.node("Mul", `${at}.gated`, [activate(graph, activation, at, gate), up]));
  return multiply(graph, type, down, beforeDown === undefined ? gated : turn(graph, type, at, beforeDown, gated, down));
}

function activate(graph: OnnxGraph, activation: Activation, at: string, gate: string): string {
  const domain = "com.microsoft";
  switch (activation) {
    case "silu":
      // QuickGelu is x * sigmoid(alpha * x): with alpha 1 that is SiLU, in one kernel.
      return one(graph.node("QuickGelu", `${at}.silu`, [gate], { domain, attributes: { alpha: { float: 1 } } }));
    case "gelu_tanh":
      return one(graph.node("FastGelu", `${at}.gelu`, [gate], { domain }));
    default:
      return activation satisfies never;
  }
}

/** Multiplies every block of a matrix's inputs. */
function turn(
  graph: OnnxGraph,
  type: ComputeType,
  at: string,
  matrix: Matrix,
  value: string,
  { columns }: Matrix,
): string {
  const size = matrix.columns;
  // Not -1: of no tokens at all, where none is sampled, no size can be told.
  const apart = graph.constant("ffn.apart", [0, 0, columns / size, size]);
  const blocks = one(graph.node("Reshape", `${at}.gated.blocks`, [value, apart]));
  const turned = multiply(graph, type, matrix, blocks, `${at}.gated.turned`);
  return one(graph.node("Reshape", `${at}.gated.joined`, [turned, graph.constant("ffn.joined", [0, 0, columns])]));
}
