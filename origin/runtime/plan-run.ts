/**
 * Turns a batch into one run of one of the two graphs: which graph, and the numbers of its small inputs. Both back ends
 * hand the same plan to ONNX Runtime; the graphs are described in `import/decoder-graph.ts`.
 */
import type { SlotRange } from "./kv-slab.ts";
import type { StepBatch } from "./runtime.ts";

/** A small integer input of a graph. */
export interface SmallInput {
  readonly name: string;
  readonly values: Int32Array | BigInt64Array;
  readonly dimensions: readonly number[];
}

/** One attention's part of the KV slab; its graph values are named `<prefix>past_key.<layer>` and so on. */
export interface KvView {
  readonly prefix: string;
  readonly range: SlotRange;
}

export interface RunPlan {
  readonly graph: "plain" | "mixed";
  readonly inputs: readonly SmallInput[];
  readonly views: readonly KvView[];
  /** Rows of logits that come out. */
  readonly sampled: number;
}

/** @param batch - one that `checkBatch` let pass */
export function planRun({ decode, prefill }: StepBatch): RunPlan {
  const rows = decode.tokens.length;
  if (prefill === undefined) {
    return {
      graph: "plain",
      inputs: [tokens([rows, 1], decode.tokens), sampled(0, rows), ...lengths("", decode.pasts, 1)],
      views: [{ prefix: "", range: { first: 0, rows } }],
      sampled: rows,
    };
  }
  const chunk = prefill.tokens.length;
  const chunkPast = Int32Array.of(prefill.past);
  const chunkRange = { first: prefill.slot, rows: 1 };
  if (rows === 0) {
    return {
      graph: "plain",
      inputs: [
        tokens([1, chunk], prefill.tokens),
        sampled(chunk - 1, prefill.sampled ? 1 : 0),
        ...lengths("", chunkPast, chunk),
      ],
      views: [{ prefix: "", range: chunkRange }],
      sampled: prefill.sampled ? 1 : 0,
    };
  }
  const all = new Int32Array(rows + chunk);
  all.set(decode.tokens);
  all.set(prefill.tokens, rows);
  const wanted = Int32Array.from({ length: rows + (prefill.sampled ? 1 : 0) }, (_, row) =>
    row < rows ? row : rows + chunk - 1,
  );
  return {
    graph: "mixed",
    inputs: [
      tokens([1, all.length], all),
      { name: "sampled", values: wanted, dimensions: [wanted.length] },
      { name: "split", values: BigInt64Array.of(BigInt(rows), BigInt(chunk)), dimensions: [2] },
      ...lengths("decode.", decode.pasts, 1),
      ...lengths("prefill.", chunkPast, chunk),
    ],
    views: [
      { prefix: "decode.", range: { first: 0, rows } },
      { prefix: "prefill.", range: chunkRange },
    ],
    sampled: wanted.length,
  };
}

function tokens(dimensions: readonly number[], values: Int32Array): SmallInput {
  return { name: "tokens", values, dimensions };
}

function sampled(first: number, count: number): SmallInput {
  return { name: "sampled", values: Int32Array.from({ length: count }, (_, row) => first + row), dimensions: [count] };
}

/** What attention is told of its rows: the last position each will hold, and the longest length. */
function lengths(prefix: string, pasts: Int32Array, fed: number): readonly SmallInput[] {
  const longest = pasts.reduce((max, past) => Math.max(max, past), 0) + fed;
  return [
    { name: `${prefix}seqlens_k`, values: pasts.map((past) => past + fed - 1), dimensions: [pasts.length] },
    { name: `${prefix}total_length`, values: Int32Array.of(longest), dimensions: [] },
  ];
}
