/** The LRU against a plain model of the words: an array, the one used last at its end. */
import { array, assert, constantFrom, integer, oneof, property, record, constant } from "fast-check";
import { describe, expect, it } from "vitest";
import { Lru } from "../../shared/lru.ts";

const WEIGHT_MAX = 10;
const key = constantFrom("a", "b", "c", "d", "e", "f");
const step = oneof(
  record({ type: constant("set" as const), key, value: integer({ min: 0, max: 12 }) }),
  record({ type: constant("get" as const), key, value: constant(0) }),
  record({ type: constant("delete" as const), key, value: constant(0) }),
);

describe("the LRU", () => {
  it("holds what a plain list would, and never more than its weight", () => {
    assert(
      property(array(step, { maxLength: 60 }), (steps) => {
        const lru = new Lru<number>({ weightMax: WEIGHT_MAX, weigh: (value) => value });
        let plain: { key: string; value: number }[] = [];
        for (const { type, key: name, value } of steps) {
          const known = plain.find((item) => item.key === name);
          const others = plain.filter((item) => item !== known);
          if (type === "get") {
            expect(lru.get(name)).toBe(known?.value);
            plain = known === undefined ? others : [...others, known];
          } else {
            if (type === "set") lru.set(name, value);
            else lru.delete(name);
            plain = type === "set" && value <= WEIGHT_MAX ? [...others, { key: name, value }] : others;
          }
          while (plain.reduce((sum, item) => sum + item.value, 0) > WEIGHT_MAX) plain.shift();
          expect([...lru.keys()]).toEqual(plain.map((item) => item.key));
          expect(lru.weight).toBe(plain.reduce((sum, item) => sum + item.value, 0));
          expect(lru.size).toBe(plain.length);
        }
      }),
    );
  });

  it("weighs the key too where it is told to", () => {
    const lru = new Lru<string>({ weightMax: 10, weigh: (value, name) => value.length + name.length });
    lru.set("12345", "12345");
    expect(lru.weight).toBe(10);
    lru.set("1", "");
    expect([...lru.keys()]).toEqual(["1"]);
  });
});
