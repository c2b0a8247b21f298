/** Runs that another thread ends: on a tiny model for what the switch says, on the default one in the middle of a run. */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { afterAll, expect, inject, test } from "vitest";
import { createStopSwitch } from "../../../../origin/runtime/capi/stop-switch.ts";
import { createRuntime } from "../../../../origin/runtime/create-runtime.ts";
import { RuntimeError, type StepBatch } from "../../../../origin/runtime/port/runtime.ts";
import { TinyModels } from "../tiny-model.ts";

const models = new TinyModels();
afterAll(() => models[Symbol.dispose]());

const BATCH: StepBatch = { decode: { tokens: Int32Array.of(1), pasts: Int32Array.of(0) } };

test("a switch ends every run of its own runtime, and nobody else's", async () => {
  const options = {
    backend: "capi",
    folder: await models.import("tiny", "int8"),
    slots: 1,
    capacity: 8,
    threads: 1,
  } as const;
  using stopSwitch = createStopSwitch();
  using other = await createRuntime(options);
  using runtime = await createRuntime({ ...options, stopSwitch: stopSwitch.handle });
  for (const one of [runtime, other]) one.resize({ slots: 1, capacity: 8, kept: [] });
  expect((await runtime.step(BATCH)).length).toBe(runtime.limits.vocabSize);
  stopSwitch.stop();
  stopSwitch.stop();
  for (let again = 0; again < 2; again++) {
    expect(() => runtime.step(BATCH)).toThrow(RuntimeError);
    expect(() => runtime.step(BATCH)).toThrow(/terminate/i);
  }
  expect((await other.step(BATCH)).length).toBe(other.limits.vocabSize);
});

test("a switch that was given up does nothing any more", () => {
  const stopSwitch = createStopSwitch();
  stopSwitch[Symbol.dispose]();
  stopSwitch[Symbol.dispose]();
  expect(() => stopSwitch.stop()).not.toThrow();
});

/** Computes a prompt of 2,000 tokens in one run, which takes a second or more, and says how that went. */
const LONG_RUN = `
import { parentPort, workerData } from "node:worker_threads";
const { createRuntime } = await import(workerData.module);
using runtime = await createRuntime(workerData.options);
runtime.resize({ slots: 1, capacity: 2048, kept: [] });
const none = new Int32Array();
const prefill = { slot: 0, past: 0, sampled: 1, tokens: new Int32Array(2000).fill(100) };
parentPort.postMessage("begun");
try {
  runtime.step({ decode: { tokens: none, pasts: none }, prefill });
  parentPort.postMessage("computed to its end");
} catch (error) {
  parentPort.postMessage(error.message);
}
`;

test("a run in progress on another thread ends in its middle", async () => {
  using stopSwitch = createStopSwitch();
  const options = { backend: "capi", folder: inject("modelFolder"), slots: 1, capacity: 2048, threads: 1 };
  const module = new URL("../../../../origin/runtime/create-runtime.ts", import.meta.url).href;
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(LONG_RUN)}`), {
    workerData: { module, options: { ...options, stopSwitch: stopSwitch.handle } },
  });
  const gone = once(worker, "exit");
  expect(await once(worker, "message")).toEqual(["begun"]);
  const said = once(worker, "message");
  await sleep(50);
  stopSwitch.stop();
  expect(String(await said)).toMatch(/terminate/i);
  await gone;
});
