/**
 * The port between the engine and whatever computes logits. A runtime owns the KV slab and runs one graph per step; it
 * knows nothing of requests, sampling or text. Two back ends implement it, `capi-runtime.ts` and `binding.ts`, and one
 * conformance suite holds them to each other.
 */

/** The sizes of a loaded model and its KV slab. */
export interface RuntimeShape {
  readonly vocabSize: number;
  /** Rows of the KV slab: running rows and the row being prefilled. */
  readonly slots: number;
  /** Tokens a row can hold. */
  readonly capacity: number;
}

/** The largest slab a runtime was configured for, and what it takes. */
export interface RuntimeLimits extends RuntimeShape {
  /** Bytes that one token's keys and values take, all layers together: a slab takes `slots * capacity * tokenBytes`. */
  readonly tokenBytes: number;
  /** Guessed tokens of a row that one step can check, at least 1. */
  readonly draftTokens: number;
}

/** What a runtime found out about itself when it was opened. */
export interface SelfTest {
  /** How far known logits were from computed ones, relative to their size; far under the bound, or it had not opened. */
  readonly goldenDistance: number;
  /** A step of one row, the fastest of a few, milliseconds. */
  readonly stepMs: number;
  /** The weights, keys and values that such a step reads. */
  readonly stepBytes: number;
  /** How fast the cores read as many bytes over and over; undefined where something else computes. */
  readonly readBandwidth: { readonly bytes: number; readonly bytesPerSecond: number } | undefined;
}

/** A new slab shape. */
export interface Resize {
  /** From 0 to the limit. */
  readonly slots: number;
  /** Tokens, from 0 to the limit. */
  readonly capacity: number;
  /** How many of slot `i`'s first tokens go along; a slot that is not named is emptied. */
  readonly kept: readonly number[];
}

/**
 * The keys and values of consecutive tokens of one slot, outside the slab. Keys are rotated by their position, so a
 * block is good for the place it was taken from and no other; what lies before it must be the same tokens too.
 */
export interface KvBlock {
  /** The position of its first token. */
  readonly from: number;
  readonly tokens: number;
  /** `tokens * tokenBytes` bytes in an order of the runtime's own: only a runtime of the same model can read them. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** What one step computes: every running row by one token, and at most one chunk of one prompt. */
export interface StepBatch {
  /** The running rows, packed: row `i` lives in slot `i`. May be empty when there is a prefill. */
  readonly decode: {
    /** The token each row is fed, `[rows]`. */
    readonly tokens: Int32Array;
    /** How many tokens each row's slot already holds, `[rows]`. */
    readonly pasts: Int32Array;
  };
  readonly prefill?: {
    /**
     * Any slot behind the running rows; without running rows any slot, a half-grown row's own among them. Or a running
     * row's own, with at most `draftTokens` tokens right behind the row's: each token's keys and values are appended
     * before the next one's attention, in every layer, so the logits are to the bit those of as many steps. Several need
     * room for `draftTokens`, however few they are.
     */
    readonly slot: number;
    /** The chunk, `[tokens]`, at least one. */
    readonly tokens: Int32Array;
    /** How many tokens the slot already holds. */
    readonly past: number;
    /** Of how many of the chunk's last tokens logits are wanted: 0 inside a prompt, 1 at its end, all of a guess. */
    readonly sampled: number;
  };
}

/** A batch that breaks the port's contract or a run that failed. The KV of the batch's rows is then undefined. */
export class RuntimeError extends Error {
  override readonly name = "RuntimeError";
}

/** A loaded model. Used by one caller, one step at a time. */
export interface Runtime extends Disposable {
  /** The present shape. A new runtime has no slots yet: memory follows need, and whoever needs it calls `resize`. */
  readonly shape: RuntimeShape;
  readonly limits: RuntimeLimits;
  /** Where it was tested at all. */
  readonly selfTest?: SelfTest;
  /**
   * Runs one step and appends every fed token's keys and values to its slot.
   *
   * @returns logits, `[rows + sampled tokens of the chunk, vocabSize]`: running rows first, then the chunk's tokens in
   * their order. The view is overwritten by the next step.
   * @throws {RuntimeError} on an empty batch, a row past the capacity, overlapping slots, a token outside the
   * vocabulary, or a failure inside ONNX Runtime
   */
  step(batch: StepBatch): Float32Array | Promise<Float32Array>;
  /** Copies the first `tokens` tokens of a slot's keys and values to another slot. */
  copySlot(copy: { readonly from: number; readonly to: number; readonly tokens: number }): void;
  /**
   * Gives the slab another shape with what is kept in it. Where its memory has to move for that, both slabs are there
   * meanwhile.
   *
   * @throws {RuntimeError} on a shape over the limits, more kept than either shape holds, or memory that can't be had;
   * the slab is then as it was
   */
  resize(resize: Resize): void;
  /** Copies tokens `from` (inclusive) to `to` (exclusive) of a slot out of the slab. */
  saveTokens(slot: number, from: number, to: number): KvBlock;
  /**
   * Copies a block into a slot.
   *
   * @param from - where the block was taken from
   * @throws {RuntimeError} on a block of another place or size, or one that does not fit
   */
  loadTokens(slot: number, from: number, block: KvBlock): void;
}
