/** The nodes that every part of a decoder is built of. */
import type { DecoderConfig } from "../checkpoint.ts";
import type { ExternalTensor, OnnxGraph } from "../onnx.ts";
import { computeScales } from "./scales.ts";
import type { Matrix } from "./weights.ts";

/** The output of a node that has one. */
export function one(outputs: readonly string[]): string {
  return outputs[0]!;
}

/** RMS norm over the last dimension. */
export function norm(
  graph: OnnxGraph,
  { normEpsilon }: DecoderConfig,
  name: string,
  gamma: ExternalTensor,
  value: string,
): string {
  const attributes = { axis: -1, epsilon: { float: normEpsilon } };
  return one(graph.node("SimplifiedLayerNormalization", name, [value, graph.external(gamma)], { attributes }));
}

/** RMS norm of `residual + branch`: the normed values and the sum. */
export function addAndNorm(
  graph: OnnxGraph,
  config: DecoderConfig,
  name: string,
  gamma: ExternalTensor,
  residual: string,
  branch: string | undefined,
): [normed: string, sum: string] {
  if (branch === undefined) return [norm(graph, config, name, gamma, residual), residual];
  const sum = `${name}.sum`;
  graph.node("SkipSimplifiedLayerNormalization", name, [residual, branch, graph.external(gamma)], {
    domain: "com.microsoft",
    attributes: { epsilon: { float: config.normEpsilon } },
    outputs: [name, "", "", sum],
  });
  return [name, sum];
}

/** `input · matrixᵀ`. */
export function multiply(graph: OnnxGraph, matrix: Matrix, input: string, output = `${matrix.name}.out`): string {
  const { stored, rows: N, columns: K } = matrix;
  if (stored.kind === "dense") {
    const inputs = [input, graph.external(stored.values)];
    return one(graph.node("FusedMatMul", output, inputs, { domain: "com.microsoft", attributes: { transB: 1 } }));
  }
  const inputs = [input, graph.external(stored.packed), computeScales(graph, matrix.name, stored)];
  if (stored.zeroPoints !== undefined) inputs.push(graph.external(stored.zeroPoints));
  const { bits, blockSize } = stored.format;
  // Level 4 multiplies in int8. With less, 8-bit weights take a path that is 25 times slower.
  const attributes = { K, N, bits, block_size: blockSize, accuracy_level: 4 };
  return one(graph.node("MatMulNBits", output, inputs, { domain: "com.microsoft", attributes }));
}

/** The sampled tokens of `[any, any, size]`, as `[1, sampled, size]`. */
export function takeSampled(graph: OnnxGraph, name: string, value: string, sampled: string, size: number): string {
  const flat = one(graph.node("Reshape", `${name}.flat`, [value, graph.constant(`flat.${size}`, [1, -1, size])]));
  return one(graph.node("Gather", `${name}.sampled`, [flat, sampled], { attributes: { axis: 1 } }));
}
