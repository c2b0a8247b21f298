/**
 * The attention part of a decoder layer, from normed hidden states to what is added to them, for each kind of step. Keys and
 * values are appended to views of the KV slab; ONNX Runtime counts the positions.
 */
import { DRAFT_VIEWS } from "../../manifest/manifest.ts";
import type { DecoderConfig } from "../checkpoint/checkpoint.ts";
import type { Dimension, ExternalTensor, OnnxGraph } from "../../onnx/onnx-graph.ts";
import type { LayerWeights } from "./decoder-weights.ts";
import { multiply } from "./multiply.ts";
import { convert, type LayerContext, layerName, norm, one } from "./nodes.ts";

/** Queries, keys and values: stacked in one value, or one value each. */
export type Projections = readonly string[];

/** Names of a layer's rotation tables, in the graph's type. */
interface RotationNames {
  readonly cos: string;
  readonly sin: string;
}

/** How tokens attend in one kind of step. */
export interface Attention {
  /** Shape of the step's tokens. */
  readonly tokens: readonly Dimension[];
  /** Declares the graph inputs that attention reads besides the slab. */
  readonly declare: (graph: OnnxGraph) => void;
  /** Attention of one layer: `[1 or rows, tokens, size]` to `[1 or rows, tokens, queryHeads * headDim]`. */
  readonly attend: (context: LayerContext, rotations: RotationNames, projections: Projections) => string;
}

/** Queries, keys and values of every token, before they are rotated. */
export function project(context: LayerContext, weights: LayerWeights, input: string): Projections {
  const { graph, config } = context;
  const { queryHeads, kvHeads, headDim } = config;
  const { qkv, qkvBias, headNorms } = weights;
  const name = layerName(context);
  let stacked = multiply(context, qkv, input);
  if (qkvBias !== undefined) {
    const bias = convert(context, graph.external(qkvBias));
    stacked = one(graph.node("Add", `${name}.biased`, [stacked, bias]));
  }
  if (headNorms === undefined) return [stacked];
  const sizes = graph.constant("qkv.sizes", [queryHeads * headDim, kvHeads * headDim, kvHeads * headDim]);
  const [query, key, value] = graph.node("Split", `${name}.qkv`, [stacked, sizes], {
    outputs: 3,
    attributes: { axis: -1 },
  }) as [string, string, string];
  // GroupQueryAttention can norm heads itself, but only on GPUs.
  return [
    normHeads(context, `${name}.q_norm`, headNorms.query, query),
    normHeads(context, `${name}.k_norm`, headNorms.key, key),
    value,
  ];
}

function normHeads(context: LayerContext, name: string, gains: ExternalTensor, value: string): string {
  const { graph, config } = context;
  // A size of 0 keeps the dimension as it is.
  const apart = graph.constant("heads.apart", [0, 0, -1, config.headDim]);
  const heads = one(graph.node("Reshape", `${name}.heads`, [value, apart]));
  const normed = norm(context, heads, { name, gains, epsilon: config.normEpsilon });
  return one(graph.node("Reshape", `${name}.joined`, [normed, graph.constant("heads.joined", [0, 0, -1])]));
}

/** Declares the inputs that attention over one view of the KV slab reads besides the slab. */
function declareView(graph: OnnxGraph, view: string, rows: number | string): void {
  graph.input(`${view}seqlens_k`, "int32", [rows]);
  graph.input(`${view}total_length`, "int32", []);
}

/** One view of the KV slab, and the tokens that attend in it. */
interface AttentionView {
  /** Prefix of the view's inputs and outputs. */
  readonly view: string;
  readonly rows: number | string;
  readonly projections: Projections;
  /** View of the same rows whose keys and values come before these. Absent: the slab as the step found it. */
  readonly behind?: string | undefined;
}

