/**
 * The port between the engine and whatever computes logits. A runtime owns the KV slab and runs one graph per step; it
 * knows nothing of requests, sampling or text. Two back ends implement it, `capi.ts` and `binding.ts`, and one
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
    /** A slot outside the running rows. */
    readonly slot: number;
    /** The chunk, `[tokens]`, at least one. */
    readonly tokens: Int32Array;
    /** How many tokens the slot already holds. */
    readonly past: number;
    /** Whether the chunk ends its prompt, so that the logits of its last token are wanted. */
    readonly sampled: boolean;
  };
}

/** A batch that breaks the port's contract or a run that failed. The KV of the batch's rows is then undefined. */
export class RuntimeError extends Error {
  override readonly name = "RuntimeError";
}

/** A loaded model. Used by one caller, one step at a time. */
export interface Runtime extends Disposable {
  readonly shape: RuntimeShape;
  /**
   * Runs one step and appends every fed token's keys and values to its slot.
   *
   * @returns logits, `[rows (+ 1 when the prefill is sampled), vocabSize]`, running rows first. The view is overwritten
   * by the next step.
   * @throws {RuntimeError} on an empty batch, a row past the capacity, overlapping slots, a token outside the
   * vocabulary, or a failure inside ONNX Runtime
   */
  step(batch: StepBatch): Float32Array | Promise<Float32Array>;
  /** Copies the first `tokens` tokens of a slot's keys and values to another slot. */
  copySlot(copy: { readonly from: number; readonly to: number; readonly tokens: number }): void;
}
