import { describe, expect, test } from "vitest";
import { createRandom } from "../../../origin/engine/random.ts";
import { type StepLoad, StepTimeModel } from "../../../origin/engine/step-time.ts";

/** A machine that is exactly as the model supposes. */
function truth({ rows, context, chunk, guessed, past }: StepLoad, speed = 1): number {
  const beside = chunk > 0 ? (chunk * (past + chunk / 2)) / 50_000 + past / 150 : (guessed * past) / 2_000;
  const mixed = (rows > 0 && chunk > 0 ? 2 : 0) + (guessed === 1 ? 1 : guessed > 1 ? 5 : 0);
  return speed * (4 + 0.8 * rows + 1.1 * chunk + mixed + (0.9 * context) / 1024 + beside);
}

const alone = { rows: 1, context: 200, chunk: 0, guessed: 0, past: 0 };

function randomLoad(random: () => number): StepLoad {
  const rows = Math.floor(random() * 17);
  const chunk = rows === 0 || random() < 0.5 ? 1 + Math.floor(random() * 128) : 0;
  const guessed = chunk === 0 ? [0, 1, 3][Math.floor(random() * 3)]! : 0;
  return {
    rows,
    context: rows * Math.floor(random() * 1000),
    chunk,
    guessed,
    past: chunk + guessed === 0 ? 0 : Math.floor(random() * 1000),
  };
}

describe("the step-time model", () => {
  test.each([0.01, 1, 100])("learns a machine of any speed (× %d) from noisy steps", (speed) => {
    const random = createRandom(7);
    const model = new StepTimeModel();
    for (let i = 0; i < 400; i++) {
      const load = randomLoad(random);
      model.observe(load, truth(load, speed) * (0.9 + 0.2 * random()));
    }
    for (let i = 0; i < 100; i++) {
      const load = randomLoad(random);
      expect(Math.abs(model.predict(load) / truth(load, speed) - 1), JSON.stringify(load)).toBeLessThan(0.15);
    }
  });

  test("is not led astray by an hour of steps that are all alike", () => {
    const random = createRandom(1);
    const model = new StepTimeModel();
    for (let i = 0; i < 50; i++) model.observe(randomLoad(random), 1);
    const fresh = new StepTimeModel();
    fresh.observe(alone, truth(alone));
    for (let i = 0; i < 100_000; i++) fresh.observe(alone, truth(alone) * (0.9 + 0.2 * random()));
    expect(fresh.predict(alone) / truth(alone)).toBeCloseTo(1, 1);
    // What was never seen is still a guess in the right order of magnitude, and never nothing.
    const chunk = { ...alone, chunk: 64 };
    expect(fresh.predict(chunk) / truth(chunk)).toBeGreaterThan(0.3);
    expect(fresh.predict(chunk) / truth(chunk)).toBeLessThan(3);
  });

  test("keeps what guesses cost through an hour without one", () => {
    const model = new StepTimeModel();
    const guess = { ...alone, past: 201 };
    const guesses = [
      { ...guess, guessed: 1 },
      { ...guess, guessed: 3 },
    ];
    for (let i = 0; i < 60; i++) for (const load of [alone, ...guesses]) model.observe(load, truth(load));
    for (let i = 0; i < 10_000; i++) model.observe(alone, truth(alone));
    for (const load of guesses) expect(model.predict(load) / truth(load)).toBeCloseTo(1, 1);
  });

  test("shrugs off a hiccup, and follows a machine that has become slower for good", () => {
    const model = new StepTimeModel();
    for (let i = 0; i < 100; i++) model.observe(alone, truth(alone));
    model.observe(alone, 3_600_000);
    expect(model.predict(alone) / truth(alone)).toBeLessThan(1.05);
    for (let i = 0; i < 400; i++) model.observe(alone, truth(alone) * 4);
    expect(model.predict(alone) / truth(alone)).toBeCloseTo(4, 0);
  });

  test.each([0, -5, Number.NaN, Infinity])("ignores a step of %d ms", (ms) => {
    const model = new StepTimeModel();
    model.observe(alone, ms);
    expect(model.steps).toBe(0);
  });

  test("names the largest chunk that fits into a time", () => {
    const random = createRandom(3);
    const model = new StepTimeModel();
    for (let i = 0; i < 300; i++) {
      const load = randomLoad(random);
      model.observe(load, truth(load));
    }
    const load = { rows: 4, context: 2000, past: 300 };
    const chunk = model.chunkWithin(60, { ...load, max: 512 });
    expect(model.predict({ ...load, guessed: 0, chunk })).toBeLessThanOrEqual(60);
    expect(model.predict({ ...load, guessed: 0, chunk: chunk + 1 })).toBeGreaterThan(60);
    expect(model.chunkWithin(0, { ...load, max: 512 })).toBe(0);
    expect(model.chunkWithin(Infinity, { ...load, max: 512 })).toBe(512);
  });
});
