import { describe, expect, test } from "vitest";
import { TokenHistory } from "../../../origin/engine/history.ts";
import { createRandom } from "../../../origin/engine/random.ts";
import { Sampler, type Sampling, type SamplingHistory } from "../../../origin/engine/sample.ts";
import { GREEDY } from "../../fakes/greedy.ts";

interface Case {
  readonly logits: readonly number[];
  readonly sampling?: Partial<Sampling>;
  readonly at?: number;
  readonly counts?: readonly (readonly [number, number])[];
  readonly seen?: readonly number[];
  readonly generated?: number;
  readonly mask?: Int32Array;
}

/** Samples once, the random number given. */
function sample({ logits, sampling, at = 0, counts = [], seen = [], generated = 0, mask }: Case): number | undefined {
  const history = { random: () => at, counts: new Map(counts), seen: new Set(seen), generated };
  const sampler = new Sampler({ vocabSize: logits.length, endTokens: [0] });
  return sampler.sample(Float32Array.from(logits), { ...GREEDY, ...sampling }, history, mask);
}

function pastOf(seed: number): SamplingHistory {
  return { random: createRandom(seed), counts: new Map(), seen: new Set(), generated: 0 };
}

/** The distribution by its definition: sort everything, cut by count, by probability, by share of the best. */
function distribution(logits: Float32Array, { temperature, topK, topP, minP }: Sampling): Map<number, number> {
  const max = Math.max(...logits);
  const softmax = (ids: number[]) => {
    const weights = ids.map((id) => Math.exp(((logits[id] ?? 0) - max) / temperature));
    const total = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / total);
  };
  let ids = [...logits.keys()].toSorted((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0) || a - b);
  if (topK > 0) ids = ids.slice(0, topK);
  let sum = 0;
  const shares = softmax(ids);
  const length = shares.findIndex((share) => (sum += share) >= topP - 1e-12);
  ids = length < 0 ? ids : ids.slice(0, length + 1);
  const all = softmax(ids);
  ids = ids.filter((_, i) => (all[i] ?? 0) >= minP * (all[0] ?? 0) * (1 - 1e-12));
  const kept = softmax(ids);
  return new Map(ids.map((id, i) => [id, kept[i] ?? 0]));
}

function firstNumbers(seed: number): string {
  return Array.from({ length: 4 }, createRandom(seed)).join();
}

describe("greedy", () => {
  test("takes the best token, and the lowest of equals", () => {
    expect(sample({ logits: [1, 5, 3] })).toBe(1);
    expect(sample({ logits: [1, 5, 5] })).toBe(1);
    expect(sample({ logits: [-7, -9, -8] })).toBe(0);
  });

  test("finds the best one, a tie and a NaN at every place of every length, by a plain search", () => {
    const random = createRandom(7);
    for (let length = 1; length <= 35; length++) {
      for (let place = 0; place < length; place++) {
        const logits = Array.from({ length }, () => Math.fround(random() * 20 - 10));
        const last = Math.floor(random() * length);
        const tied = logits.map((logit, id) => (id === place || id === last ? 11 : logit));
        expect(sample({ logits }), logits.join()).toBe(logits.indexOf(Math.max(...logits)));
        expect(sample({ logits: tied }), tied.join()).toBe(Math.min(place, last));
        expect(sample({ logits: tied.with(place, NaN) }), tied.join()).toBeUndefined();
      }
    }
  });

  test("is what a temperature too small to divide by means", () => {
    expect(sample({ logits: [1, 1.0001, 0], sampling: { temperature: 1e-300 }, at: 0.999 })).toBe(1);
  });
});

describe("logits that are not numbers", () => {
  test.each([
    ["a NaN first", [NaN, 1, 2]],
    ["a NaN last", [1, 2, NaN]],
    ["nothing but NaN", [NaN, NaN]],
    ["an infinity", [1, Infinity]],
    ["no finite logit at all", [-Infinity, -Infinity]],
  ])("give no token: %s", (_, logits) => {
    expect(sample({ logits })).toBeUndefined();
    expect(sample({ logits, sampling: { temperature: 1 } })).toBeUndefined();
  });

  test("leave a token that is merely impossible out", () => {
    for (const at of [0, 0.5, 1 - 2 ** -32]) {
      expect(sample({ logits: [-Infinity, 0, -Infinity], sampling: { temperature: 1, topK: 3 }, at })).toBe(1);
    }
  });
});

describe("penalties and bias", () => {
  test("subtract the presence once and the frequency for each time", () => {
    const logits = [4, 3.5, 0];
    const counts = [[0, 3]] as const;
    expect(sample({ logits, counts, sampling: { presencePenalty: 0.4 } })).toBe(0);
    expect(sample({ logits, counts, sampling: { presencePenalty: 0.6 } })).toBe(1);
    expect(sample({ logits, counts, sampling: { frequencyPenalty: 0.15 } })).toBe(0);
    expect(sample({ logits, counts, sampling: { frequencyPenalty: 0.2 } })).toBe(1);
    expect(sample({ logits, counts: [[2, 1]], sampling: { presencePenalty: -2, frequencyPenalty: -2 } })).toBe(0);
  });

  test("a bias of 100 forces a token and of -100 forbids it", () => {
    expect(sample({ logits: [10, 0, 0], sampling: { logitBias: [[2, 100]] } })).toBe(2);
    expect(sample({ logits: [10, 0, 1], sampling: { logitBias: [[0, -100]] } })).toBe(2);
  });
});

