/**
 * Random arrivals, cancels and failures, seeded: after every step the slab must be packed, no row lost or doubled, and
 * the runtime must hold exactly the tokens each row was fed. Failed runs name the seed to repeat them with.
 */
import { expect, test } from "vitest";
import { Engine } from "../../../origin/engine/engine.ts";
import { createRandom, type Random } from "../../../origin/engine/random.ts";
import type { SequenceRequest } from "../../../origin/engine/sequence.ts";
import { FakeRuntime } from "../../fakes/fake-runtime.ts";

const VOCAB = 64;
const POISON = 63;
const FAIL = 62;
const END = 61;

interface Record {
  readonly request: SequenceRequest;
  readonly tokens: number[];
  status: string;
}

class Simulation {
  readonly #random: Random;
  readonly #fake: FakeRuntime;
  readonly #engine: Engine;
  readonly records = new Map<number, Record>();
  #nextId = 1;

  constructor(seed: number) {
    this.#random = createRandom(seed);
    const slots = 1 + this.#below(5);
    const shape = { slots, capacity: 40, vocabSize: VOCAB };
    // What a row is fed is sampled: the runtime must never sample what makes it fail.
    this.#fake = new FakeRuntime({ ...shape, poisonToken: POISON, failToken: FAIL, shunned: [POISON, FAIL] });
    this.#engine = new Engine({
      runtime: this.#fake,
      endTokens: [END],
      prefillChunkTokens: 1 + this.#below(9),
      queueWaitMs: Infinity,
      now: () => 0,
    });
  }

  async run(steps: number): Promise<void> {
    for (let i = 0; i < steps; i++) {
      if (this.#random() < 0.4) this.#arrive();
      if (this.#random() < 0.1) this.#cancel();
      await this.#step();
    }
    while (this.#engine.busy) await this.#step();
  }

  #arrive(): void {
    const id = this.#nextId++;
    const prompt = Int32Array.from({ length: 1 + this.#below(20) }, () => this.#below(61));
    if (this.#random() < 0.03) prompt[this.#below(prompt.length)] = POISON;
    if (this.#random() < 0.02) prompt[this.#below(prompt.length)] = FAIL;
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
    const request = { id, prompt, maxTokens: 1 + this.#below(20), sampling };
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
    for (const { id, token, status } of report.updates) {
      const record = this.records.get(id);
      expect(record?.status, `an update for request ${id}, which had ended`).toBe("running");
      if (record === undefined) continue;
      if (token >= 0) record.tokens.push(token);
      record.status = status;
    }
    this.#check();
  }

  #check(): void {
    const { running, prefilling, waiting } = this.#engine;
    const open = [...running, ...(prefilling === undefined ? [] : [prefilling]), ...waiting].map(({ id }) => id);
    const expected = [...this.records].filter(([, { status }]) => status === "running").map(([id]) => id);
    expect(open.toSorted((a, b) => a - b)).toEqual(expected);
    expect(running.length).toBeLessThanOrEqual(this.#fake.limits.slots);
    expect(waiting.map(({ id }) => id)).toEqual(waiting.map(({ id }) => id).toSorted((a, b) => a - b));
    running.forEach((row, i) => {
      expect(row.slot).toBe(i);
      const fed = [...row.prompt, ...(this.records.get(row.id)?.tokens ?? [])].slice(0, row.past);
      expect(this.#fake.held[i]?.slice(0, row.past)).toEqual(fed);
      expect(row.past).toBe(row.prompt.length + row.history.generated - 1);
    });
    if (prefilling !== undefined) {
      expect(prefilling.slot).toBeGreaterThanOrEqual(running.length);
      expect(prefilling.slot).toBeLessThan(this.#fake.limits.slots);
    }
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }
}

/** The same request with nobody beside it. */
async function answerAlone(request: SequenceRequest): Promise<{ tokens: number[]; status: string }> {
  const shape = { slots: 1, capacity: 40, vocabSize: VOCAB };
  const runtime = new FakeRuntime({ ...shape, poisonToken: POISON, failToken: FAIL, shunned: [POISON, FAIL] });
  const options = { endTokens: [END], prefillChunkTokens: 40, queueWaitMs: Infinity, now: () => 0 };
  const engine = new Engine({ runtime, ...options });
  engine.submit(request);
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

test.each(Array.from({ length: 40 }, (_, i) => 1000 + i))(
  "keeps its promises through 200 random steps, seed %i",
  async (seed) => {
    const simulation = new Simulation(seed);
    await simulation.run(200);
    for (const { request, tokens, status } of simulation.records.values()) {
      const alone = await answerAlone(request);
      // A neighbour's failed run or a cancel ends an answer early; what was given until then is the same.
      if (status === "failed" || status === "cancelled") expect(tokens).toEqual(alone.tokens.slice(0, tokens.length));
      else expect({ tokens, status }).toEqual(alone);
    }
  },
);
