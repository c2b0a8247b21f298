/** Multiplication by a matrix, however it is stored. */
import type { OnnxGraph } from "../onnx.ts";
import { multiplyRows } from "./multiply-rows.ts";
import { cast, computeScales, one } from "./nodes.ts";
import type { Matrix } from "./weights.ts";

/** `input · matrixᵀ`. */
export function multiply(graph: OnnxGraph, matrix: Matrix, input: string, output = `${matrix.name}.out`): string {
  const { stored, rows: N, columns: K } = matrix;
  if (stored.kind === "dense") {
    const fused = { domain: "com.microsoft", attributes: { transB: 1 } };
    const values = graph.external(stored.values);
    if (stored.values.type === "float32") return one(graph.node("FusedMatMul", output, [input, values], fused));
    // What is added up from layer to layer stays in full precision: some models' largest states are beyond half's.
    const half = cast(graph, input, "float16", `${matrix.name}.in`);
    return cast(graph, one(graph.node("FusedMatMul", `${output}.half`, [half, values], fused)), "float32", output);
  }
  if (stored.kind === "rows") return multiplyRows(graph, matrix.name, stored, input, output);
  const inputs = [input, graph.external(stored.packed), computeScales(graph, matrix.name, stored)];
  if (stored.zeroPoints !== undefined) inputs.push(graph.external(stored.zeroPoints));
  const { bits, blockSize } = stored.format;
  // Level 4 multiplies in int8. With less, 8-bit weights take a path that is 25 times slower.
  const attributes = { K, N, bits, block_size: blockSize, accuracy_level: 4 };
  return one(graph.node("MatMulNBits", output, inputs, { domain: "com.microsoft", attributes }));
}
