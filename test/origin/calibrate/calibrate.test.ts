/** The calibration: what is tried, what is chosen, what is remembered, and that it can't keep an origin from starting. */
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import {
  calibrate,
  type CalibrateOptions,
  challengersOf,
  chooseSettings,
} from "../../../origin/calibrate/calibrate.ts";
import { CALIBRATION_CAPACITY, CALIBRATION_SLOTS, compareSteps } from "../../../origin/calibrate/measure.ts";
import { recall, remember } from "../../../origin/calibrate/remember.ts";
import type { StepBatch } from "../../../origin/runtime/port/runtime.ts";
import { FakeRuntime } from "../../fakes/fake-runtime.ts";
import { TinyModels } from "../runtime/tiny-model.ts";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-calibrate-"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const shape = { slots: CALIBRATION_SLOTS, capacity: CALIBRATION_CAPACITY, vocabSize: 32 };

/** A runtime whose steps take as long on the clock of the test as `milliseconds` says. */
function timedRuntime(clock: { now: number }, milliseconds: (step: number) => number): FakeRuntime {
  const runtime = new FakeRuntime(shape);
  const step = runtime.step.bind(runtime);
  let steps = 0;
  runtime.step = (batch: StepBatch) => {
    clock.now += milliseconds(steps++);
    return step(batch);
  };
  return runtime;
}

describe("tries", () => {
  test.each([
    [1, []],
    [2, [1]],
    [4, [2, 3]],
    [16, [8, 15]],
  ])("on %d cores fewer threads, and threads that sleep", (cores, fewer) => {
    const sleeping = cores === 1 ? [] : [{ threads: cores, spinning: false }];
    expect(challengersOf(cores)).toEqual([...fewer.map((threads) => ({ threads, spinning: true })), ...sleeping]);
  });
});

describe("chooses", () => {
  const usual = { threads: 4, spinning: true };
  const half = { threads: 2, spinning: true };
  const sleeping = { threads: 4, spinning: false };

  test("the fastest of those that are clearly faster", () => {
    const trials = [
      { ...half, ratio: 0.9 },
      { ...sleeping, ratio: 0.7 },
    ];
    expect(chooseSettings(usual, trials)).toEqual(sleeping);
  });

  test("the default when nothing is clearly faster, or nothing can be said", () => {
    expect(chooseSettings(usual, [{ ...half, ratio: 0.95 }])).toEqual(usual);
    expect(chooseSettings(usual, [{ ...half, ratio: Number.NaN }])).toEqual(usual);
    expect(chooseSettings(usual, [])).toEqual(usual);
  });
});

describe("compares steps", () => {
  test("by their time, whichever is faster", async () => {
    const clock = { now: 0 };
    const [fast, slow] = [timedRuntime(clock, () => 2), timedRuntime(clock, () => 5)];
    expect(await compareSteps(slow, fast, () => clock.now)).toBeCloseTo(0.4);
    expect(await compareSteps(fast, slow, () => clock.now)).toBeCloseTo(2.5);
  });

  test("without being fooled by interruptions", async () => {
    const clock = { now: 0 };
    // Every fifth step is interrupted, and takes ten times as long.
    const interrupted = () => timedRuntime(clock, (step) => (step % 5 === 2 ? 30 : 3));
    expect(await compareSteps(interrupted(), interrupted(), () => clock.now)).toBeCloseTo(1);
  });

  test("and lets the worse half of the rounds count", async () => {
    const clock = { now: 0 };
    const steady = timedRuntime(clock, () => 4);
    // 2 kinds of step, 3 rounds each, every one run twice: the first half is 12 steps, behind one that fills the slots.
    const lucky = timedRuntime(clock, (step) => (step < 13 ? 1 : 4));
    expect(await compareSteps(steady, lucky, () => clock.now)).toBeCloseTo(1);
  });
});