describe("the repetition penalty", () => {
  test("divides positive logits and multiplies negative ones, of every token seen, once", () => {
    // By transformers' RepetitionPenaltyLogitsProcessor: 6 / 2 = 3 loses to 3.5; -1 · 2 = -2 loses to -1.5.
    expect(sample({ logits: [6, 3.5], seen: [0], sampling: { repetitionPenalty: 2 } })).toBe(1);
    expect(sample({ logits: [6, 3.5], seen: [0, 1], sampling: { repetitionPenalty: 2 } })).toBe(0);
    expect(sample({ logits: [-1, -1.5], seen: [0], sampling: { repetitionPenalty: 2 } })).toBe(1);
    expect(sample({ logits: [-1, -1.5], seen: [1], sampling: { repetitionPenalty: 0.5 } })).toBe(1);
  });

  test("changes the model's own logits, before the bias is added", () => {
    // (2 / 2) + 4 = 5 against 4.5; the other way round it were (2 + 4) / 2 = 3.
    const sampling = { repetitionPenalty: 2, logitBias: [[0, 4]] as const };
    expect(sample({ logits: [2, 4.5], seen: [0], sampling })).toBe(0);
  });

  test("sees the prompt and the answer; the other penalties see the answer only", () => {
    const sampling = { ...GREEDY, repetitionPenalty: 1.1, presencePenalty: 1 };
    const past = new TokenHistory(sampling, [5, 6, 5]);
    past.note(7);
    past.note(7);
    expect([past.seen, past.counts, past.generated]).toEqual([new Set([5, 6, 7]), new Map([[7, 2]]), 2]);
  });
});

describe("what is forbidden", () => {
  test("is an end of the answer before its fewest tokens", () => {
    const sampling = { minTokens: 3 };
    expect(sample({ logits: [9, 1, 2], generated: 2, sampling })).toBe(2);
    expect(sample({ logits: [9, 1, 2], generated: 3, sampling })).toBe(0);
  });

  test("is every token without its bit in the mask", () => {
    const random = createRandom(3);
    const logits = Array.from({ length: 100 }, () => random() * 9);
    for (let round = 0; round < 50; round++) {
      const mask = Int32Array.from({ length: 4 }, () => (random() < 0.2 ? -1 : random() * 2 ** 32));
      const allowed = [...logits.keys()].filter((id) => (((mask[id >> 5] ?? 0) >> (id & 31)) & 1) === 1);
      const best = allowed.reduce((a, b) => ((logits[b] ?? 0) > (logits[a] ?? 0) ? b : a));
      expect(sample({ logits, mask })).toBe(best);
      const drawn = sample({ logits, mask, at: random(), sampling: { temperature: 2, topP: 0.9 } });
      expect(allowed).toContain(drawn);
    }
  });

  test("can be everything, which gives no token, and hides no NaN", () => {
    expect(sample({ logits: [1, 2], mask: Int32Array.of(0) })).toBeUndefined();
    expect(sample({ logits: [NaN, 2], mask: Int32Array.of(2) })).toBeUndefined();
  });
});

