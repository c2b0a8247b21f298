/**
 * A map that forgets what was used longest ago, once it weighs too much. Knows nothing of time.
 *
 * The order is a linked list beside the map, not the map's own: deleting and setting a key at each reading makes the map
 * rehash now and then, milliseconds at 100,000 keys, and keeps the reader's copy of a long key alive instead of ours.
 */

interface LruOptions<Value> {
  /** Most that all values may weigh together. */
  readonly weightMax: number;
  /** A value's weight, fixed when it is set; 1 unless told, so that `weightMax` is a count. */
  readonly weigh?: (value: Value, key: string) => number;
}

interface Link<Value> {
  readonly key: string;
  readonly value: Value;
  readonly weight: number;
  /** Towards the one used last. */
  newer: Link<Value> | undefined;
  /** Towards the one used longest ago. */
  older: Link<Value> | undefined;
}

/** Least recently used goes first. A value heavier than the whole map is not kept. */
export class Lru<Value> {
  readonly #links = new Map<string, Link<Value>>();
  readonly #weightMax: number;
  readonly #weigh: (value: Value, key: string) => number;
  #weight = 0;
  #newest: Link<Value> | undefined;
  #oldest: Link<Value> | undefined;

  constructor({ weightMax, weigh = () => 1 }: LruOptions<Value>) {
    this.#weightMax = weightMax;
    this.#weigh = weigh;
  }

  /** What all values weigh together. */
  get weight(): number {
    return this.#weight;
  }

  get size(): number {
    return this.#links.size;
  }

  /** The value, which thereby becomes the one used last. */
  get(key: string): Value | undefined {
    const link = this.#links.get(key);
    if (link === undefined) return undefined;
    if (link !== this.#newest) {
      this.#unlink(link);
      this.#append(link);
    }
    return link.value;
  }

  set(key: string, value: Value): void {
    this.delete(key);
    const weight = this.#weigh(value, key);
    if (weight > this.#weightMax) return;
    const link: Link<Value> = { key, value, weight, newer: undefined, older: undefined };
    this.#links.set(key, link);
    this.#append(link);
    this.#weight += weight;
    while (this.#weight > this.#weightMax && this.#oldest !== undefined) this.delete(this.#oldest.key);
  }

  delete(key: string): void {
    const link = this.#links.get(key);
    if (link === undefined) return;
    this.#links.delete(key);
    this.#unlink(link);
    this.#weight -= link.weight;
  }

  /** All keys, the one used longest ago first. */
  *keys(): IterableIterator<string> {
    for (let link = this.#oldest; link !== undefined; link = link.newer) yield link.key;
  }

  #append(link: Link<Value>): void {
    link.older = this.#newest;
    link.newer = undefined;
    if (this.#newest === undefined) this.#oldest = link;
    else this.#newest.newer = link;
    this.#newest = link;
  }

  #unlink(link: Link<Value>): void {
    if (link.newer === undefined) this.#newest = link.older;
    else link.newer.older = link.older;
    if (link.older === undefined) this.#oldest = link.newer;
    else link.older.newer = link.newer;
  }
}
