/**
 * The attention part of a layer, from normed hidden states to what is added to them, of a plain, a mixed and a draft step.
 * Keys and values are appended to views of the KV slab; positions are ONNX Runtime's to count.
 */
import { DRAFT_VIEWS } from "../../manifest/manifest.ts";
import type { DecoderConfig } from "../checkpoint.ts";
import type { Dimension, ExternalTensor, OnnxGraph } from "../../onnx/onnx-graph.ts";
import { multiply } from "./multiply.ts";
import { type ComputeType, convert, norm, one } from "./nodes.ts";
import type { LayerWeights } from "./weights.ts";

/** Queries, keys and values: stacked in one value, or one value each. */
export type Projections = readonly string[];

/** What the attention of one layer needs to know. */
interface AttentionParts {
  readonly config: DecoderConfig;
  readonly type: ComputeType;
  readonly layer: number;
  /** The tables of rotations, of that type. */
  readonly cos: string;
  readonly sin: string;
}

/** How the tokens of a kind of step attend. */
export interface Attention {
  /** The shape of the run's tokens. */
  readonly tokens: readonly Dimension[];
  /** Declares the inputs that attention takes besides the slab. */
  readonly declare: (graph: OnnxGraph) => void;
  /** One layer's, from `[1 or rows, tokens, size]`, of that type, to `[1 or rows, tokens, queryHeads * headDim]`. */
  readonly attend: (graph: OnnxGraph, parts: AttentionParts, projections: Projections) => string;
}

/** Queries, keys and values of every token, not yet rotated, of `type` as the input. */
export function project(
  graph: OnnxGraph,
  type: ComputeType,
  config: DecoderConfig,
  at: string,
  { qkv, qkvBias, headNorms }: LayerWeights,
  input: string,
): Projections {
  const { queryHeads, kvHeads, headDim } = config;
  let stacked = multiply(graph, type, qkv, input);
  if (qkvBias !== undefined) {
    const bias = convert(graph, graph.external(qkvBias), type);
    stacked = one(graph.node("Add", `${at}.biased`, [stacked, bias]));
  }
  if (headNorms === undefined) return [stacked];
  const sizes = graph.constant("qkv.sizes", [queryHeads * headDim, kvHeads * headDim, kvHeads * headDim]);
  const [query, key, value] = graph.node("Split", `${at}.qkv`, [stacked, sizes], {
    outputs: 3,
    attributes: { axis: -1 },
  }) as [string, string, string];
  // GroupQueryAttention can norm by itself, but on GPUs only.
  return [
    normHeads(graph, type, config, `${at}.q_norm`, headNorms.query, query),
    normHeads(graph, type, config, `${at}.k_norm`, headNorms.key, key),
    value,
  ];
}

function normHeads(
  graph: OnnxGraph,
  type: ComputeType,
  config: DecoderConfig,
  name: string,
  gamma: ExternalTensor,
  value: string,
): string {
  // 0 is "as it was".
  const apart = graph.constant("heads.apart", [0, 0, -1, config.headDim]);
  const heads = one(graph.node("Reshape", `${name}.heads`, [value, apart]));
  const normed = norm(graph, config, name, gamma, heads, type);
  return one(graph.node("Reshape", `${name}.joined`, [normed, graph.constant("heads.joined", [0, 0, -1])]));
}

/** The inputs that attention over one view of the KV slab takes besides the slab. */
function declareAttention(graph: OnnxGraph, view: string, rows: number | string): void {
  graph.input(`${view}seqlens_k`, "int32", [rows]);
  graph.input(`${view}total_length`, "int32", []);
}

interface View {
  readonly view: string;
  readonly rows: number | string;
  readonly projections: Projections;
  /** The view of the same rows whose keys and values these come behind; absent: the slab is read as it was. */
  readonly behind?: string | undefined;
}

/** Attention of one view: reads and appends keys and values of the rows it is given. */
function attend(
  graph: OnnxGraph,
  { config, type, layer, cos, sin }: AttentionParts,
  { view, rows, projections, behind }: View,
): string {
  const { queryHeads, kvHeads, headDim } = config;
  const slab = [rows, kvHeads, "capacity", headDim];
  const before = behind === undefined ? `${view}past` : `${behind}present`;
  const [pastKey, pastValue] = [`${before}_key.${layer}`, `${before}_value.${layer}`];
  const [newKey, newValue] = [`${view}present_key.${layer}`, `${view}present_value.${layer}`];
  if (behind === undefined) for (const past of [pastKey, pastValue]) graph.input(past, type, slab);
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

export const plainAttention: Attention = {
  tokens: ["rows", "length"],
  declare: (graph) => declareAttention(graph, "", "rows"),
  attend: (graph, parts, projections) => attend(graph, parts, { view: "", rows: "rows", projections }),
};

export const mixedAttention = attentionApart(["prefill."]);

/**
 * Each guessed token attends to what lies before it, so its node takes what theirs have appended: a graph says nothing
 * else of the order in which nodes that share a buffer run. That the row's own node comes before the first of them, ONNX
 * Runtime decides; the self-test at every start would notice another order.
 */
export const draftAttention = attentionApart(DRAFT_VIEWS);

/**
 * Running rows and what is computed beside them part here, `[1, rows + others, …]` → `[rows, 1, …]` and `[1, others, …]`,
 * and join again. What is beside them is one slot's, each view behind the one before.
 */
function attentionApart(beside: readonly string[]): Attention {
  return {
    tokens: [1, "tokens"],
    declare: (graph) => {
      graph.input("split", "int64", [1 + beside.length]);
      declareAttention(graph, "decode.", "rows");
      for (const view of beside) declareAttention(graph, view, 1);
    },
    attend: (graph, parts, projections) => attendApart(graph, parts, projections, beside),
  };
}

function attendApart(
  graph: OnnxGraph,
  parts: AttentionParts,
  projections: Projections,
  beside: readonly string[],
): string {
  const { queryHeads, headDim } = parts.config;
  const at = `blk.${parts.layer}`;
  const asRows = graph.constant("as_rows", [-1, 1, 0]);
  const running: string[] = [];
  const others: string[][] = beside.map(() => []);
  for (const [index, value] of projections.entries()) {
    const [ones = "", ...rest] = graph.node("Split", `${at}.split.${index}`, [value, "split"], {
      outputs: 1 + beside.length,
      attributes: { axis: 1 },
    });
    running.push(one(graph.node("Reshape", `${at}.rows.${index}`, [ones, asRows])));
    for (const [view, part] of rest.entries()) others[view]?.push(part);
  }
  const decoded = attend(graph, parts, { view: "decode.", rows: "rows", projections: running });
  const attended = beside.map((view, i) =>
    attend(graph, parts, { view, rows: 1, projections: others[i] ?? [], behind: beside[i - 1] }),
  );
  const asTokens = graph.constant("as_tokens", [1, -1, queryHeads * headDim]);
  const decodedTokens = one(graph.node("Reshape", `${at}.tokens`, [decoded, asTokens]));
  return one(graph.node("Concat", `${at}.joined`, [decodedTokens, ...attended], { attributes: { axis: 1 } }));
}
