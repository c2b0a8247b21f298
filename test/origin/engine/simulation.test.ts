/**
 * Random arrivals, cancels, deadlines, preemptions, evictions, drafts, failed runs and a clock that jumps, seeded: after
 * every step the slab must be packed and within its budget, no sequence lost or doubled, the queue in order, and the
 * runtime must hold exactly the tokens each row was fed. In the end every sequence has ended once, with the tokens it
 * gets alone. Failed runs name the seed to repeat them with.
 */
import { expect, test } from "vitest";
import { Engine, type EngineCounters } from "../../../origin/engine/engine.ts";
import { createRandom, type Random } from "../../../origin/engine/random.ts";
import type { Priority, Sequence, SequenceRequest } from "../../../origin/engine/sequence.ts";
import { ENGINE_OPTIONS } from "../../fakes/engine-options.ts";
import { FakeRuntime } from "../../fakes/fake-runtime.ts";

const VOCAB = 64;
const POISON = 63;
const FAIL = 62;
const END = 61;
/** Few, so that answers repeat themselves and are drafted. */
const SAMPLED = 4;
const CAPACITY = 700;
const TOKEN_BYTES = 4;
const STEPS_MAX = 20_000;

interface Record {
  readonly request: SequenceRequest;
  readonly tokens: number[];
  status: string;
}

function createFake(slots: number): FakeRuntime {
  // What a row is fed is sampled: the runtime must never sample what makes it fail.
  const shunned = Array.from({ length: VOCAB }, (_, id) => id).filter((id) => id >= SAMPLED && id !== END);
  return new FakeRuntime({
    slots,
    capacity: CAPACITY,
    vocabSize: VOCAB,
    poisonToken: POISON,
    failToken: FAIL,
    shunned,
  });
}

class Simulation {
  readonly #random: Random;
  readonly #fake: FakeRuntime;
  readonly #engine: Engine;
  readonly #kvBytes: number;
  readonly #prefixCacheBytes: number;
  /** What prompts begin with. */
  readonly #openings: readonly number[][];
  #now = 0;
  #nextId = 1;
  #prefilling: Sequence | undefined;
  readonly records = new Map<number, Record>();

