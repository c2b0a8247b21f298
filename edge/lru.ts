/** A map that forgets what was used longest ago, once it weighs too much. Knows nothing of time. */

interface LruOptions<Value> {
  /** Most that all values may weigh together. */
  readonly weightMax: number;
  /** A value's weight; 1 unless told, so that `weightMax` is a count. */
  readonly weigh?: (value: Value) => number;
}

/** Least recently used goes first. A value heavier than the whole map is not kept. */
export class Lru<Value> {
  // A Map iterates in the order of insertion, so its first key is always the one used longest ago.
  readonly #values = new Map<string, Value>();
  readonly #weightMax: number;
  readonly #weigh: (value: Value) => number;
  #weight = 0;

  constructor({ weightMax, weigh = () => 1 }: LruOptions<Value>) {
    this.#weightMax = weightMax;
    this.#weigh = weigh;
  }

  /** The value, which thereby becomes the one used last. */
  get(key: string): Value | undefined {
    const value = this.#values.get(key);
    if (value === undefined) return undefined;
    this.#values.delete(key);
    this.#values.set(key, value);
    return value;
  }

  set(key: string, value: Value): void {
    this.delete(key);
    const weight = this.#weigh(value);
    if (weight > this.#weightMax) return;
    this.#values.set(key, value);
    this.#weight += weight;
    for (const oldest of this.#values.keys()) {
      if (this.#weight <= this.#weightMax) return;
      this.delete(oldest);
    }
  }

  delete(key: string): void {
    const value = this.#values.get(key);
    if (value === undefined) return;
    this.#values.delete(key);
    this.#weight -= this.#weigh(value);
  }
}
