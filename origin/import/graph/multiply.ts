/** Multiplication by a matrix, for every way a matrix is stored. */
import type { Matrix, StoredBlocks } from "./matrix.ts";
import { multiplyRows } from "./multiply-rows.ts";
import { cast, computeScales, one, type TypedGraph } from "./nodes.ts";

/**
 * `input · matrixᵀ`; input and result have the graph's type. A dense matrix multiplies in the type that it is stored in, a
 * matrix of row codes in `float32`; casts are added around them where that is another type.
 */
export function multiply(target: TypedGraph, matrix: Matrix, input: string, output = `${matrix.name}.out`): string {
  const { graph, type } = target;
  const { stored, name } = matrix;
  if (stored.kind === "blocks") return multiplyBlocks(target, { ...matrix, stored }, input, output);
  const own = stored.kind === "dense" ? stored.type : "float32";
  if (own !== type) {
    const operand = cast(graph, input, own, `${output}.in`);
    return cast(graph, multiply({ graph, type: own }, matrix, operand, `${output}.${own}`), type, output);
  }
  if (stored.kind === "rows") return multiplyRows(graph, { name, stored }, input, output);
  const fused = { domain: "com.microsoft", attributes: { transB: 1 } };
  return one(graph.node("FusedMatMul", output, [input, graph.external(stored.values)], fused));
}

function multiplyBlocks(target: TypedGraph, matrix: Matrix<StoredBlocks>, input: string, output: string): string {
  const { graph } = target;
  const { name, rows: N, columns: K, stored } = matrix;
  const inputs = [input, graph.external(stored.packed), computeScales(target, name, stored)];
  if (stored.zeroPoints !== undefined) inputs.push(graph.external(stored.zeroPoints));
  const { bits, blockSize } = stored.format;
  // Accuracy level 4 multiplies in int8. Below it, 8-bit weights take a path that is 25 times slower.
  const attributes = { K, N, bits, block_size: blockSize, accuracy_level: 4 };
  return one(graph.node("MatMulNBits", output, inputs, { domain: "com.microsoft", attributes }));
}
