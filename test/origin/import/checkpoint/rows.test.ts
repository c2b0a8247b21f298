/** Matrices by rows: the pieces are the matrix, and no larger than asked for. */
import { describe, expect, test } from "vitest";
import { mapRows, pieces, readAll, rowsOf } from "../../../../origin/import/checkpoint/rows.ts";

const values = Float32Array.from({ length: 12 * 5 }, (_, i) => i);

describe("pieces", () => {
  test.each([
    [1, 1, 5],
    [1, 10, 10],
    [1, 24, 20],
    [4, 1, 20],
    [4, 45, 40],
    [12, 1, 60],
    [1, 1e9, 60],
  ])("of a matrix in steps of %d rows, %d weights at most, are the matrix", (step, weightsMax, largest) => {
    const source = mapRows(rowsOf(values, 5), (weights) => weights, step);
    const read = [...pieces(source, weightsMax)];
    expect(read.flatMap((piece) => [...piece])).toEqual([...values]);
    expect(Math.max(...read.map((piece) => piece.length))).toBe(largest);
    for (const piece of read.slice(0, -1)) expect(piece.length % (5 * step)).toBe(0);
  });
});

test("a matrix in memory gives arrays that may be changed", () => {
  const source = rowsOf(values, 5);
  source.read(0, 12).fill(0);
  mapRows(source, (weights) => weights.fill(1)).read(0, 1);
  expect([...readAll(source)]).toEqual([...values]);
});

test("groups of rows that would cut others in two are refused", () => {
  const pairs = mapRows(rowsOf(values, 5), (weights) => weights, 2);
  expect(() => mapRows(pairs, (weights) => weights, 3)).toThrow(RangeError);
  expect(mapRows(pairs, (weights) => weights, 6).step).toBe(6);
});
