/** The feed-forward part of a layer. */
import type { OnnxGraph } from "../onnx.ts";
import { one } from "./nodes.ts";

/** SwiGLU: silu(gate) * up, of the two halves of the last dimension. */
export function gate(graph: OnnxGraph, at: string, gateUp: string): string {
  const [left, right] = graph.node("Split", `${at}.gate`, [gateUp], {
    outputs: 2,
    attributes: { axis: -1, num_outputs: 2 },
  }) as [string, string];
  // QuickGelu is x * sigmoid(alpha * x): with alpha 1 that is SiLU, in one kernel.
  const attributes = { alpha: { float: 1 } };
  const silu = one(graph.node("QuickGelu", `${at}.silu`, [left], { domain: "com.microsoft", attributes }));
  return one(graph.node("Mul", `${at}.gated`, [silu, right]));
}