describe("remembers", () => {
  const settings = { threads: 3, spinning: false, confirmed: true };

  test("what was found, and forgets the oldest beyond its bound", () => {
    const file = join(root, "calibration.json");
    for (let machine = 0; machine < 70; machine++) remember(file, `machine ${machine}`, settings);
    expect(Object.keys(recall(file))).toHaveLength(64);
    expect(recall(file)["machine 69"]).toEqual(settings);
    expect(recall(file)["machine 5"]).toBeUndefined();
    expect(readdirSync(root)).toEqual(["calibration.json"]);
  });

  test.each(["", "{", "null", `{"m":{"threads":0,"spinning":true}}`, `{"m":{"threads":"2"}}`])(
    "nothing of a file that reads %s, and writes it anew",
    (text) => {
      const file = join(root, "calibration.json");
      writeFileSync(file, text);
      expect(recall(file)).toEqual({});
      remember(file, "machine", settings);
      expect(recall(file)).toEqual({ machine: settings });
    },
  );

  test("nothing where it can't write, and says nothing", () => {
    // A folder in the file's place: root ignores permissions, but nobody renames onto a folder.
    const file = join(root, "calibration.json");
    mkdirSync(join(file, "occupied"), { recursive: true });
    remember(file, "machine", settings);
    expect(readdirSync(root)).toEqual(["calibration.json"]);
    chmodSync(root, 0o755);
    expect(recall(file)).toEqual({});
  });
});

function optionsFor(folder: string): CalibrateOptions {
  return {
    file: join(root, "calibration.json"),
    key: { cpu: "test", cores: 2, onnxRuntime: "1", model: "m" },
    modelBytes: 1_000,
    memoryBytes: 1_000_000,
    load: 0,
    runtime: { backend: "capi", folder, slots: CALIBRATION_SLOTS, capacity: CALIBRATION_CAPACITY },
    runtimeModule: new URL("../../../origin/runtime/create-runtime.ts", import.meta.url).href,
  };
}

describe("a calibration", () => {
  test("measures a real model", async () => {
    using models = new TinyModels();
    const found = await calibrate(optionsFor(await models.import("tiny", "int8-rotated")));
    expect(["measured", "unconfirmed"]).toContain(found.because);
    expect(found.trials.map(({ threads, spinning }) => ({ threads, spinning }))).toEqual(challengersOf(2));
    for (const { ratio } of found.trials) expect(ratio).toBeGreaterThan(0);
  });

  test("leaves the default for what was fastest at two starts, and remembers it for the same machine only", async () => {
    const runtimeModule = new URL("few-threads-runtime.ts", import.meta.url).href;
    const options = { ...optionsFor(root), runtimeModule };
    const settings = { threads: 1, spinning: true };
    expect(await calibrate(options)).toMatchObject({
      because: "unconfirmed",
      settings: { threads: 2, spinning: true },
    });
    expect(await calibrate(options)).toMatchObject({ because: "measured", settings });

    // Found without a thread, a module or a model.
    const nowhere = { ...options, runtimeModule: "file:///nowhere.ts" };
    expect(await calibrate(nowhere)).toEqual({ settings, because: "remembered", trials: [] });
    const another = { ...nowhere, key: { ...options.key, cpu: "another" } };
    expect((await calibrate(another)).because).toBe("measuring-failed");
  });

  test("measures again where the last start found something else", async () => {
    const runtimeModule = new URL("few-threads-runtime.ts", import.meta.url).href;
    const options = { ...optionsFor(root), runtimeModule };
    const name = "test | 2 | 1 | m";
    remember(options.file, name, { threads: 2, spinning: false, confirmed: false });
    expect((await calibrate(options)).because).toBe("unconfirmed");
    expect(recall(options.file)[name]).toEqual({ threads: 1, spinning: true, confirmed: false });
  });

  test("takes the default, and writes nothing down, where it can't measure", async () => {
    const options = optionsFor(join(root, "no-model"));
    const usual = { threads: 2, spinning: true };
    expect(await calibrate(options)).toEqual({ settings: usual, because: "measuring-failed", trials: [] });
    const large = { because: "model-too-large", settings: usual };
    expect(await calibrate({ ...options, modelBytes: 2 ** 30, memoryBytes: 2 ** 40 })).toMatchObject(large);
    expect(await calibrate({ ...options, memoryBytes: 3_999 })).toMatchObject(large);
    expect(await calibrate({ ...options, load: 1.1 })).toMatchObject({ because: "machine-busy", settings: usual });
    const alone = { ...options, key: { ...options.key, cores: 1 } };
    expect(await calibrate(alone)).toMatchObject({ because: "nothing-to-try", settings: { threads: 1 } });
    expect(readdirSync(root)).toEqual([]);
  });

  test("takes what the file says", async () => {
    const options = optionsFor(root);
    writeFileSync(options.file, `{"test | 2 | 1 | m":{"threads":1,"spinning":true,"confirmed":true}}`);
    expect(await calibrate(options)).toMatchObject({ because: "remembered", settings: { threads: 1 } });
    expect(readFileSync(options.file, "utf8")).toContain("test | 2");
  });
});
