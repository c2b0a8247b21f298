/**
 * The graphs that write where JavaScript can't, in a device's memory: a copy of values, and zeros. As for
 * `splice-graph.ts`, the C API has no plain function for the memory of its own CUDA provider.
 */
import { ELEMENT_TYPES, type ElementType, OnnxGraph } from "../../onnx/onnx-graph.ts";
import type { KvType } from "../port/kv-model.ts";

/** `to.<name> = from.<name>`, for each name, of any size each. The model file's bytes. */
export function buildCopyGraph(type: ElementType, names: readonly string[]): Uint8Array {
  const graph = new OnnxGraph("copy");
  for (const name of names) {
    const from = graph.input(`from.${name}`, type, [`${name}.size`]);
    graph.node("Identity", `to.${name}`, [from]);
    graph.output(`to.${name}`, type, [`${name}.size`]);
  }
  return graph.encode();
}

/** `zeros` of the dimensions that `shape`, `int64 [4]`, names. The model file's bytes. */
export function buildZerosGraph(type: KvType): Uint8Array {
  const graph = new OnnxGraph("zeros");
  const shape = graph.input("shape", "int64", [4]);
  const [zero = ""] = graph.node("Cast", "zero", [graph.scalar("zero.float32", 0)], {
    attributes: { to: ELEMENT_TYPES[type] },
  });
  graph.node("Expand", "zeros", [zero, shape]);
  graph.output("zeros", type, ["slots", "heads", "tokens", "numbers"]);
  return graph.encode();
}
