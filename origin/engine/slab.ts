/**
 * Who lies where in the KV slab, and the ways of tokens in, inside and out of it: the prefix cache's first tier. Slots
 * 0 to B−1 are the running rows', which the engine packs. What a finished row has left in a slot behind them stays
 * until the slot is needed; then what the second tier lacks of it goes there, which is little if other rows went on
 * meanwhile: a block goes with each of their steps. A new prompt takes the first slot behind
 * the running rows, and whatever of it anybody of its tenant has computed already: in place where that very slot holds
 * the conversation, else copied from a slot or from the second tier.
 *
 * Knows nothing of what a step computes. Copies are counted: the common cases (a conversation that goes on, a row that
 * joins or leaves at the end) have none.
 */
import type { Runtime } from "../runtime/port/runtime.ts";
import type { SlabShape } from "./kv-budget.ts";
import { BLOCK_TOKENS, PrefixCache } from "./prefix-cache.ts";
import type { Sequence } from "./sequence.ts";

/** Tokens that a slot holds: `tokens[0, length)`, computed in this order from the first. */
interface Holding {
  readonly tenant: string;
  readonly tokens: Int32Array;
  readonly length: number;
}

/** What a finished row has left. */
interface Left extends Holding {
  /** Tokens that were offered to the second tier already. */
  offered: number;
}

/** Since the start. */
export interface SlabCounters {
  /** Prompts that were looked up, and those that something was found for. */
  readonly prefixQueries: number;
  readonly prefixHits: number;
  /** Tokens that need not be computed. */
  readonly prefixHitTokens: number;
  /** Bytes of the second tier, now. */
  readonly prefixBytes: number;
  /** Blocks that the second tier has dropped. */
  readonly prefixEvictions: number;
  /** Bytes of the slab, now. */
  readonly slabBytes: number;
  readonly resizes: number;
  /** Tokens moved between slots, or between slots and the second tier. */
  readonly copiedTokens: number;
}

export class Slab {
  readonly #runtime: Runtime;
  readonly #cache: PrefixCache;
  readonly #keeps: boolean;
  /** By slot, behind the running rows. */
  readonly #left = new Map<number, Left>();
  #queries = 0;
  #hits = 0;
  #hitTokens = 0;
  #resizes = 0;
  #copiedTokens = 0;

  /** @param prefixCacheBytes - of the second tier; 0 keeps nothing in either */
  constructor(runtime: Runtime, { prefixCacheBytes }: { readonly prefixCacheBytes: number }) {
    this.#runtime = runtime;
    this.#cache = new PrefixCache({ bytesMax: prefixCacheBytes });
    this.#keeps = prefixCacheBytes > 0;
  }

  get shape(): SlabShape {
    return this.#runtime.shape;
  }

  get counters(): SlabCounters {
    const { slots, capacity } = this.#runtime.shape;
    return {
      prefixQueries: this.#queries,
      prefixHits: this.#hits,
      prefixHitTokens: this.#hitTokens,
      prefixBytes: this.#cache.bytes,
      prefixEvictions: this.#cache.evictions,
      slabBytes: slots * capacity * this.#runtime.limits.tokenBytes,
      resizes: this.#resizes,
      copiedTokens: this.#copiedTokens,
    };
  }

  /**
   * Gives a sequence the first slot behind the running rows, with as much of its tokens as is known.
   *
   * @throws {RuntimeError} when the slab can't take the shape; nothing is lost but what finished rows had left
   */
  begin(sequence: Sequence, running: readonly Sequence[], shape: SlabShape): void {
    this.#reshape(shape, running);
    const slot = running.length;
    const wanted = { tenant: sequence.tenant, tokens: sequence.tokens.subarray(0, reusableTokens(sequence)) };
    const nearest = this.#nearest(wanted, running);
    sequence.slot = slot;
    sequence.past = 0;
    if (nearest?.slot === slot && nearest.tokens >= this.#cachedTokens(wanted)) {
      this.#takeOver(slot, nearest.tokens);
      sequence.past = nearest.tokens;
    } else {
      this.#vacate(slot);
      const blocks = this.#cache.find(wanted);
      if (nearest !== undefined && nearest.slot !== slot && nearest.tokens >= blocks.length * BLOCK_TOKENS) {
        this.#runtime.copySlot({ from: nearest.slot, to: slot, tokens: nearest.tokens });
        sequence.past = nearest.tokens;
      } else {
        for (const block of blocks) this.#runtime.loadTokens(slot, block.from, block);
        sequence.past = blocks.length * BLOCK_TOKENS;
      }
      this.#copiedTokens += sequence.past;
    }
    // Of a parked row's prompt one token alone may not be left, for the reason that `reusableTokens` has.
    if (sequence.past > 0 && sequence.past === sequence.promptTokens - 1) sequence.past -= 1;
    this.#queries += 1;
    if (sequence.past > 0) this.#hits += 1;
    this.#hitTokens += sequence.past;
  }

