/**
 * The keys and values of every slot: for each layer one buffer of keys and one of values,
 * `[slots, kvHeads, capacity, headDim]`. Neighbouring slots are neighbours in memory, so that running rows are a view.
 * Knows no ONNX Runtime.
 */

/** The sizes of a slab. */
export interface KvShape {
  readonly layers: number;
  readonly slots: number;
  readonly kvHeads: number;
  readonly capacity: number;
  readonly headDim: number;
}

/** Which rows of the slab a run sees. */
export interface SlotRange {
  readonly first: number;
  readonly rows: number;
}

export class KvSlab {
  readonly shape: KvShape;
  /** Keys and values of layer 0, keys and values of layer 1, …. Pages that were never written cost no memory. */
  readonly buffers: readonly Float32Array<ArrayBuffer>[];

  constructor(shape: KvShape) {
    this.shape = shape;
    const bytes = shape.slots * this.slotSize * Float32Array.BYTES_PER_ELEMENT;
    this.buffers = Array.from({ length: shape.layers * 2 }, () => new Float32Array(new ArrayBuffer(bytes)));
  }

  /** The numbers that one slot holds in one buffer. */
  get slotSize(): number {
    return this.shape.kvHeads * this.shape.capacity * this.shape.headDim;
  }

  /** The dimensions of a view. */
  dimensions({ rows }: SlotRange): readonly number[] {
    return [rows, this.shape.kvHeads, this.shape.capacity, this.shape.headDim];
  }

  /** Copies the first `tokens` tokens of one slot to another. */
  copySlot({ from, to, tokens }: { readonly from: number; readonly to: number; readonly tokens: number }): void {
    const { kvHeads, capacity, headDim } = this.shape;
    for (const buffer of this.buffers) {
      for (let head = 0; head < kvHeads; head++) {
        const source = (from * kvHeads + head) * capacity * headDim;
        buffer.copyWithin((to * kvHeads + head) * capacity * headDim, source, source + tokens * headDim);
      }
    }
  }
}
