/**
 * Turns a batch into one run of one of the graphs: which graph, and the numbers of its small inputs. Both back ends
 * hand the same plan to ONNX Runtime; the graphs are described in `import/graph/decoder-graph.ts`.
 */
import { DRAFT_VIEWS } from "../../manifest/manifest.ts";
import type { SlotRange } from "./kv-model.ts";
import type { StepBatch } from "./runtime.ts";

/** The files of the graphs, in a model's folder. */
export interface GraphFiles {
  readonly plain: string;
  readonly mixed: string;
  /** Where a step checks several guessed tokens of a row; else it checks one, which takes no graph of its own. */
  readonly draft?: string;
}

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
  /** Whether it reads what the view before it appends, inside the graph: only `present` is bound then. */
  readonly chained?: boolean;
}

export interface RunPlan {
  readonly graph: "plain" | "mixed" | "draft";
  readonly inputs: readonly SmallInput[];
  readonly views: readonly KvView[];
  /** Rows of logits that come out. */
  readonly sampled: number;
}

type Chunk = NonNullable<StepBatch["prefill"]>;

/** Whether a step takes the draft graph, with the room behind the row that all of its tokens need. */
export function isDraft({ decode, prefill }: StepBatch): boolean {
  return prefill !== undefined && prefill.slot < decode.tokens.length && prefill.tokens.length > 1;
}

/** @param batch - one that `checkBatch` let pass */
export function planRun({ decode, prefill }: StepBatch): RunPlan {
  const rows = decode.tokens.length;
  if (prefill === undefined) {
    return {
      graph: "plain",
      inputs: [tokens([rows, 1], decode.tokens), sampled(0, 0, rows), ...lengths("", decode.pasts, 1)],
      views: [{ prefix: "", range: { first: 0, rows } }],
      sampled: rows,
    };
  }
  const chunk = prefill.tokens.length;
  const wanted = sampled(rows + chunk - prefill.sampled, prefill.sampled, rows);
  const chunkPast = Int32Array.of(prefill.past);
  const chunkRange = { first: prefill.slot, rows: 1 };
  if (rows === 0) {
    return {
      graph: "plain",
      inputs: [tokens([1, chunk], prefill.tokens), wanted, ...lengths("", chunkPast, chunk)],
      views: [{ prefix: "", range: chunkRange }],
      sampled: prefill.sampled,
    };
  }
  if (isDraft({ decode, prefill })) return planDraft(decode, prefill);
  const all = new Int32Array(rows + chunk);
  all.set(decode.tokens);
  all.set(prefill.tokens, rows);
  return {
    graph: "mixed",
    inputs: [
      tokens([1, all.length], all),
      wanted,
      { name: "split", values: BigInt64Array.of(BigInt(rows), BigInt(chunk)), dimensions: [2] },
      ...lengths("decode.", decode.pasts, 1),
      ...lengths("prefill.", chunkPast, chunk),
    ],
    views: [
      { prefix: "decode.", range: { first: 0, rows } },
      { prefix: "prefill.", range: chunkRange },
    ],
    sampled: rows + prefill.sampled,
  };
}

/**
 * Several guessed tokens behind a running row: each has its attention, over what lies before it. Fewer than the graph takes
 * are filled up with tokens whose logits nobody wants; what they append lies behind everything that counts.
 */
function planDraft(decode: StepBatch["decode"], { slot, tokens: draft, past, sampled: wanted }: Chunk): RunPlan {
  const rows = decode.tokens.length;
  const all = new Int32Array(rows + DRAFT_VIEWS.length);
  all.set(decode.tokens);
  all.set(draft, rows);
  const split = BigInt64Array.from([BigInt(rows), ...DRAFT_VIEWS.map(() => 1n)]);
  const range = { first: slot, rows: 1 };
  return {
    graph: "draft",
    inputs: [
      tokens([1, all.length], all),
      sampled(rows + draft.length - wanted, wanted, rows),
      { name: "split", values: split, dimensions: [split.length] },
      ...lengths("decode.", decode.pasts, 1),
      ...DRAFT_VIEWS.flatMap((prefix, i) => lengths(prefix, Int32Array.of(past + i), 1)),
    ],
    views: [
      { prefix: "decode.", range: { first: 0, rows } },
      ...DRAFT_VIEWS.map((prefix, i) => ({ prefix, range, chained: i > 0 })),
    ],
    sampled: rows + wanted,
  };
}

function tokens(dimensions: readonly number[], values: Int32Array): SmallInput {
  return { name: "tokens", values, dimensions };
}

/** The places of the tokens whose logits are wanted: the running rows, and `count` tokens of the chunk from `first` on. */
function sampled(first: number, count: number, rows: number): SmallInput {
  const places = Int32Array.from({ length: rows + count }, (_, row) => (row < rows ? row : first + row - rows));
  return { name: "sampled", values: places, dimensions: [places.length] };
}

/** What attention is told of its rows: the last position each will hold, and the longest length. */
function lengths(prefix: string, pasts: Int32Array, fed: number): readonly SmallInput[] {
  const longest = pasts.reduce((max, past) => Math.max(max, past), 0) + fed;
  return [
    { name: `${prefix}seqlens_k`, values: pasts.map((past) => past + fed - 1), dimensions: [pasts.length] },
    { name: `${prefix}total_length`, values: Int32Array.of(longest), dimensions: [] },
  ];
}
