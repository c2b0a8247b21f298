/**
 * The prefix cache's second tier: keys and values of token blocks in a byte-capped store outside the slab, found by a
 * radix tree. A block is good only behind the very tokens it was computed behind, which is what a path of the tree is,
 * and only for the tenant who paid for it. One cache belongs to one loaded model, and ends with it: another model's
 * digest means another process.
 */
import type { KvBlock } from "../runtime/port/runtime.ts";
import { RadixTree } from "./radix-tree.ts";

/** Tokens of one block: a prefix is found but for less than that. vLLM's size; a smaller one costs more copies. */
export const BLOCK_TOKENS = 16;

/** Whose tokens they are, and which. */
export interface Prefix {
  readonly tenant: string;
  readonly tokens: Int32Array;
}

export class PrefixCache {
  readonly #bytesMax: number;
  readonly #tree = new RadixTree<KvBlock>({ blockTokens: BLOCK_TOKENS });
  #bytes = 0;
  #evictions = 0;

  /** @param bytesMax - of all blocks together; 0 keeps nothing */
  constructor({ bytesMax }: { readonly bytesMax: number }) {
    this.#bytesMax = bytesMax;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Blocks dropped to make room, ever. */
  get evictions(): number {
    return this.#evictions;
  }

  /** The blocks of the longest known prefix, in order. */
  find({ tenant, tokens }: Prefix): readonly KvBlock[] {
    return this.#tree.find(tenant, tokens);
  }

  /**
   * Keeps what is not known yet, as far as it has room.
   *
   * @param save - copies the block of tokens `from` (inclusive) to `to` (exclusive)
   */
  store({ tenant, tokens }: Prefix, save: (from: number, to: number) => KvBlock, blockBytes: number): void {
    this.#tree.add(tenant, tokens, (index) => {
      if (!this.#makeRoom(blockBytes)) return undefined;
      const block = save(index * BLOCK_TOKENS, (index + 1) * BLOCK_TOKENS);
      this.#bytes += block.bytes.byteLength;
      return block;
    });
  }

  clear(): void {
    this.#makeRoom(this.#bytesMax);
  }

  #makeRoom(bytes: number): boolean {
    while (this.#bytes + bytes > this.#bytesMax) {
      const forgotten = this.#tree.forget();
      if (forgotten === undefined) return false;
      this.#bytes -= forgotten.bytes.byteLength;
      this.#evictions += 1;
    }
    return true;
  }
}
