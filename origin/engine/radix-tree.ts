/**
 * A radix tree over blocks of tokens: an edge is one whole block, so that a path from the root spells a prefix and two
 * prompts share the nodes of what they have in common. It forgets the least recently used leaf first. Knows nothing of
 * what the values are or how large they may be together.
 *
 * The order of use is the order of one set. A path is always touched from its deepest node up, so a parent is younger
 * than its children, the oldest node of all is a leaf, and forgetting takes no search.
 */

interface Node<Value> {
  readonly parent: Node<Value> | undefined;
  readonly key: string;
  readonly children: Map<string, Node<Value>>;
  readonly value: Value | undefined;
}

export class RadixTree<Value> {
  readonly #blockTokens: number;
  readonly #root: Node<Value> = { parent: undefined, key: "", children: new Map(), value: undefined };
  /** Every node but the root, the least recently used first. */
  readonly #nodes = new Set<Node<Value>>();

  constructor({ blockTokens }: { readonly blockTokens: number }) {
    this.#blockTokens = blockTokens;
  }

  /** Blocks held. */
  get size(): number {
    return this.#nodes.size;
  }

  /** The values of the longest known prefix, in order, one for each whole block; counts as a use. */
  find(scope: string, tokens: Int32Array): Value[] {
    const path = this.#walk(scope, tokens);
    this.#touch(path);
    return path.map(({ value }) => value as Value);
  }

  /**
   * Makes every whole block of the tokens known.
   *
   * @param make - the value of block `index`, asked for each block that is missing, in order; `undefined` ends the
   * prefix there. It may call `forget`: the prefix itself is never what is forgotten.
   */
  add(scope: string, tokens: Int32Array, make: (index: number) => Value | undefined): void {
    const path = this.#walk(scope, tokens);
    this.#touch(path);
    const whole = Math.floor(tokens.length / this.#blockTokens);
    this.#growing = new Set(path);
    for (let index = path.length; index < whole; index++) {
      const value = make(index);
      if (value === undefined) break;
      const parent = path.at(-1) ?? this.#root;
      const node: Node<Value> = { parent, key: this.#key(scope, tokens, index), children: new Map(), value };
      parent.children.set(node.key, node);
      this.#nodes.add(node);
      this.#growing.add(node);
      path.push(node);
    }
    this.#growing = undefined;
    this.#touch(path);
  }

  /** Drops the least recently used block. @returns its value, or `undefined` when there is none to drop */
  forget(): Value | undefined {
    const [oldest] = this.#nodes;
    if (oldest === undefined || this.#growing?.has(oldest) === true) return undefined;
    this.#nodes.delete(oldest);
    oldest.parent?.children.delete(oldest.key);
    return oldest.value;
  }

  /** The path that is being added to, which must not lose its own nodes. */
  #growing: Set<Node<Value>> | undefined;

  #walk(scope: string, tokens: Int32Array): Node<Value>[] {
    const path: Node<Value>[] = [];
    let node: Node<Value> = this.#root;
    for (let index = 0; (index + 1) * this.#blockTokens <= tokens.length; index++) {
      const child = node.children.get(this.#key(scope, tokens, index));
      if (child === undefined) break;
      path.push(child);
      node = child;
    }
    return path;
  }

  /** The tokens themselves as text, two code units each: no hash, so nothing to collide. The first also has the scope. */
  #key(scope: string, tokens: Int32Array, index: number): string {
    const start = index * this.#blockTokens;
    const block = tokens.slice(start, start + this.#blockTokens);
    const text = String.fromCharCode(...new Uint16Array(block.buffer));
    return index === 0 ? text + scope : text;
  }

  #touch(path: readonly Node<Value>[]): void {
    for (let depth = path.length - 1; depth >= 0; depth--) {
      const node = path[depth];
      if (node === undefined) continue;
      this.#nodes.delete(node);
      this.#nodes.add(node);
    }
  }
}
