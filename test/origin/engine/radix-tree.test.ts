/** The tree against what it stands for: a plain map from every prefix to its value, with the time of its last use. */
import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { RadixTree } from "../../../origin/engine/radix-tree.ts";

const BLOCK = 2;

/** Prefixes as text; nothing is shared between two that are spelled the same way up to a point. */
class Reference {
  readonly #known = new Map<string, { value: string; usedAt: number }>();
  #now = 0;

  get size(): number {
    return this.#known.size;
  }

  find(scope: string, tokens: readonly number[]): string[] {
    const values: string[] = [];
    const path = this.#prefixes(scope, tokens).filter((_, i, all) =>
      all.slice(0, i + 1).every((shorter) => this.#known.has(shorter)),
    );
    for (const prefix of path) values.push(this.#known.get(prefix)?.value ?? "");
    this.#use(path);
    return values;
  }

  /** `budget`: how many blocks there may be in all. */
  add(scope: string, tokens: readonly number[], budget: number): void {
    const prefixes = this.#prefixes(scope, tokens);
    const own = new Set<string>();
    for (const prefix of prefixes) {
      if (!this.#known.has(prefix)) break;
      own.add(prefix);
    }
    this.#use([...own]);
    for (const prefix of prefixes) {
      if (own.has(prefix)) continue;
      while (this.#known.size >= budget) {
        const [oldest] = [...this.#known]
          .filter(([key]) => !own.has(key))
          .toSorted((a, b) => a[1].usedAt - b[1].usedAt);
        if (oldest === undefined) break;
        this.#known.delete(oldest[0]);
      }
      if (this.#known.size >= budget) break;
      this.#known.set(prefix, { value: prefix, usedAt: 0 });
      own.add(prefix);
    }
    this.#use([...own]);
  }

  /** The deepest first. */
  #use(path: readonly string[]): void {
    for (const prefix of path.toReversed()) {
      const entry = this.#known.get(prefix);
      if (entry !== undefined) entry.usedAt = ++this.#now;
    }
  }

  #prefixes(scope: string, tokens: readonly number[]): string[] {
    return Array.from(
      { length: Math.floor(tokens.length / BLOCK) },
      (_, i) => `${scope}:${tokens.slice(0, (i + 1) * BLOCK).join(",")}`,
    );
  }
}

const step = fc.record({
  isAdd: fc.boolean(),
  scope: fc.constantFrom("a", "b", ""),
  tokens: fc.array(fc.constantFrom(0, 1, 70_000), { maxLength: 9 }),
});

test("finds, adds and forgets as a plain map of prefixes does", () => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.integer({ min: 0, max: 12 }), (steps, budget) => {
      const tree = new RadixTree<string>({ blockTokens: BLOCK });
      const reference = new Reference();
      for (const { isAdd, scope, tokens } of steps) {
        if (isAdd) {
          tree.add(scope, Int32Array.from(tokens), (index) => {
            while (tree.size >= budget) if (tree.forget() === undefined) return undefined;
            return `${scope}:${tokens.slice(0, (index + 1) * BLOCK).join(",")}`;
          });
          reference.add(scope, tokens, budget);
        } else expect(tree.find(scope, Int32Array.from(tokens))).toEqual(reference.find(scope, tokens));
        expect(tree.size).toBe(reference.size);
      }
    }),
    { numRuns: 2000 },
  );
});

describe("the order of forgetting", () => {
  test("is the leaf that was used least lately, never a block that others stand on", () => {
    const tree = new RadixTree<number>({ blockTokens: 1 });
    tree.add("", Int32Array.of(1, 2), (index) => index);
    tree.add("", Int32Array.of(1, 3), (index) => index + 10);
    tree.find("", Int32Array.of(1, 2));
    expect([tree.forget(), tree.forget(), tree.forget(), tree.forget()]).toEqual([11, 1, 0, undefined]);
  });
});
