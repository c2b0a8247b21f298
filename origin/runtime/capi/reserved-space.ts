/**
 * A KV slab's memory with addresses for its largest shape from the beginning, so that it grows without moving: growth in
 * the middle of running rows had cost their next step 20 to 80 ms. What a smaller shape has no room for is given back.
 */
import { kvHeadBytes, type KvModel } from "../port/kv-model.ts";
import type { KvSpace } from "../port/kv-space.ts";
import type { Resize } from "../port/runtime.ts";
import { type ReservedMemory, reserveMemory } from "./reserved-memory.ts";

interface Shape {
  readonly slots: number;
  readonly capacity: number;
}

export class ReservedSpace implements KvSpace, Disposable {
  readonly stride: number;
  readonly #headBytes: number;
  readonly #kvHeads: number;
  readonly #memory: ReservedMemory;
  #shape: Shape = { slots: 0, capacity: 0 };

  /** @returns `undefined` where so many addresses can't be had */
  static reserve(model: KvModel, largest: Shape): ReservedSpace | undefined {
    const bytes = largest.slots * model.kvHeads * largest.capacity * kvHeadBytes(model);
    const memory = reserveMemory(model.layers * 2, bytes);
    return memory && new ReservedSpace(model, largest, memory);
  }

  private constructor(model: KvModel, largest: Shape, memory: ReservedMemory) {
    this.stride = largest.capacity;
    this.#headBytes = kvHeadBytes(model);
    this.#kvHeads = model.kvHeads;
    this.#memory = memory;
  }

  get buffers(): readonly Uint8Array<ArrayBuffer>[] {
    return this.#memory.arrays;
  }

  reshape({ slots, capacity }: Resize): void {
    const old = this.#shape;
    this.#shape = { slots, capacity };
    const step = this.stride * this.#headBytes;
    const heads = (ofSlots: number) => ofSlots * this.#kvHeads;
    for (const buffer of this.buffers.keys()) {
      if (slots < old.slots) this.#memory.giveBack(buffer, heads(slots) * step, heads(old.slots) * step);
      if (capacity >= old.capacity) continue;
      for (let head = 0; head < heads(Math.min(slots, old.slots)); head++) {
        const start = head * step;
        this.#memory.giveBack(buffer, start + capacity * this.#headBytes, start + old.capacity * this.#headBytes);
      }
    }
  }

  [Symbol.dispose](): void {
    this.#memory[Symbol.dispose]();
  }
}