  /** Moves a sequence to another slot, whose tokens are not needed any more. */
  move(sequence: Sequence, slot: number): void {
    if (sequence.slot === slot) return;
    this.#vacate(slot);
    this.#runtime.copySlot({ from: sequence.slot, to: slot, tokens: sequence.past });
    this.#copiedTokens += sequence.past;
    sequence.slot = slot;
  }

  /** Keeps what a sequence that leaves has in its slot, until the slot is needed. */
  retire({ slot, tenant, tokens, past }: Sequence): void {
    if (this.#keeps && past >= BLOCK_TOKENS) this.#left.set(slot, { tenant, tokens, length: past, offered: 0 });
  }

  /**
   * Offers the second tier one block of what finished rows have left. For once a step: a thousand tokens at once take as
   * long as several steps, for which whoever runs would wait when the slot is needed. The first slot is needed first.
   */
  saveAhead(): void {
    const unsaved = [...this.#left].filter(([, { offered, length }]) => offered + BLOCK_TOKENS <= length);
    const [first] = unsaved.toSorted(([a], [b]) => a - b);
    if (first === undefined) return;
    const [slot, left] = first;
    left.offered += BLOCK_TOKENS;
    this.#save(slot, left, left.offered);
  }

  /**
   * A sequence's logits were not numbers. If it began with somebody else's tokens the fault may lie in them, and would
   * come back with every hit: nothing that is cached is trusted any more.
   */
  distrust({ cachedTokens }: Sequence): void {
    if (cachedTokens === 0) return;
    this.#left.clear();
    this.#cache.clear();
  }

  /** Gives the whole slab back; the second tier stays. For when nobody has a row. */
  rest(): void {
    this.#reshape({ slots: 0, capacity: 0 }, []);
  }

  #reshape({ slots, capacity }: SlabShape, running: readonly Sequence[]): void {
    const present = this.#runtime.shape;
    if (present.slots === slots && present.capacity === capacity) return;
    for (const [slot, { length }] of this.#left) if (slot >= slots || length > capacity) this.#vacate(slot);
    const kept = Array.from({ length: Math.min(slots, present.slots) }, (_, slot) =>
      slot < running.length ? (running[slot]?.past ?? 0) : (this.#left.get(slot)?.length ?? 0),
    );
    this.#runtime.resize({ slots, capacity, kept });
    this.#resizes += 1;
  }

  /** The slot that has most of the tokens. */
  #nearest(wanted: Pick<Holding, "tenant" | "tokens">, running: readonly Sequence[]) {
    if (!this.#keeps) return undefined;
    let nearest: { readonly slot: number; readonly tokens: number } | undefined;
    const consider = (slot: number, { tenant, tokens: held, length }: Holding) => {
      if (tenant !== wanted.tenant) return;
      const tokens = commonTokens(held, wanted.tokens, length);
      // The later slot wins a tie: it is behind the rows, and may be the one to be taken over.
      if (tokens > 0 && tokens >= (nearest?.tokens ?? 0)) nearest = { slot, tokens };
    };
    for (const row of running) consider(row.slot, { ...row, length: row.past });
    for (const [slot, holding] of [...this.#left].toSorted(([a], [b]) => b - a)) consider(slot, holding);
    return nearest;
  }

  #cachedTokens(wanted: Pick<Holding, "tenant" | "tokens">): number {
    return this.#cache.find(wanted).length * BLOCK_TOKENS;
  }

  /** What the slot holds behind the first `tokens` is about to be overwritten. */
  #takeOver(slot: number, tokens: number): void {
    const lost = (this.#left.get(slot)?.length ?? 0) - tokens;
    if (lost >= BLOCK_TOKENS) this.#vacate(slot);
    else this.#left.delete(slot);
  }

  /** Lets go of what a finished row has left in a slot. */
  #vacate(slot: number): void {
    const left = this.#left.get(slot);
    if (left === undefined) return;
    this.#left.delete(slot);
    this.#save(slot, left, left.length);
  }

  /** Sees to it that the second tier has the first `length` tokens of a slot, as far as it has room. */
  #save(slot: number, { tenant, tokens }: Holding, length: number): void {
    const prefix = { tenant, tokens: tokens.subarray(0, length) };
    const save = (from: number, to: number) => {
      this.#copiedTokens += to - from;
      return this.#runtime.saveTokens(slot, from, to);
    };
    this.#cache.store(prefix, save, BLOCK_TOKENS * this.#runtime.limits.tokenBytes);
  }
}

/**
 * How many of a sequence's tokens may come from a cache. The last one is always computed, for its logits. A prompt's
 * last two are: attention over a single token adds in another order than over several, and whether a prompt was cached
 * must not be seen in its answer. (A parked row goes on where it was, with a single token, as it would have.)
 */
function reusableTokens({ length, promptTokens }: Sequence): number {
  return length === promptTokens ? Math.max(0, length - 2) : length - 1;
}

function commonTokens(held: Int32Array, wanted: Int32Array, limit: number): number {
  const most = Math.min(limit, wanted.length);
  let tokens = 0;
  while (tokens < most && held[tokens] === wanted[tokens]) tokens += 1;
  return tokens;
}
