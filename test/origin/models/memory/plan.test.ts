/** The memory plan's arithmetic, against numbers worked out by hand. */
import { describe, expect, test } from "vitest";
import {
  type DecoderPlan,
  describePlan,
  MemoryError,
  planMemory,
  type PlannedManifest,
  type PlanSettings,
  requireMemory,
} from "../../../../origin/models/memory/plan.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const SETTINGS: PlanSettings = {
  runtime: "capi",
  provider: "cpu",
  slots: 12,
  context: 2048,
  kvBytes: 0,
  memoryBytes: 0,
  prefixCacheBytes: 256 * MIB,
  prefillChunkTokens: 128,
  embedBatchTokens: 1024,
};
const PLENTY = { totalBytes: 64 * GIB, availableBytes: 60 * GIB };

/** SmolLM2-135M's sizes. A token has 30 layers × 3 heads × 64 numbers × 2 (key and value) = 11,520 numbers. */
function decoder(name: string, weightsMiB: number): PlannedManifest {
  return {
    name,
    architecture: {
      layers: 30,
      hiddenSize: 576,
      queryHeads: 9,
      kvHeads: 3,
      headDim: 64,
      vocabSize: 49_152,
      contextLength: 8192,
    },
    files: { "model.onnx.data": { bytes: weightsMiB * MIB, sha256: "" } },
  };
}

const ENCODER: PlannedManifest = {
  name: "minilm",
  architecture: {
    layers: 6,
    hiddenSize: 384,
    queryHeads: 12,
    kvHeads: 12,
    headDim: 32,
    vocabSize: 30_522,
    contextLength: 256,
  },
  files: { "model.onnx.data": { bytes: 25 * MIB, sha256: "" } },
  embedding: { pooling: "mean", normalized: true, dimensions: [] },
};

function decoders({ models }: ReturnType<typeof planMemory>): readonly DecoderPlan[] {
  return models.filter((model) => model.task === "generate");
}

describe("keys and values", () => {
  test("12 slots × 2048 tokens take 1080 MiB in 32 bits, and 540 MiB in a GPU's 16", () => {
    const [cpu] = decoders(planMemory([decoder("a", 135)], SETTINGS, PLENTY));
    // 11,520 numbers × 4 bytes × 2048 × 12 = 1,132,462,080 bytes.
    expect([cpu?.tokenBytes, cpu?.kvBytes]).toEqual([46_080, 1080 * MIB]);
    const [gpu] = decoders(planMemory([decoder("a", 135)], { ...SETTINGS, provider: "cuda" }, PLENTY));
    expect([gpu?.tokenBytes, gpu?.kvBytes]).toEqual([23_040, 540 * MIB]);
  });

  test("a context of 0 is all that the model was trained for, and a longer one no longer", () => {
    for (const context of [0, 100_000]) {
      const [plan] = decoders(planMemory([decoder("a", 135)], { ...SETTINGS, context }, PLENTY));
      expect([plan?.largest, plan?.kvBytes]).toEqual([{ slots: 12, capacity: 8192 }, 4320 * MIB]);
    }
  });

  test("take half of the machine at most, and what is left beside everything else", () => {
    const half = planMemory([decoder("a", 135)], SETTINGS, { totalBytes: 2 * 900 * MIB, availableBytes: 60 * GIB });
    expect(decoders(half)[0]?.kvBytes).toBe(900 * MIB);
    const machine = { totalBytes: 64 * GIB, availableBytes: 1500 * MIB };
    const left = planMemory([decoder("a", 135)], SETTINGS, machine);
    expect(left.bytes).toBeLessThanOrEqual(1500 * MIB);
    expect(left.bytes).toBeGreaterThan(1499 * MIB);
    expect(decoders(left)[0]?.kvBytes).toBeLessThan(1080 * MIB);
  });

  test("of several models share in proportion, so that each has the same part of its rows", () => {
    // The second has a quarter of the first's layers... and so of its keys and values.
    const small = decoder("b", 40);
    const other = { ...small, architecture: { ...small.architecture, layers: 10 } };
    const asked = { ...SETTINGS, kvBytes: 720 * MIB };
    const plan = planMemory([decoder("a", 135), ENCODER, other], asked, PLENTY);
    // They want 1080 and 360 MiB: 1440 in all, and get half of it.
    expect(decoders(plan).map(({ kvBytes }) => kvBytes)).toEqual([540 * MIB, 180 * MIB]);
    expect(decoders(plan).map(({ prefixCacheBytes }) => prefixCacheBytes)).toEqual([192 * MIB, 64 * MIB]);
    expect(plan.models.map(({ task }) => task)).toEqual(["generate", "embed", "generate"]);
  });

  test("that are more than the rows can ever use count as what these use", () => {
    const [plan] = decoders(planMemory([decoder("a", 135)], { ...SETTINGS, kvBytes: 8 * GIB }, PLENTY));
    expect(plan?.kvBytes).toBe(1080 * MIB);
  });
});

