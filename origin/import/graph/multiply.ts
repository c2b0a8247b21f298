/** Multiplication by a matrix, however it is stored. */
import type { OnnxGraph } from "../../onnx/onnx-graph.ts";
import { multiplyRows } from "./multiply-rows.ts";
import { cast, computeScales, type ComputeType, one } from "./nodes.ts";
import type { Matrix, StoredBlocks } from "./weights.ts";

/** `input · matrixᵀ`, both of `type`. Numbers and rows of codes are multiplied in a type of their own. */
export function multiply(
  graph: OnnxGraph,
  type: ComputeType,
  matrix: Matrix,
  input: string,
  output = `${matrix.name}.out`,
): string {
  const { stored, name } = matrix;
  if (stored.kind === "blocks") return multiplyBlocks(graph, type, matrix, stored, input, output);
  const own = stored.kind === "dense" ? stored.type : "float32";
  if (own !== type) {
    const product = multiply(graph, own, matrix, cast(graph, input, own, `${output}.in`), `${output}.${own}`);
    return cast(graph, product, type, output);
  }
  if (stored.kind === "rows") return multiplyRows(graph, name, stored, input, output);
  const fused = { domain: "com.microsoft", attributes: { transB: 1 } };
  return one(graph.node("FusedMatMul", output, [input, graph.external(stored.values)], fused));
}

function multiplyBlocks(
  graph: OnnxGraph,
  type: ComputeType,
  { name, rows: N, columns: K }: Matrix,
  stored: StoredBlocks,
  input: string,
  output: string,
): string {
  const inputs = [input, graph.external(stored.packed), computeScales(graph, name, stored, type)];
  if (stored.zeroPoints !== undefined) inputs.push(graph.external(stored.zeroPoints));
  const { bits, blockSize } = stored.format;
  // Level 4 multiplies in int8. With less, 8-bit weights take a path that is 25 times slower.
  const attributes = { K, N, bits, block_size: blockSize, accuracy_level: 4 };
  return one(graph.node("MatMulNBits", output, inputs, { domain: "com.microsoft", attributes }));
}