  constructor(seed: number) {
    this.#random = createRandom(seed);
    const slots = 1 + this.#below(5);
    this.#fake = createFake(slots);
    this.#kvBytes = TOKEN_BYTES * (CAPACITY + this.#below(CAPACITY * slots));
    this.#prefixCacheBytes = this.#random() < 0.2 ? 0 : TOKEN_BYTES * this.#below(600);
    this.#openings = Array.from({ length: 3 }, () => this.#tokens(this.#below(60)));
    this.#engine = new Engine({
      ...ENGINE_OPTIONS,
      runtime: this.#fake,
      endTokens: [END],
      prefillChunkTokens: 2 + this.#below(40),
      interTokenMs: 1 + this.#below(60),
      speculationTokens: this.#below(4),
      queueWaitMs: this.#random() < 0.5 ? Infinity : 500,
      ageingMs: this.#below(200),
      kvBytes: this.#kvBytes,
      prefixCacheBytes: this.#prefixCacheBytes,
      now: () => this.#tick(),
    });
  }

  get counters(): EngineCounters {
    return this.#engine.counters;
  }

  async run(steps: number): Promise<void> {
    for (let i = 0; i < steps; i++) {
      if (this.#random() < 0.25) this.#arrive();
      if (this.#random() < 0.06) this.#cancel();
      if (this.#random() < 0.02) this.#jump();
      if (this.#random() < 0.05) this.#engine.rest();
      await this.#step();
    }
    for (let i = 0; this.#engine.busy; i++) {
      if (i > STEPS_MAX) throw new Error("somebody starves");
      await this.#step();
    }
  }

  /** Each reading is a bit later than the one before. */
  #tick(): number {
    this.#now += this.#random();
    return this.#now;
  }

  #jump(): void {
    this.#now += (this.#random() - 0.5) * 300;
  }

  #arrive(): void {
    const id = this.#nextId++;
    const opening = this.#openings[this.#below(3)] ?? [];
    const long = this.#random() < 0.1 ? 250 : 0;
    const prompt = Int32Array.from([...opening, ...this.#tokens(1 + this.#below(20) + long)]);
    if (this.#random() < 0.03) prompt[this.#below(prompt.length)] = POISON;
    if (this.#random() < 0.03) prompt[this.#below(prompt.length)] = FAIL;
    const sampling = {
      temperature: this.#random() < 0.5 ? 0 : 1,
      topK: this.#below(10),
      topP: 1 - this.#random() / 2,
      minP: this.#below(3) / 20,
      repetitionPenalty: 1 + this.#below(3) / 10,
      presencePenalty: this.#below(3) - 1,
      frequencyPenalty: 0,
      logitBias: [],
      minTokens: this.#below(4),
      seed: this.#below(1000),
    };
    const request: SequenceRequest = {
      id,
      prompt,
      maxTokens: 1 + this.#below(60),
      sampling,
      priority: this.#below(3) as Priority,
      tenant: ["a", "b"][this.#below(2)] ?? "",
      ...(this.#random() < 0.2 ? { deadlineMs: this.#below(300) } : {}),
    };
    this.records.set(id, { request, tokens: [], status: "running" });
    this.#engine.submit(request);
  }

  #cancel(): void {
    const open = [...this.records].filter(([, { status }]) => status === "running");
    const [id, record] = open[this.#below(open.length)] ?? [];
    if (id === undefined || record === undefined) return;
    record.status = "cancelled";
    this.#engine.cancel(id);
    this.#check();
  }

  async #step(): Promise<void> {
    const report = await this.#engine.step();
    for (const { id, token, status, cachedTokens } of report.updates) {
      const record = this.records.get(id);
      expect(record?.status, `an update for request ${id}, which had ended`).toBe("running");
      if (record === undefined) continue;
      if (token >= 0) record.tokens.push(token);
      record.status = status;
      expect(cachedTokens).toBeLessThan(record.request.prompt.length);
    }
    this.#check();
  }

  #check(): void {
    const { running, prefilling, waiting, counters } = this.#engine;
    const open = [...running, ...(prefilling === undefined ? [] : [prefilling]), ...waiting].map(({ id }) => id);
    const expected = [...this.records].filter(([, { status }]) => status === "running").map(([id]) => id);
    expect(open.toSorted((a, b) => a - b)).toEqual(expected);

    const { slots, capacity } = this.#fake.shape;
    expect(slots * capacity * TOKEN_BYTES).toBeLessThanOrEqual(this.#kvBytes);
    expect(counters.prefixBytes).toBeLessThanOrEqual(this.#prefixCacheBytes);

    const ranks = waiting.map(({ rankMs }) => rankMs);
    expect(ranks).toEqual(ranks.toSorted((a, b) => a - b));
    if (prefilling !== undefined && prefilling !== this.#prefilling) {
      // The bound on waiting: nobody begins while somebody waits who came earlier, by the clock that ageing counts on.
      expect(prefilling.rankMs).toBeLessThanOrEqual(ranks[0] ?? Infinity);
    }
    this.#prefilling = prefilling;

    running.forEach((row, i) => {
      expect(row.slot).toBe(i);
      expect(row.past).toBe(row.length - 1);
      this.#checkHeld(row);
    });
    if (prefilling !== undefined) {
      expect(prefilling.slot).toBeGreaterThanOrEqual(running.length);
      expect(prefilling.slot).toBeLessThan(slots);
      this.#checkHeld(prefilling);
    }
  }

  #checkHeld({ id, slot, past, tokens, length }: Sequence): void {
    const record = this.records.get(id);
    const fed = [...(record?.request.prompt ?? []), ...(record?.tokens ?? [])];
    expect([...tokens.subarray(0, length)]).toEqual(fed);
    expect(this.#fake.held[slot]?.slice(0, past)).toEqual(fed.slice(0, past));
  }

  #tokens(count: number): number[] {
    return Array.from({ length: count }, () => this.#below(END));
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }
}

/** The same request with nobody beside it, nothing cached, drafted or cut, and all the time in the world. */
async function answerAlone(request: SequenceRequest): Promise<{ tokens: number[]; status: string }> {
  const options = { endTokens: [END], prefillChunkTokens: CAPACITY };
  const engine = new Engine({ ...ENGINE_OPTIONS, ...options, runtime: createFake(1) });
  engine.submit({ ...request, deadlineMs: Infinity });
  const tokens: number[] = [];
  let status = "running";
  while (engine.busy) {
    for (const update of (await engine.step()).updates) {
      if (update.token >= 0) tokens.push(update.token);
      status = update.status;
    }
  }
  return { tokens, status };
}

/** Ends that others or the clock decide: what was given until then is the same as alone. */
const CUT = new Set(["cancelled", "expired", "deadline"]);

const seen = { preemptions: 0, prefixEvictions: 0, prefixHits: 0, acceptedTokens: 0, resizes: 0 };
const ends = new Set<string>();

test.each(Array.from({ length: 60 }, (_, i) => 1000 + i))(
  "keeps its promises through 250 random steps, seed %i",
  async (seed) => {
    const simulation = new Simulation(seed);
    await simulation.run(250);
    for (const { request, tokens, status } of simulation.records.values()) {
      const alone = await answerAlone(request);
      ends.add(status);
      if (CUT.has(status)) expect(tokens).toEqual(alone.tokens.slice(0, tokens.length));
      // Who was in too many failed runs of others' making is given up with them.
      else if (status === "failed" && alone.status !== "failed") {
        expect(tokens).toEqual(alone.tokens.slice(0, tokens.length));
      } else expect({ tokens, status }).toEqual(alone);
    }
    for (const name of Object.keys(seen) as (keyof typeof seen)[]) seen[name] += simulation.counters[name];
  },
);

test("has put all of it to the test", () => {
  for (const [name, count] of Object.entries(seen)) expect(count, name).toBeGreaterThan(10);
  const all = ["cancelled", "deadline", "expired", "failed", "length", "poisoned", "stop"];
  expect([...ends].toSorted()).toEqual(all);
});