describe("a draw", () => {
  const random = createRandom(7);
  const logits = Float32Array.from({ length: 400 }, () => Math.fround(random() * 12));
  // Ties at the rim, and candidates far below the last bucket.
  logits.set([11, 11, 11, 11, -500, -500, 3, 3, 3], 50);

  test.each([
    { temperature: 1, topK: 0, topP: 1 },
    { temperature: 0.7, topK: 40, topP: 1 },
    { temperature: 1.3, topK: 0, topP: 0.9 },
    { temperature: 2, topK: 399, topP: 0.5 },
    { temperature: 0.2, topK: 1, topP: 0.01 },
    { temperature: 1, topK: 0, topP: 1e-9 },
    { temperature: 1, topK: 0, topP: 0 },
    { temperature: 1, topK: 5000, topP: 0.999999 },
    { temperature: 1, minP: 0.1 },
    { temperature: 1.5, minP: 0.02 },
    { temperature: 1, minP: 1 },
    { temperature: 2, topP: 0.9, minP: 0.3 },
    { temperature: 2, topK: 30, topP: 0.99, minP: 0.05 },
    { temperature: 0.5, minP: 1e-12 },
  ])("follows the distribution by its definition: %j", (options) => {
    const sampling = { ...GREEDY, ...options };
    const expected = distribution(logits, sampling);
    const sampler = new Sampler({ vocabSize: logits.length, endTokens: [] });
    const draws = 40_000;
    const drawn = new Map<number, number>();
    const past = pastOf(11);
    for (let i = 0; i < draws; i++) {
      const token = sampler.sample(logits.slice(), sampling, past) ?? -1;
      drawn.set(token, (drawn.get(token) ?? 0) + 1);
    }
    for (const token of drawn.keys()) expect(expected.has(token), `token ${token}`).toBe(true);
    // Pearson's chi square over the tokens that are expected often enough; the rest together is one cell more.
    let [chi, cells, rareDrawn, rareExpected] = [0, 0, 0, 0];
    for (const [token, share] of expected) {
      const [observed, mean] = [drawn.get(token) ?? 0, share * draws];
      if (mean < 10) {
        rareDrawn += observed;
        rareExpected += mean;
      } else {
        chi += (observed - mean) ** 2 / mean;
        cells += 1;
      }
    }
    if (rareExpected > 1) chi += (rareDrawn - rareExpected) ** 2 / rareExpected;
    // Five standard deviations above the mean of a chi square with that many degrees of freedom, and some for few.
    expect(chi).toBeLessThan(cells + 5 * Math.sqrt(2 * cells) + 10);
  });

  test("tells candidates apart that share a bucket", () => {
    const sampler = new Sampler({ vocabSize: 2, endTokens: [] });
    const past = pastOf(5);
    const draws = 100_000;
    let first = 0;
    for (let i = 0; i < draws; i++) {
      const token = sampler.sample(Float32Array.of(0, -0.06), { ...GREEDY, temperature: 1 }, past);
      if (token === 0) first += 1;
    }
    // 1 / (1 + e^-0.06) = 0.51500, with a standard deviation of 0.0016.
    expect(Math.abs(first / draws - 1 / (1 + Math.exp(-0.06)))).toBeLessThan(0.008);
  });

  test("keeps exactly k of equal candidates, the lowest ids", () => {
    const equal = Array.from({ length: 10 }, () => 1);
    const seen = new Set<number | undefined>();
    for (let i = 0; i < 100; i++)
      seen.add(sample({ logits: equal, sampling: { temperature: 1, topK: 3 }, at: i / 100 }));
    expect(seen).toEqual(new Set([0, 1, 2]));
  });
});

describe("a draw of 8,000, of which few are near the best, or many, or all", () => {
  const VOCAB = 8000;
  const draws = 200;
  const shapes = {
    peaked: (drawn: number, id: number) => (id % 997 === 0 ? 14 + drawn : drawn * 3),
    wide: (drawn: number) => drawn * 3,
    flat: (drawn: number) => drawn / 4,
  };
  const settings = [0.2, 0.6, 0.7, 1, 1.8].flatMap((temperature) => [
    { temperature, topP: 0.3 },
    { temperature, topP: 0.9 },
    { temperature, topP: 0.99 },
    { temperature, topK: 20, topP: 0.8 },
    { temperature, topK: 300 },
    { temperature, minP: 0.05 },
  ]);
  test.each(Object.keys(shapes) as (keyof typeof shapes)[])("takes what the definition does: %s", (shape) => {
    const random = createRandom(19);
    const normal = () => Math.sqrt(-2 * Math.log(random() || 0.5)) * Math.cos(2 * Math.PI * random());
    const logits = Float32Array.from({ length: VOCAB }, (_, id) => Math.fround(shapes[shape](normal(), id)));
    const sampler = new Sampler({ vocabSize: VOCAB, endTokens: [] });
    for (const setting of settings) {
      const sampling = { ...GREEDY, ...setting };
      const expected = distribution(logits, sampling);
      const drawn = new Set<number>();
      for (let i = 0; i < draws; i++) {
        // The line that all candidates make up is walked along in even steps: no longer one can be stepped over.
        const at = (i + 0.5) / draws;
        drawn.add(sampler.sample(logits.slice(), sampling, { ...pastOf(1), random: () => at }) ?? -1);
      }
      const wrong = [...drawn].filter((token) => !expected.has(token));
      const missed = [...expected].filter(([token, share]) => share > 1.01 / draws && !drawn.has(token));
      expect({ ...setting, wrong, missed }).toEqual({ ...setting, wrong: [], missed: [] });
    }
  });
});

describe("the generator", () => {
  test("gives the same numbers for a seed, others for another, negative and large ones too", () => {
    const seeds = [0, 1, -1, 2 ** 32, 2 ** 53 - 1, -(2 ** 53 - 1), 42];
    for (const seed of seeds) expect(firstNumbers(seed)).toBe(firstNumbers(seed));
    expect(new Set(seeds.map(firstNumbers)).size).toBe(seeds.length);
  });

  test("spreads evenly over 64 cells for 6,400 seeds' first numbers", () => {
    const cells = new Float64Array(64);
    for (let seed = 0; seed < 6400; seed++) {
      const cell = Math.floor(createRandom(seed)() * 64);
      cells[cell] = (cells[cell] ?? 0) + 1;
    }
    // Chi square with 63 degrees of freedom: 120 is beyond its 99.99th percentile.
    expect(cells.reduce((sum, count) => sum + (count - 100) ** 2 / 100, 0)).toBeLessThan(120);
  });
});