/** Attention over one view: reads the keys and values of its rows and appends new ones. */
function attendView(context: LayerContext, { cos, sin }: RotationNames, target: AttentionView): string {
  const { graph, config, type, layer } = context;
  const { view, rows, projections, behind } = target;
  const { queryHeads, kvHeads, headDim } = config;
  const slab = [rows, kvHeads, "capacity", headDim];
  const before = behind === undefined ? `${view}past` : `${behind}present`;
  const [pastKey, pastValue] = [`${before}_key.${layer}`, `${before}_value.${layer}`];
  const [newKey, newValue] = [`${view}present_key.${layer}`, `${view}present_value.${layer}`];
  if (behind === undefined) for (const past of [pastKey, pastValue]) graph.input(past, type, slab);
  for (const present of [newKey, newValue]) graph.output(present, type, slab);
  const [query = "", key = "", value = ""] = projections;
  const name = `${view}${layerName(context)}.attn`;
  const lengths = [`${view}seqlens_k`, `${view}total_length`];
  const inputs = [query, key, value, pastKey, pastValue, ...lengths, cos, sin];
  graph.node("GroupQueryAttention", name, inputs, {
    domain: "com.microsoft",
    attributes: { num_heads: queryHeads, kv_num_heads: kvHeads, do_rotary: 1, ...variations(config, layer) },
    outputs: [name, newKey, newValue],
  });
  return name;
}

/** Attributes that are written only where they differ from the operator's defaults. */
function variations(
  { headDim, attentionScale, attention }: DecoderConfig,
  layer: number,
): Readonly<Record<string, number | { readonly float: number }>> {
  const window = attention[layer]?.window;
  return {
    ...(window !== undefined && { local_window_size: window }),
    ...(attentionScale !== headDim ** -0.5 && { scale: { float: attentionScale } }),
  };
}

export const plainAttention: Attention = {
  tokens: ["rows", "length"],
  declare: (graph) => declareView(graph, "", "rows"),
  attend: (context, rotations, projections) => attendView(context, rotations, { view: "", rows: "rows", projections }),
};

export const mixedAttention = splitAttention(["prefill."]);

/**
 * Each drafted token attends to everything before it, so its node reads what the nodes of the earlier ones appended: a graph
 * has no other way to order nodes that share a buffer. Whether the row's own node runs before the first of them is up to ONNX
 * Runtime. The self-test, which runs at every start, would notice another order.
 */
export const draftAttention = splitAttention(DRAFT_VIEWS);

/**
 * Attention for steps that compute other tokens beside the running rows. It splits `[1, rows + others, …]` into
 * `[rows, 1, …]` and `[1, others, …]`, and joins the results. The other tokens belong to one slot; each of their views
 * continues the one before.
 */
function splitAttention(beside: readonly string[]): Attention {
  return {
    tokens: [1, "tokens"],
    declare: (graph) => {
      graph.input("split", "int64", [1 + beside.length]);
      declareView(graph, "decode.", "rows");
      for (const view of beside) declareView(graph, view, 1);
    },
    attend: (context, rotations, projections) => attendSplit(context, rotations, { projections, beside }),
  };
}

function attendSplit(
  context: LayerContext,
  rotations: RotationNames,
  { projections, beside }: { readonly projections: Projections; readonly beside: readonly string[] },
): string {
  const { graph, config } = context;
  const { queryHeads, headDim } = config;
  const name = layerName(context);
  const asRows = graph.constant("as_rows", [-1, 1, 0]);
  const running: string[] = [];
  const others: string[][] = beside.map(() => []);
  for (const [index, value] of projections.entries()) {
    const [ones = "", ...rest] = graph.node("Split", `${name}.split.${index}`, [value, "split"], {
      outputs: 1 + beside.length,
      attributes: { axis: 1 },
    });
    running.push(one(graph.node("Reshape", `${name}.rows.${index}`, [ones, asRows])));
    for (const [view, part] of rest.entries()) others[view]?.push(part);
  }
  const decoded = attendView(context, rotations, { view: "decode.", rows: "rows", projections: running });
  const attended = beside.map((view, i) =>
    attendView(context, rotations, { view, rows: 1, projections: others[i] ?? [], behind: beside[i - 1] }),
  );
  const asTokens = graph.constant("as_tokens", [1, -1, queryHeads * headDim]);
  const decodedTokens = one(graph.node("Reshape", `${name}.tokens`, [decoded, asTokens]));
  return one(graph.node("Concat", `${name}.joined`, [decodedTokens, ...attended], { attributes: { axis: 1 } }));
}
