/**
 * The graph that moves keys and values where JavaScript can't reach them, in a device's memory. For every buffer of the
 * slab it computes `out = into[..head] ++ from[start..end] ++ into[tail..]` along the tokens. Where `out` is bound to the
 * memory of `into`, that replaces a range of tokens in place: the slices are copies, made before `out` is written.
 *
 * One graph does nearly all: a copy between slots, a move into a slab of another capacity, a block in. A block out has its own,
 * which touches no more than the block and makes one value of it, in the order that a block has. A plain
 * copy function would be less, but the C API has none for the memory of its own CUDA provider (`CopyTensors` serves plug-in
 * providers only), and calling `cudaMemcpy` beside ONNX Runtime would have to be ordered with its streams by hand.
 */
import { OnnxGraph } from "../../onnx/onnx-graph.ts";
import type { KvModel } from "../port/kv-model.ts";

/** The tokens' dimension of `[1, kvHeads, tokens, headDim]`. */
const TOKENS_AXIS = 2;
const END = 2 ** 31 - 1;

/** The graph's small inputs, each `int64 [1]`. */
export const SPLICE_POSITIONS = ["head", "start", "end", "tail"] as const;

/** The model file's bytes. Tensors are named `into.<buffer>`, `from.<buffer>` and `out.<buffer>`. */
export function buildSpliceGraph({ layers, kvHeads, headDim, type }: KvModel): Uint8Array {
  const graph = new OnnxGraph();
  const [head, start, end, tail] = SPLICE_POSITIONS.map((name) => graph.input(name, "int64", [1])) as [
    string,
    string,
    string,
    string,
  ];
  const [axis, first, last] = [
    graph.constant("axis", [TOKENS_AXIS]),
    graph.constant("first", [0]),
    graph.constant("last", [END]),
  ];
  for (let buffer = 0; buffer < layers * 2; buffer++) {
    const into = graph.input(`into.${buffer}`, type, [1, kvHeads, "capacity", headDim]);
    const from = graph.input(`from.${buffer}`, type, [1, kvHeads, "source", headDim]);
    const slice = (part: string, value: string, begin: string, stop: string): string =>
      graph.node("Slice", `${part}.${buffer}`, [value, begin, stop, axis])[0] ?? "";
    const parts = [
      slice("before", into, first, head),
      slice("taken", from, start, end),
      slice("after", into, tail, last),
    ];
    graph.node("Concat", `out.${buffer}`, parts, { attributes: { axis: TOKENS_AXIS } });
    graph.output(`out.${buffer}`, type, [1, kvHeads, "spliced", headDim]);
  }
  return graph.encode();
}

/** `block [layers * 2, kvHeads, end - start, headDim]` of `from.<buffer>`. The model file's bytes. */
export function buildSaveGraph({ layers, kvHeads, headDim, type }: KvModel): Uint8Array {
  const graph = new OnnxGraph("save");
  const [start, end] = [graph.input("start", "int64", [1]), graph.input("end", "int64", [1])];
  const axis = graph.constant("axis", [TOKENS_AXIS]);
  const parts = Array.from({ length: layers * 2 }, (_, buffer) => {
    const from = graph.input(`from.${buffer}`, type, [1, kvHeads, "capacity", headDim]);
    return graph.node("Slice", `taken.${buffer}`, [from, start, end, axis])[0] ?? "";
  });
  graph.node("Concat", "block", parts, { attributes: { axis: 0 } });
  graph.output("block", type, [layers * 2, kvHeads, "tokens", headDim]);
  return graph.encode();
}
