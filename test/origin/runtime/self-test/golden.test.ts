/**
 * The golden logits are computed once more, by a forward pass without ONNX, and the check that relies on them is shown
 * runtimes that compute something else.
 */
import { readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { describe, expect, test } from "vitest";
import {
  DEFAULT_WEIGHT_FORMAT,
  dequantizeBlocks,
  quantizeBlocks,
  WEIGHT_FORMATS,
} from "../../../../origin/import/quantize.ts";
import { openRuntime, type RuntimeOptions } from "../../../../origin/runtime/create-runtime.ts";
import { type Runtime, RuntimeError, type StepBatch } from "../../../../origin/runtime/runtime.ts";
import { checkGolden, GOLDEN_DISTANCE_MAX } from "../../../../origin/runtime/self-test/golden-check.ts";
import {
  GOLDEN_CONFIG,
  GOLDEN_LOGITS,
  GOLDEN_PROMPT,
  goldenCheckpoint,
} from "../../../../origin/runtime/self-test/golden-model.ts";
import { type ReferenceModel, referenceLogits } from "../../import/reference-decoder.ts";

const checkpoint = goldenCheckpoint();
const { layers, queryHeads, kvHeads, headDim, normEpsilon } = GOLDEN_CONFIG;
const REFERENCE: ReferenceModel = {
  layers,
  queryHeads,
  kvHeads,
  headDim,
  normEpsilon,
  ropeBase: 10_000,
  tied: true,
  tensor: (name) => checkpoint.tensor(name),
};
const CPU = { backend: "capi", threads: 1 } as const;

function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [apart, size] = [0, 0];
  for (let index = 0; index < expected.length; index++) {
    apart += (actual[index]! - expected[index]!) ** 2;
    size += expected[index]! ** 2;
  }
  return Math.sqrt(apart / size);
}

test("the golden logits are those of the architecture's definition", () => {
  const computed = referenceLogits(REFERENCE, GOLDEN_PROMPT);
  expect([...GOLDEN_LOGITS.keys()]).toEqual([4, 6, 7, 8, 9]);
  for (const [length, golden] of GOLDEN_LOGITS) {
    expect(golden).toHaveLength(GOLDEN_CONFIG.vocabSize);
    for (const [id, logit] of golden.entries()) expect(logit).toBeCloseTo(computed[length - 1]![id]!, 4);
  }
});

test("4-bit codes hold the golden weights exactly, so that its logits are right for every format", () => {
  for (const name of ["token_embd.weight", "blk.0.attn_q.weight", "blk.1.ffn_gate.weight"] as const) {
    const values = checkpoint.tensor(name);
    const shape = { rows: values.length / GOLDEN_CONFIG.hiddenSize, columns: GOLDEN_CONFIG.hiddenSize };
    for (const { body } of [WEIGHT_FORMATS.int4, WEIGHT_FORMATS["int4-block128"], WEIGHT_FORMATS["int4-asymmetric"]]) {
      if (body === "fp32") throw new Error("not a block format");
      const held = dequantizeBlocks(quantizeBlocks(values, shape, body), shape, body);
      // -0 is 0.
      expect(held.every((value, index) => value === values[index])).toBe(true);
    }
  }
});

test.each([
  ["a token less", REFERENCE, GOLDEN_PROMPT.slice(1)],
  ["another first token", REFERENCE, [8, ...GOLDEN_PROMPT.slice(1)]],
  ["no rotation", { ...REFERENCE, ropeBase: Infinity }, GOLDEN_PROMPT],
  ["a layer left out", { ...REFERENCE, layers: 1 }, GOLDEN_PROMPT],
  ["another epsilon", { ...REFERENCE, normEpsilon: 0.1 }, GOLDEN_PROMPT],
])("what is computed wrongly is further away than the bound: %s", (_, model, prompt) => {
  expect(distance(referenceLogits(model, prompt).at(-1)!, GOLDEN_LOGITS.get(9)!)).toBeGreaterThan(
    GOLDEN_DISTANCE_MAX * 1.5,
  );
});

describe.each(Object.keys(WEIGHT_FORMATS))("in %s", (format) => {
  test.each([
    { ...CPU },
    { ...CPU, memory: "device", kvType: "float16" } as const,
    { backend: "binding", threads: 1 } as const,
  ])("passes with $backend $memory $kvType", async (options) => {
    const before = leftovers();
    expect(await checkGolden(options, format)).toBeLessThan(GOLDEN_DISTANCE_MAX * 0.75);
    expect(leftovers()).toBe(before);
  });
});

test("a format that is not known is checked as the default one", async () => {
  expect(await checkGolden(CPU, "int3-of-tomorrow")).toBe(await checkGolden(CPU, DEFAULT_WEIGHT_FORMAT));
});

describe("refuses, and leaves nothing behind", () => {
  const lies: readonly (readonly [what: string, lie: (logits: Float32Array, batch: StepBatch) => void])[] = [
    ["logits that are not numbers", (logits) => void logits.fill(NaN, 0, 1)],
    ["one wild logit", (logits) => void (logits[3]! += 2)],
    ["logits of the wrong token", (logits) => logits.set(logits.toReversed())],
    ["zeros", (logits) => void logits.fill(0)],
    [
      "rows that only differ in a mixed run",
      (logits, { decode, prefill }) => {
        if (decode.tokens.length > 0 && prefill !== undefined) logits.copyWithin(0, GOLDEN_CONFIG.vocabSize);
      },
    ],
  ];

  test.each(lies)("%s", async (_, lie) => {
    const before = leftovers();
    const checked = checkGolden(CPU, "int8", (options) => openLiar(options, lie));
    await expect(checked).rejects.toThrow(RuntimeError);
    await expect(checked).rejects.toThrow(/^this ONNX Runtime computes wrong logits with capi on cpu in int8: [^\n]*$/);
    expect(leftovers()).toBe(before);
  });
});

/** A real runtime whose logits are changed before they are seen. */
async function openLiar(
  options: RuntimeOptions,
  lie: (logits: Float32Array, batch: StepBatch) => void,
): Promise<Runtime> {
  const runtime = await openRuntime(options, GOLDEN_CONFIG);
  const step = runtime.step.bind(runtime);
  runtime.step = async (batch) => {
    const logits = await step(batch);
    lie(logits, batch);
    return logits;
  };
  return runtime;
}

function leftovers(): number {
  return readdirSync(tmpdir()).filter((name) => name.startsWith("coldpath-self-test-")).length;
}
