/** Opening a model with the self-test around it, and what it says of itself. */
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { Registry } from "prom-client";
import { afterAll, expect, test } from "vitest";
import { WEIGHTS_FILE } from "../../../../origin/manifest/manifest.ts";
import { createRuntime } from "../../../../origin/runtime/self-test/checked-runtime.ts";
import { measureReadBandwidth } from "../../../../origin/runtime/self-test/read-bandwidth.ts";
import type { SelfTest } from "../../../../origin/runtime/port/runtime.ts";
import { describeSelfTest, registerSelfTest, shareOfLimit } from "../../../../origin/runtime/self-test/report.ts";
import { TinyModels } from "../tiny-model.ts";

const models = new TinyModels();
afterAll(() => models[Symbol.dispose]());

const FOUND = {
  goldenDistance: 0.02,
  stepMs: 20,
  stepBytes: 150 * 2 ** 20,
  readBandwidth: { bytes: 150 * 2 ** 20, bytesPerSecond: (150 * 2 ** 20) / 0.015 },
};

test.each(["capi", "binding"] as const)("a model on %s opens without slots and with its numbers", async (backend) => {
  const folder = await models.import(`tiny-${backend}`, "int4");
  using runtime = await createRuntime({ backend, folder, slots: 4, capacity: 64, threads: 1 });
  expect(runtime.shape).toMatchObject({ slots: 0, capacity: 0 });
  const { goldenDistance, stepMs, stepBytes, readBandwidth } = runtime.selfTest!;
  expect(goldenDistance).toBeGreaterThan(0);
  expect(goldenDistance).toBeLessThan(0.06);
  expect(stepMs).toBeGreaterThan(0);
  // Every weight but the rotations, each padded to a page in the file, and 64 tokens' keys and values.
  const padded = statSync(join(folder, WEIGHTS_FILE)).size + 64 * runtime.limits.tokenBytes;
  expect(stepBytes).toBeLessThan(padded);
  expect(stepBytes).toBeGreaterThan(padded - 60 * 4096 - 2 * 256 * 16 * 4);
  expect(readBandwidth!.bytes).toBe(stepBytes);
  expect(readBandwidth!.bytesPerSecond).toBeGreaterThan(1e8);
});

test("an embedding table beside a head of its own is looked up in, not read", async () => {
  const tied = await models.import("tied", "fp32");
  const untied = await models.import("untied", "fp32", { tied: false });
  const size = { backend: "capi", slots: 1, capacity: 64, threads: 1 } as const;
  using one = await createRuntime({ ...size, folder: tied });
  using two = await createRuntime({ ...size, folder: untied });
  expect(two.selfTest!.stepBytes).toBe(one.selfTest!.stepBytes);
});

test("a row shorter than the measured step's is measured at its length", async () => {
  const folder = await models.import("short", "int4");
  using runtime = await createRuntime({ backend: "capi", folder, slots: 1, capacity: 1, threads: 1 });
  expect(runtime.selfTest!.stepMs).toBeGreaterThan(0);
});

test("a model that can't be loaded fails with its own words", async () => {
  const folder = await models.import("broken", "int4");
  rmSync(join(folder, WEIGHTS_FILE));
  await expect(createRuntime({ backend: "capi", folder, slots: 1, capacity: 8, threads: 1 })).rejects.toThrow(
    /model.onnx.data/,
  );
});

test("reading is measured for any number of bytes and threads", async () => {
  for (const options of [
    { bytes: 1, threads: 1 },
    { bytes: 5, threads: 3 },
    { bytes: 2 ** 22, threads: 2 },
  ]) {
    expect(await measureReadBandwidth(options)).toBeGreaterThan(0);
  }
});

test("the share of the limit is the reading's part of the step, in words and in the metrics", async () => {
  expect(shareOfLimit(FOUND)).toBeCloseTo(0.75);
  expect(shareOfLimit({ ...FOUND, readBandwidth: undefined })).toBeUndefined();
  expect(describeSelfTest(FOUND)).toBe(
    "75 % of this machine's limit: a step of one row reads 150 MiB in 20.0 ms, the cores read 150 MiB over and over at 10.5 GB/s",
  );
  expect(describeSelfTest({ ...FOUND, readBandwidth: undefined })).toBe("a step of one row reads 150 MiB in 20.0 ms");

  const registry = new Registry();
  let found: readonly (readonly [string, SelfTest | undefined])[] = [["a", undefined]];
  registerSelfTest(registry, () => found);
  expect(await registry.metrics()).not.toMatch(/^coldpath_origin_self_test_limit_ratio/m);
  found = [
    ["a", FOUND],
    ["b", { ...FOUND, readBandwidth: undefined }],
  ];
  expect(await registry.metrics()).toMatch(/^coldpath_origin_self_test_limit_ratio\{model_name="a"\} 0\.75$/m);
  expect(await registry.metrics()).toMatch(/^coldpath_origin_self_test_limit_ratio\{model_name="b"\} Nan$/im);
  expect(await registry.metrics()).toMatch(/^coldpath_origin_self_test_step_seconds\{model_name="a"\} 0\.02$/m);
});