test("weights are packed once for all sessions through the C API, and anew for each of the stock binding's", () => {
  const [capi] = planMemory([decoder("a", 135)], SETTINGS, PLENTY).models;
  expect([capi?.weights, capi?.sessions, capi?.mapped]).toEqual([135 * MIB, 16 * MIB, 135 * MIB]);
  const [binding] = planMemory([decoder("a", 135)], { ...SETTINGS, runtime: "binding" }, PLENTY).models;
  expect([binding?.weights, binding?.sessions]).toEqual([135 * MIB, 270 * MIB]);
});

test("the sum is everything that is fixed and everything that grows, and files in place are in no sum", () => {
  const plan = planMemory([decoder("a", 135)], SETTINGS, PLENTY);
  const [model] = decoders(plan);
  if (model === undefined) throw new Error("nothing was planned");
  // A run: 24 MiB, scores of 128 × 2048 × 9, states of 128 × 576 × 16, logits of 12 × 49,152 twice, in floats.
  expect(model.run).toBe(24 * MIB + 4 * (128 * 2048 * 9 + 128 * 576 * 16 + 2 * 12 * 49_152));
  expect(plan.bytes).toBe(135 * MIB + 16 * MIB + model.run + model.threads + 1080 * MIB + 256 * MIB);
});

test("is told in the operator's words, a line for each model and one for all", () => {
  const lines = describePlan(planMemory([decoder("smol", 135), ENCODER], SETTINGS, PLENTY));
  expect(lines).toHaveLength(3);
  expect(lines[0]).toMatch(
    /^smol: weights 135 MiB \(further sessions 16 MiB\), KV 12 slots × 2048 tokens = 1080 MiB, prefix cache 256 MiB, run \d+ MiB, threads and tokenizers \d+ MiB$/,
  );
  expect(lines[1]).toMatch(/^minilm: weights 25 MiB .*, batches of 1024 tokens, run \d+ MiB/);
  expect(lines[2]).toMatch(/^memory: \d+ MiB of the 61440 MiB that can be had, beside 160 MiB of files/);
  const [short] = describePlan(planMemory([decoder("smol", 135)], { ...SETTINGS, kvBytes: 100 * MIB }, PLENTY));
  expect(short).toContain("KV 100 MiB of 12 slots × 2048 tokens = 1080 MiB");
});

/** The sentence that a plan is refused with; `undefined` where it is not. */
function refusal(
  manifests: readonly PlannedManifest[],
  changes: Partial<PlanSettings>,
  machine = PLENTY,
): string | undefined {
  const settings = { ...SETTINGS, ...changes };
  try {
    requireMemory(planMemory(manifests, settings, machine), settings);
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(MemoryError);
    return (thrown as MemoryError).message;
  }
  return undefined;
}

describe("what can't fit is refused in one sentence", () => {
  const two = [decoder("a", 135), decoder("b", 300), ENCODER];

  test("what fits is not", () => {
    expect(refusal(two, {})).toBeUndefined();
    expect(refusal([ENCODER], { memoryBytes: 200 * MIB })).toBeUndefined();
  });

  test("even with one row each", () => {
    const machine = { totalBytes: 64 * GIB, availableBytes: 700 * MIB };
    expect(refusal(two, {}, machine)).toMatch(
      /^the models need \d+ MiB of memory \(a \d+ MiB, b \d+ MiB, minilm \d+ MiB\), and 700 MiB can be had: lower COLDPATH_CONTEXT or COLDPATH_PREFIX_CACHE_BYTES or COLDPATH_EMBED_BATCH_TOKENS, or name fewer models in COLDPATH_MODEL$/,
    );
    // The knobs it names do help.
    expect(refusal(two.slice(0, 1), { context: 512, prefixCacheBytes: 0 }, machine)).toBeUndefined();
  });

  test("with as many bytes of keys and values as were asked for", () => {
    expect(refusal([decoder("a", 135)], { kvBytes: GIB, memoryBytes: GIB })).toMatch(
      /^a needs \d+ MiB of memory, and 1024 MiB can be had: lower COLDPATH_KV_BYTES or COLDPATH_PREFIX_CACHE_BYTES, or take a smaller model/,
    );
  });

  test("the operator's word goes before what the machine says", () => {
    const full = { totalBytes: GIB, availableBytes: 0 };
    expect(refusal([decoder("a", 135)], {}, full)).toBeDefined();
    expect(refusal([decoder("a", 135)], { memoryBytes: 4 * GIB }, full)).toBeUndefined();
  });

  test("keys and values that hold no row at all, or that no machine has", () => {
    expect(refusal([decoder("a", 135)], { kvBytes: 1000 })).toMatch(
      /^COLDPATH_KV_BYTES=1000 is too little for any row/,
    );
    expect(refusal([decoder("a", 135)], { kvBytes: 1e15 })).toMatch(/^COLDPATH_KV_BYTES=1000000000000000 is more than/);
  });
});
