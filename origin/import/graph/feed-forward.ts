/** The feed-forward part of a layer: a gate, and what passes it. */
import type { Activation, DecoderConfig } from "../checkpoint.ts";
import type { OnnxGraph } from "../onnx.ts";
import { multiply } from "./multiply.ts";
import { type ComputeType, one } from "./nodes.ts";
import type { LayerWeights } from "./weights.ts";

/** `down · (activation(gate · input) * (up · input))`, all of `type`. */
export function feedForward(
  graph: OnnxGraph,
  type: ComputeType,
  { activation }: DecoderConfig,
  at: string,
  { gateUp, down }: LayerWeights,
  input: string,
): string {
  const [gate, up] = graph.node("Split", `${at}.gate`, [multiply(graph, type, gateUp, input)], {
    outputs: 2,
    attributes: { axis: -1, num_outputs: 2 },
  }) as [string, string];
  const gated = one(graph.node("Mul", `${at}.gated`, [activate(graph, activation, at, gate), up]));
  return multiply(graph, type, down, gated);
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
