/** Attention over the KV slab, of a plain and of a mixed step. */
import type { DecoderConfig } from "../checkpoint.ts";
import type { OnnxGraph } from "../onnx.ts";
import { one } from "./nodes.ts";

/** The number type of attention, keys and values; everything else is `float32`. */
export type AttentionType = "float32" | "float16";

/** What every attention of a graph needs. */
export interface AttentionParts {
  readonly config: DecoderConfig;
  readonly type: AttentionType;
  /** The rotations, of that type. */
  readonly cos: string;
  readonly sin: string;
}

/** The attention of one layer: from `[1 or rows, tokens, qkvSize]` to `[1 or rows, tokens, queryHeads * headDim]`. */
export type Attention = (graph: OnnxGraph, parts: AttentionParts, layer: number, qkv: string) => string;

/** The inputs that attention over one view of the KV slab takes besides the slab. */
export function declareAttention(graph: OnnxGraph, view: string, rows: number | string): void {
  graph.input(`${view}seqlens_k`, "int32", [rows]);
  graph.input(`${view}total_length`, "int32", []);
}

/** Attention of one view: reads and appends keys and values of the rows it is given. */
function attend(
  graph: OnnxGraph,
  { config, type, cos, sin }: AttentionParts,
  options: { readonly layer: number; readonly view: string; readonly rows: number | string; readonly qkv: string },
): string {
  const { queryHeads, kvHeads, headDim } = config;
  const { layer, view, rows, qkv } = options;
  const slab = [rows, kvHeads, "capacity", headDim];
  const [key, value] = [`${view}past_key.${layer}`, `${view}past_value.${layer}`];
  const [newKey, newValue] = [`${view}present_key.${layer}`, `${view}present_value.${layer}`];
  for (const past of [key, value]) graph.input(past, type, slab);
  for (const present of [newKey, newValue]) graph.output(present, type, slab);
  const name = `${view}blk.${layer}.attn`;
  const lengths = [`${view}seqlens_k`, `${view}total_length`];
  graph.node("GroupQueryAttention", name, [qkv, "", "", key, value, ...lengths, cos, sin], {
    domain: "com.microsoft",
    attributes: { num_heads: queryHeads, kv_num_heads: kvHeads, do_rotary: 1, rotary_interleaved: 0 },
    outputs: [name, newKey, newValue],
  });
  return name;
}

export function plainAttention(graph: OnnxGraph, parts: AttentionParts, layer: number, qkv: string): string {
  return attend(graph, parts, { layer, view: "", rows: "rows", qkv });
}

/** Running rows and the chunk part here, `[1, rows + chunk, …]` → `[rows, 1, …]` and `[1, chunk, …]`, and join again. */
export function mixedAttention(graph: OnnxGraph, parts: AttentionParts, layer: number, qkv: string): string {
  const { queryHeads, kvHeads, headDim } = parts.config;
  const at = `blk.${layer}`;
  const [ones, chunk] = graph.node("Split", `${at}.split`, [qkv, "split"], {
    outputs: 2,
    attributes: { axis: 1 },
  }) as [string, string];
  const qkvSize = (queryHeads + 2 * kvHeads) * headDim;
  const asRows = graph.constant("as_rows", [-1, 1, qkvSize]);
  const rows = one(graph.node("Reshape", `${at}.rows`, [ones, asRows]));
  const decoded = attend(graph, parts, { layer, view: "decode.", rows: "rows", qkv: rows });
  const prefilled = attend(graph, parts, { layer, view: "prefill.", rows: 1, qkv: chunk });
  const asTokens = graph.constant("as_tokens", [1, -1, queryHeads * headDim]);
  const decodedTokens = one(graph.node("Reshape", `${at}.tokens`, [decoded, asTokens]));
  return one(graph.node("Concat", `${at}.joined`, [decodedTokens, prefilled], { attributes: { axis: 1 } }));
}
