/**
 * The attention part of a layer, from normed hidden states to what is added to them, of a plain and of a mixed step.
 * Keys and values are appended to views of the KV slab; positions are ONNX Runtime's to count.
 */
import type { DecoderConfig } from "../checkpoint.ts";
import type { ExternalTensor, OnnxGraph } from "../onnx.ts";
import { multiply, norm, one } from "./nodes.ts";
import type { LayerWeights } from "./weights.ts";

/** The number type of attention, keys and values; everything else is `float32`. */
export type AttentionType = "float32" | "float16";

/** Queries, keys and values: stacked in one value, or one value each. */
export type Projections = readonly string[];

/** What the attention of one layer needs to know. */
export interface AttentionParts {
  readonly config: DecoderConfig;
  readonly type: AttentionType;
  readonly layer: number;
  /** The tables of rotations, of that type. */
  readonly cos: string;
  readonly sin: string;
}

/** From `[1 or rows, tokens, size]`, of that type, to `[1 or rows, tokens, queryHeads * headDim]`. */
export type Attention = (graph: OnnxGraph, parts: AttentionParts, projections: Projections) => string;

/** Queries, keys and values of every token, not yet rotated. */
export function project(
  graph: OnnxGraph,
  config: DecoderConfig,
  at: string,
  { qkv, qkvBias, headNorms }: LayerWeights,
  input: string,
): Projections {
  const { queryHeads, kvHeads, headDim } = config;
  let stacked = multiply(graph, qkv, input);
  if (qkvBias !== undefined) stacked = one(graph.node("Add", `${at}.biased`, [stacked, graph.external(qkvBias)]));
  if (headNorms === undefined) return [stacked];
  const sizes = graph.constant("qkv.sizes", [queryHeads * headDim, kvHeads * headDim, kvHeads * headDim]);
  const [query, key, value] = graph.node("Split", `${at}.qkv`, [stacked, sizes], {
    outputs: 3,
    attributes: { axis: -1 },
  }) as [string, string, string];
  // GroupQueryAttention can norm by itself, but on GPUs only.
  return [
    normHeads(graph, config, `${at}.q_norm`, headNorms.query, query),
    normHeads(graph, config, `${at}.k_norm`, headNorms.key, key),
    value,
  ];
}

function normHeads(
  graph: OnnxGraph,
  config: DecoderConfig,
  name: string,
  gamma: ExternalTensor,
  value: string,
): string {
  // 0 is "as it was".
  const apart = graph.constant("heads.apart", [0, 0, -1, config.headDim]);
  const heads = one(graph.node("Reshape", `${name}.heads`, [value, apart]));
  const normed = norm(graph, config, name, gamma, heads);
  return one(graph.node("Reshape", `${name}.joined`, [normed, graph.constant("heads.joined", [0, 0, -1])]));
}

/** The inputs that attention over one view of the KV slab takes besides the slab. */
export function declareAttention(graph: OnnxGraph, view: string, rows: number | string): void {
  graph.input(`${view}seqlens_k`, "int32", [rows]);
  graph.input(`${view}total_length`, "int32", []);
}

/** Attention of one view: reads and appends keys and values of the rows it is given. */
function attend(
  graph: OnnxGraph,
  { config, type, layer, cos, sin }: AttentionParts,
  {
    view,
    rows,
    projections,
  }: { readonly view: string; readonly rows: number | string; readonly projections: Projections },
): string {
  const { queryHeads, kvHeads, headDim } = config;
  const slab = [rows, kvHeads, "capacity", headDim];
  const [pastKey, pastValue] = [`${view}past_key.${layer}`, `${view}past_value.${layer}`];
  const [newKey, newValue] = [`${view}present_key.${layer}`, `${view}present_value.${layer}`];
  for (const past of [pastKey, pastValue]) graph.input(past, type, slab);
  for (const present of [newKey, newValue]) graph.output(present, type, slab);
  const [query = "", key = "", value = ""] = projections;
  const name = `${view}blk.${layer}.attn`;
  const lengths = [`${view}seqlens_k`, `${view}total_length`];
  const inputs = [query, key, value, pastKey, pastValue, ...lengths, cos, sin];
  graph.node("GroupQueryAttention", name, inputs, {
    domain: "com.microsoft",
    attributes: { num_heads: queryHeads, kv_num_heads: kvHeads, do_rotary: 1, ...variations(config, layer) },
    outputs: [name, newKey, newValue],
  });
  return name;
}

/** Attributes whose default most architectures have. */
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

export function plainAttention(graph: OnnxGraph, parts: AttentionParts, projections: Projections): string {
  return attend(graph, parts, { view: "", rows: "rows", projections });
}

/** Running rows and the chunk part here, `[1, rows + chunk, …]` → `[rows, 1, …]` and `[1, chunk, …]`, and join again. */
export function mixedAttention(graph: OnnxGraph, parts: AttentionParts, projections: Projections): string {
  const { queryHeads, headDim } = parts.config;
  const at = `blk.${parts.layer}`;
  const asRows = graph.constant("as_rows", [-1, 1, 0]);
  const [running, chunk]: [string[], string[]] = [[], []];
  for (const [index, value] of projections.entries()) {
    const [ones, rest] = graph.node("Split", `${at}.split.${index}`, [value, "split"], {
      outputs: 2,
      attributes: { axis: 1 },
    }) as [string, string];
    running.push(one(graph.node("Reshape", `${at}.rows.${index}`, [ones, asRows])));
    chunk.push(rest);
  }
  const decoded = attend(graph, parts, { view: "decode.", rows: "rows", projections: running });
  const prefilled = attend(graph, parts, { view: "prefill.", rows: 1, projections: chunk });
  const asTokens = graph.constant("as_tokens", [1, -1, queryHeads * headDim]);
  const decodedTokens = one(graph.node("Reshape", `${at}.tokens`, [decoded, asTokens]));
  return one(graph.node("Concat", `${at}.joined`, [decodedTokens, prefilled], { attributes: { axis: 1 } }));
}
