/** The sizes of a model's keys and values, whatever memory they are kept in. */

/** The number type of keys and values: what the graph's attention computes in. */
export type KvType = "float32" | "float16";

export interface KvModel {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly type: KvType;
}

/** Which rows of the slab a run sees. */
export interface SlotRange {
  readonly first: number;
  readonly rows: number;
}

/** Tokens `from` to `from + tokens` of a slot. */
export interface TokenRange {
  readonly slot: number;
  readonly from: number;
  readonly tokens: number;
}

const TYPE_BYTES: Readonly<Record<KvType, number>> = { float32: 4, float16: 2 };

/** Bytes of one token in one head of one buffer. */
export function kvHeadBytes({ headDim, type }: KvModel): number {
  return headDim * TYPE_BYTES[type];
}

/** Bytes that one token's keys and values take, all layers together. */
export function kvTokenBytes(model: KvModel): number {
  return 2 * model.layers * model.kvHeads * kvHeadBytes(model);
}
