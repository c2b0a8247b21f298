/**
 * Which slab the open rows need, and whether the KV budget allows it. A slab takes `slots * capacity * tokenBytes`
 * bytes, because every slot has the same capacity. Both sides grow in buckets (powers of two), so that a resize, which
 * may have to move every row, is rare; capacity is what the longest row may grow to, so that no resize falls into the middle of an
 * answer. Pure arithmetic: knows neither rows nor runtime.
 */

export interface SlabShape {
  readonly slots: number;
  /** Tokens per slot. */
  readonly capacity: number;
}

/** The largest slab there may be. */
export interface KvBudget extends SlabShape {
  /** Bytes of one token's keys and values. */
  readonly tokenBytes: number;
  /** Bytes that the slab may take. */
  readonly kvBytes: number;
}

/** What the rows that are to run together need. */
export interface SlabNeed {
  readonly rows: number;
  /** Prompt and longest answer of the longest row. */
  readonly tokens: number;
}

/** Below this a smaller slot saves less than the resize costs. */
const CAPACITY_MIN = 256;

/** The most tokens that one row alone may have: what the context and the budget allow. */
export function longestRow({ capacity, tokenBytes, kvBytes }: KvBudget): number {
  let longest = 0;
  for (let next = Math.min(CAPACITY_MIN, capacity); next * tokenBytes <= kvBytes; next = Math.min(next * 2, capacity)) {
    longest = next;
    if (next === capacity) break;
  }
  return longest;
}

/**
 * The slab to have next: the present one where it does, else one that has grown, else, where both sides together break
 * the budget, one that gives back what the rows don't need.
 *
 * @returns `undefined` when the rows can't be together
 */
export function fitSlab(present: SlabShape, need: SlabNeed, budget: KvBudget): SlabShape | undefined {
  if (need.rows > budget.slots || need.tokens > budget.capacity) return undefined;
  const slots = bucket(need.rows, { min: 1, max: budget.slots });
  const capacity = bucket(need.tokens, { min: CAPACITY_MIN, max: budget.capacity });
  const grown = Math.max(present.capacity, capacity);
  const candidates = [
    { slots: Math.max(present.slots, slots), capacity: grown },
    { slots, capacity: grown },
    { slots, capacity },
    { slots: need.rows, capacity },
  ];
  return candidates.find((shape) => slabBytes(shape, budget) <= budget.kvBytes);
}

/** Bytes of a slab. */
export function slabBytes({ slots, capacity }: SlabShape, { tokenBytes }: Pick<KvBudget, "tokenBytes">): number {
  return slots * capacity * tokenBytes;
}

function bucket(count: number, { min, max }: { readonly min: number; readonly max: number }): number {
  return Math.min(max, Math.max(min, 2 ** Math.ceil(Math.log2(count))));
}
