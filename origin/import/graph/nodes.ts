/** The nodes that every part of a decoder is built of. */
import type { DecoderConfig } from "../checkpoint/checkpoint.ts";
import { ELEMENT_TYPES, type ExternalTensor, type OnnxGraph } from "../../onnx/onnx-graph.ts";
import { scalesName } from "../../onnx/scales.ts";
import type { StoredBlocks } from "./matrix.ts";

/**
 * Number type of matrices and attention. The residual stream, which every layer adds to, is always `float32`: the largest
 * states of some models overflow `float16`.
 */
export type ComputeType = "float32" | "float16";

/** A graph under construction, and the number type that it computes in. */
export interface TypedGraph {
  readonly graph: OnnxGraph;
  readonly type: ComputeType;
}

/** One layer of a decoder under construction. */
export interface LayerContext extends TypedGraph {
  readonly config: DecoderConfig;
  /** Index of the layer, from 0. */
  readonly layer: number;
}

/** Prefix of the names of a layer's nodes. */
export function layerName({ layer }: Pick<LayerContext, "layer">): string {
  return `blk.${layer}`;
}

/** The output of a node that has exactly one. */
export function one(outputs: readonly string[]): string {
  return outputs[0]!;
}

interface NormOptions {
  readonly name: string;
  readonly gains: ExternalTensor;
  readonly epsilon: number;
}

/** RMS norm over the last dimension of a value of `type`. */
export function norm({ graph, type }: TypedGraph, value: string, { name, gains, epsilon }: NormOptions): string {
  return one(
    graph.node("SimplifiedLayerNormalization", name, [value, convert({ graph, type }, graph.external(gains))], {
      attributes: { axis: -1, epsilon: { float: epsilon } },
    }),
  );
}

/** RMS norm of `residual + branch`, in `float32`: the normed values and the sum. */
export function addAndNorm(
  graph: OnnxGraph,
  { residual, branch }: { readonly residual: string; readonly branch: string | undefined },
  options: NormOptions,
): [normed: string, sum: string] {
  if (branch === undefined) return [norm({ graph, type: "float32" }, residual, options), residual];
  const { name, gains, epsilon } = options;
  const sum = `${name}.sum`;
  graph.node("SkipSimplifiedLayerNormalization", name, [residual, branch, graph.external(gains)], {
    domain: "com.microsoft",
    attributes: { epsilon: { float: epsilon } },
    outputs: [name, "", "", sum],
  });
  return [name, sum];
}

/** Casts a value to another number type. */
export function cast(graph: OnnxGraph, value: string, to: ComputeType, name = `${value}.${to}`): string {
  return one(graph.node("Cast", name, [value], { attributes: { to: ELEMENT_TYPES[to] } }));
}

/** A `float32` value in the type that the graph computes in: the value itself, or one cast that all its readers share. */
export function convert({ graph, type }: TypedGraph, value: string): string {
  return type === "float32" ? value : graph.once(`${value}.${type}`, () => cast(graph, value, type));
}

/**
 * Multiplies the two stored parts of a matrix's scales: `[rows, blocks]`. Both parts are constants, so ONNX Runtime
 * computes the product once, while it loads the graph.
 */
export function computeScales({ graph, type }: TypedGraph, matrix: string, stored: StoredBlocks): string {
  const name = scalesName(matrix);
  const scales = graph.once(name, () => {
    const { scaleCodes, rowScales } = stored;
    const parts = [scaleCodes, rowScales].map((tensor) => cast(graph, graph.external(tensor), "float32"));
    return one(graph.node("Mul", name, parts));
  });
  return convert({ graph, type }, scales);
}

/** Takes the sampled tokens out of a value `[any, any, size]`: `[1, sampled, size]`. */
export function takeSampled(
  graph: OnnxGraph,
  { value, size, sampled }: { readonly value: string; readonly size: number; readonly sampled: string },
  name: string,
): string {
  const flat = one(graph.node("Reshape", `${name}.flat`, [value, graph.constant(`flat.${size}`, [1, -1, size])]));
  return one(graph.node("Gather", `${name}.sampled`, [flat, sampled], { attributes: { axis: 1 } }));
}
