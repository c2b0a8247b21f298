/** The nodes that every part of a decoder is built of. */
import type { DecoderConfig } from "../checkpoint.ts";
import { ELEMENT_TYPES, type ExternalTensor, type OnnxGraph } from "../../onnx/onnx-graph.ts";
import { scalesName } from "../../onnx/scales.ts";
import type { StoredBlocks } from "./weights.ts";

/** What matrices and attention compute in. What is added up from layer to layer is `float32`: some models' largest states are beyond half's. */
export type ComputeType = "float32" | "float16";

/** The output of a node that has one. */
export function one(outputs: readonly string[]): string {
  return outputs[0]!;
}

/** RMS norm over the last dimension, of a value of `type`; default `float32`. */
export function norm(
  graph: OnnxGraph,
  { normEpsilon }: DecoderConfig,
  name: string,
  gamma: ExternalTensor,
  value: string,
  type: ComputeType = "float32",
): string {
  const attributes = { axis: -1, epsilon: { float: normEpsilon } };
  const gains = convert(graph, graph.external(gamma), type);
  return one(graph.node("SimplifiedLayerNormalization", name, [value, gains], { attributes }));
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

/** A value in another number type. */
export function cast(graph: OnnxGraph, value: string, to: ComputeType, name = `${value}.${to}`): string {
  return one(graph.node("Cast", name, [value], { attributes: { to: ELEMENT_TYPES[to] } }));
}

/** A value of `float32` in what is computed in: itself, or a cast of it that all who ask for it share. */
export function convert(graph: OnnxGraph, value: string, to: ComputeType): string {
  return to === "float32" ? value : graph.once(`${value}.${to}`, () => cast(graph, value, to));
}

/**
 * A matrix's scales, `[rows, blocks]`, from what is stored of them. All of it is constant, so ONNX Runtime does it once, as
 * it loads.
 */
export function computeScales(
  graph: OnnxGraph,
  matrix: string,
  { scaleCodes, rowScales }: StoredBlocks,
  type: ComputeType,
): string {
  const name = scalesName(matrix);
  const scales = graph.once(name, () => {
    const parts = [scaleCodes, rowScales].map((tensor) => cast(graph, graph.external(tensor), "float32"));
    return one(graph.node("Mul", name, parts));
  });
  return convert(graph, scales, type);
}

/** The sampled tokens of `[any, any, size]`, as `[1, sampled, size]`. */
export function takeSampled(graph: OnnxGraph, name: string, value: string, sampled: string, size: number): string {
  const flat = one(graph.node("Reshape", `${name}.flat`, [value, graph.constant(`flat.${size}`, [1, -1, size])]));
  return one(graph.node("Gather", `${name}.sampled`, [flat, sampled], { attributes: { axis: 1 } }));
}
