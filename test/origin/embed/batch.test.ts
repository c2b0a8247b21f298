/** The choice of a batch: what may never happen, tried with many seeded queues, and that requests take turns. */
import { describe, expect, it } from "vitest";
import { nextBatch, type WaitingText } from "../../../origin/embed/batch.ts";
import { mulberry32 } from "../../fakes/mulberry32.ts";

function text(request: number, length: number): WaitingText {
  return { request, ids: Array.from({ length }, () => 1) };
}

describe("nextBatch", () => {
  it("computes every text once, within the limit and with little filling, whatever waits", () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = mulberry32(seed);
      const tokensMax = 1 + Math.floor(random() * 200);
      let waiting = Array.from({ length: Math.floor(random() * 60) }, () =>
        text(Math.floor(random() * 5), 1 + Math.floor(random() ** 3 * 100)),
      );
      const turns = new Map<number, number>();
      for (let turn = 0; waiting.length > 0; turn++) {
        const batch = nextBatch(waiting, turns, { tokensMax });
        expect(batch.length, `seed ${seed}`).toBeGreaterThan(0);
        expect(new Set(batch).size, `seed ${seed}`).toBe(batch.length);
        const lengths = batch.map(({ ids }) => ids.length);
        const padded = Math.max(...lengths) * batch.length;
        if (batch.length > 1) expect(padded, `seed ${seed}`).toBeLessThanOrEqual(tokensMax);
        expect(
          lengths.reduce((all, length) => all + length, 0),
          `seed ${seed}`,
        ).toBeGreaterThanOrEqual(padded * 0.75);
        const left = waiting.filter((each) => !batch.includes(each));
        expect(left.length, `seed ${seed}`).toBe(waiting.length - batch.length);
        turns.set(batch[0]!.request, turn);
        waiting = left;
      }
    }
  });

  it("gives a request of one text its turn before the second batch of a thousand", () => {
    const many = Array.from({ length: 1000 }, () => text(1, 50));
    const one = text(2, 5);
    const first = nextBatch([...many, one], new Map(), { tokensMax: 100 });
    expect(first.map(({ request }) => request)).toEqual([1, 1]);
    const second = nextBatch([...many.slice(2), one], new Map([[1, 0]]), { tokensMax: 100 });
    expect(second).toEqual([one]);
  });

  it("takes texts of the same length from all requests together", () => {
    const waiting = [text(1, 10), text(2, 100), text(3, 10), text(4, 11)];
    const batch = nextBatch(waiting, new Map(), { tokensMax: 1000 });
    expect(batch.map(({ request }) => request)).toEqual([1, 3, 4]);
  });

  it("runs a text by itself that is longer than the limit, and nothing where nothing waits", () => {
    expect(nextBatch([text(1, 500), text(1, 500)], new Map(), { tokensMax: 10 })).toHaveLength(1);
    expect(nextBatch([], new Map(), { tokensMax: 10 })).toEqual([]);
  });
});
