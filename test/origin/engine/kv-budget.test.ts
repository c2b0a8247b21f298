import * as fc from "fast-check";
import { expect, test } from "vitest";
import { fitSlab, longestRow, slabBytes } from "../../../origin/engine/kv-budget.ts";

const budget = { slots: 16, capacity: 2048, tokenBytes: 10, kvBytes: 16 * 2048 * 10 };
const nothing = { slots: 0, capacity: 0 };

test("grows in powers of two, from 256 tokens up to the limits", () => {
  expect(fitSlab(nothing, { rows: 1, tokens: 10 }, budget)).toEqual({ slots: 1, capacity: 256 });
  expect(fitSlab(nothing, { rows: 3, tokens: 257 }, budget)).toEqual({ slots: 4, capacity: 512 });
  expect(fitSlab(nothing, { rows: 9, tokens: 1500 }, { ...budget, slots: 12, capacity: 1800 })).toEqual({
    slots: 12,
    capacity: 1800,
  });
});

test("stays as it is where it does", () => {
  const present = { slots: 8, capacity: 1024 };
  expect(fitSlab(present, { rows: 2, tokens: 300 }, budget)).toEqual(present);
});

test("gives one side back where both together break the budget, and only then", () => {
  const tight = { ...budget, kvBytes: 8 * 1024 * 10 };
  expect(fitSlab({ slots: 4, capacity: 2048 }, { rows: 5, tokens: 600 }, tight)).toEqual({ slots: 8, capacity: 1024 });
  expect(fitSlab({ slots: 16, capacity: 256 }, { rows: 3, tokens: 2000 }, tight)).toEqual({ slots: 4, capacity: 2048 });
  expect(fitSlab(nothing, { rows: 7, tokens: 1024 }, { ...tight, kvBytes: 7 * 1024 * 10 })).toEqual({
    slots: 7,
    capacity: 1024,
  });
});

test("refuses rows that can't be together", () => {
  expect(fitSlab(nothing, { rows: 17, tokens: 1 }, budget)).toBeUndefined();
  expect(fitSlab(nothing, { rows: 1, tokens: 2049 }, budget)).toBeUndefined();
  expect(fitSlab(nothing, { rows: 2, tokens: 300 }, { ...budget, kvBytes: 1023 * 10 })).toBeUndefined();
});

test("fits what it promises, within the budget, whatever came before; and a row that may be is never refused alone", () => {
  const shape = fc.record({ slots: fc.integer({ min: 1, max: 20 }), capacity: fc.integer({ min: 1, max: 5000 }) });
  fc.assert(
    fc.property(
      shape,
      fc.nat(60_000),
      fc.array(fc.tuple(fc.nat(25), fc.nat(6000)), { maxLength: 10 }),
      (limit, kvBytes, needs) => {
        const given = { ...limit, tokenBytes: 3, kvBytes };
        let present = nothing;
        for (const [rows, tokens] of needs) {
          const need = { rows: rows + 1, tokens: tokens + 1 };
          const next = fitSlab(present, need, given);
          if (need.rows === 1) expect(next !== undefined).toBe(need.tokens <= longestRow(given));
          if (next === undefined) continue;
          expect(next.slots).toBeGreaterThanOrEqual(need.rows);
          expect(next.capacity).toBeGreaterThanOrEqual(need.tokens);
          expect(next.slots).toBeLessThanOrEqual(limit.slots);
          expect(next.capacity).toBeLessThanOrEqual(limit.capacity);
          expect(slabBytes(next, given)).toBeLessThanOrEqual(kvBytes);
          present = next;
        }
      },
    ),
  );
});
