/**
 * Every architecture, from a published configuration and weights to logits: the graph is held to a plain forward pass, and
 * that to what Hugging Face's own implementation computes (transformers.fixture.json). Both sources of one model must be
 * read as one checkpoint.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WEIGHT_FORMATS, type WeightFormat } from "../../../../origin/onnx/weight-formats.ts";
import { readCheckpoint } from "../../../../origin/import/architectures/read-checkpoint.ts";
import type { Checkpoint, LayerTensor, TensorName } from "../../../../origin/import/checkpoint/checkpoint.ts";
import { chooseFormat } from "../../../../origin/import/quantize/choose-format.ts";
import { writeDecoderGraph } from "../../../../origin/import/graph/decoder-graph.ts";
import { isRotatable, rotateCheckpoint } from "../../../../origin/import/quantize/rotate.ts";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import { openSafetensors } from "../../../../origin/import/sources/safetensors.ts";
import { openRuntime, type RuntimeOptions } from "../../../../origin/runtime/create-runtime.ts";
import type { KvType } from "../../../../origin/runtime/port/kv-model.ts";
import type { StepBatch } from "../../../../origin/runtime/port/runtime.ts";
import {
  isConvertible,
  publishedFile,
  type PublishedConfig,
  writePublishedFolder,
  writePublishedGguf,
} from "../../../fakes/published-model.ts";
import { asStored, squareMatrices } from "../as-stored.ts";
import { type ReferenceModel, referenceLogits } from "../reference-decoder.ts";
import { defineModel } from "../reference-models.ts";

const fixture = JSON.parse(readFileSync(new URL("transformers.fixture.json", import.meta.url), "utf8")) as {
  readonly tokens: readonly number[];
  readonly cases: Readonly<
    Record<
      string,
      {
        readonly config: PublishedConfig;
        /** What transformers 5 makes of it. */
        readonly saved: Readonly<Record<string, unknown>>;
        /** By position. */
        readonly logits: Readonly<Record<string, readonly number[]>>;
      }
    >
  >;
};
const TOKENS = fixture.tokens;

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-architectures-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

describe.each(Object.entries(fixture.cases))("%s", (_, { config, saved, logits }) => {
  // Another table of rotations is none of the weights' and the number types' business.
  const testIfPlain = config.rope_scaling === undefined ? test : undefined;
  const testIfConvertible = isConvertible(config) ? test : undefined;
  const definition = defineModel(config);
  const checkpoint = readCheckpoint(publishedFile(config));

  test("the plain forward pass gives transformers' logits", () => {
    const computed = logitsOf(definition, checkpoint);
    for (const [position, expected] of Object.entries(logits)) {
      expect(largestGap(computed[Number(position)]!, expected), `position ${position}`).toBeLessThan(5e-5);
    }
  });

  test("the configuration that transformers 5 saves says the same", () => {
    const again = readCheckpoint(publishedFile(config, { metadata: saved }));
    expect(again.config).toEqual(checkpoint.config);
  });

  testIfConvertible?.("its GGUF file is the same checkpoint", () => {
    const path = join(mkdtempSync(join(root, "gguf-")), "model.gguf");
    writePublishedGguf(path, config);
    using file = openGguf(path);
    const converted = readCheckpoint(file);
    expectClose(converted.config, checkpoint.config);
    for (const name of tensorNames(checkpoint)) expectSame(converted, checkpoint, name);
  });

  test("so is its folder of safetensors", () => {
    const path = mkdtempSync(join(root, "safetensors-"));
    writePublishedFolder(path, config);
    using file = openSafetensors(path);
    const opened = readCheckpoint(file);
    expect(opened.config).toEqual(checkpoint.config);
    for (const name of tensorNames(checkpoint)) expectSame(opened, checkpoint, name);
  });

  test("the fp32 graphs compute its logits, in prompts, chunks, rows and both at once", async () => {
    const expected = logitsOf(definition, checkpoint);
    for (const backend of ["capi", "binding"] as const) {
      const rows = await runGraphs(checkpoint, WEIGHT_FORMATS.fp32, "float32", backend);
      for (const { position, row } of rows) expect(largestGap(row, expected[position]!), backend).toBeLessThan(5e-5);
      expect(rows).toHaveLength(48);
    }
  });

  testIfPlain?.("with attention in half precision they are some thousandths away", async () => {
    const expected = logitsOf(definition, checkpoint);
    for (const { position, row } of await runGraphs(checkpoint, WEIGHT_FORMATS.fp32, "float16")) {
      expect(distance(row, expected[position]!)).toBeLessThan(0.006);
    }
  });

  test.each(["folded", "all"] as const)(
    "rotated (%s), it gives the same logits, or says that it can't be",
    (states) => {
      const rotate = () => rotateCheckpoint(checkpoint, states);
      if (!isRotatable(checkpoint.config)) return expect(rotate).toThrow(RangeError);
      const before = logitsOf(definition, checkpoint);
      const after = logitsOf(definition, rotate());
      for (const [position, row] of after.entries()) expect(largestGap(row, before[position]!)).toBeLessThan(5e-5);
    },
  );

  // Activations are rounded to 8 bits, which in a model this narrow is 0.02 to 0.06.
  const usual = (["int8-rotated", "int8-rows"] as const).map(
    (format) => chooseFormat(checkpoint.config, undefined, format).format,
  );
  testIfPlain?.each([...new Set([...usual, "int4-mixed" as const])])(
    "as %s they compute the logits of their own codes",
    async (name) => {
      const format = WEIGHT_FORMATS[name];
      const source = format.rotated ? rotateCheckpoint(checkpoint, format.rotated) : checkpoint;
      const tensor = remembered((tensorName) => asStored(source, format, tensorName, source.tensor(tensorName)));
      const expected = referenceLogits({ ...definition, ...squareMatrices(source), tensor }, TOKENS);
      for (const { position, row } of await runGraphs(checkpoint, format, "float32")) {
        expect(distance(row, expected[position]!)).toBeLessThan(0.08);
      }
    },
  );
});

/** A row of logits, and the position of the token they follow. */
interface Row {
  readonly position: number;
  readonly row: Float32Array;
}

/** The same tokens in two slots, through every kind of step; longer than the tiny models' windows. */
async function runGraphs(
  checkpoint: Checkpoint,
  format: WeightFormat,
  kvType: KvType,
  backend: RuntimeOptions["backend"] = "capi",
): Promise<readonly Row[]> {
  const folder = mkdtempSync(join(root, "model-"));
  writeDecoderGraph(checkpoint, { folder, format });
  const { config } = checkpoint;
  const options = { backend, folder, slots: 2, capacity: 32, threads: 1, kvType } as const;
  using runtime = await openRuntime(options, config);
  runtime.resize({ ...runtime.limits, kept: [] });
  const rows: Row[] = [];
  for (const { batch, positions } of [...STEPS, ...(runtime.limits.draftTokens > 1 ? GUESSES : [])]) {
    const logits = await runtime.step(batch);
    expect(logits).toHaveLength(positions.length * config.vocabSize);
    for (const [index, position] of positions.entries()) {
      rows.push({ position, row: logits.slice(index * config.vocabSize, (index + 1) * config.vocabSize) });
    }
  }
  rmSync(folder, { recursive: true });
  return rows;
}

const STEPS = [
  step([], { slot: 0, past: 0, tokens: 11 }),
  step([], { slot: 0, past: 11, tokens: 5 }),
  step([16]),
  step([17], { slot: 1, past: 0, tokens: 10 }),
  step([18], { slot: 1, past: 10, tokens: 7 }),
  step([19, 17]),
  // A token right behind a running row's own: a guess.
  step([20, 18], { slot: 0, past: 21, tokens: 1 }),
  step([22, 19], { slot: 1, past: 20, tokens: 1 }),
];
/** Several guesses, which only `float32` has a graph for. */
const GUESSES = [step([23, 21], { slot: 1, past: 22, tokens: 2 })];

/** Feeds each running row the token of its position, and one slot a chunk; logits are wanted of all. */
function step(
  running: readonly number[],
  chunk?: { readonly slot: number; readonly past: number; readonly tokens: number },
): { readonly batch: StepBatch; readonly positions: readonly number[] } {
  const decode = { tokens: Int32Array.from(running, (position) => TOKENS[position]!), pasts: Int32Array.from(running) };
  if (chunk === undefined) return { batch: { decode }, positions: running };
  const { slot, past, tokens } = chunk;
  const fed = Array.from({ length: tokens }, (_, index) => past + index);
  const prefill = { slot, past, sampled: tokens, tokens: Int32Array.from(fed, (position) => TOKENS[position]!) };
  return { batch: { decode, prefill }, positions: [...running, ...fed] };
}

/** By a plain forward pass, after every token. */
function logitsOf(definition: Omit<ReferenceModel, "tensor">, checkpoint: Checkpoint): Float64Array[] {
  const tensor = remembered((name) => checkpoint.tensor(name));
  return referenceLogits({ ...definition, ...squareMatrices(checkpoint), tensor }, TOKENS);
}

/** The reference asks for a tensor with every token. */
function remembered(tensor: ReferenceModel["tensor"]): ReferenceModel["tensor"] {
  const read = new Map<TensorName, Float32Array>();
  return (name) => {
    const values = read.get(name) ?? tensor(name);
    read.set(name, values);
    return values;
  };
}

function tensorNames({ config }: Checkpoint): readonly TensorName[] {
  const { layers, qkvBias, qkNorm, postNorms, tiedEmbeddings } = config;
  const parts: readonly LayerTensor[] = [
    ...(["attn_norm", "attn_q", "attn_k", "attn_v", "attn_output"] as const).map((part) => `${part}.weight` as const),
    ...(["ffn_norm", "ffn_gate", "ffn_up", "ffn_down"] as const).map((part) => `${part}.weight` as const),
    ...(qkvBias ? (["attn_q.bias", "attn_k.bias", "attn_v.bias"] as const) : []),
    ...(qkNorm ? (["attn_q_norm.weight", "attn_k_norm.weight"] as const) : []),
    ...(postNorms ? (["post_attention_norm.weight", "post_ffw_norm.weight"] as const) : []),
  ];
  const ofLayers = Array.from({ length: layers }, (_, layer) => parts.map((part) => `blk.${layer}.${part}` as const));
  const head: readonly TensorName[] = tiedEmbeddings ? [] : ["output.weight"];
  return ["token_embd.weight", "output_norm.weight", ...head, ...ofLayers.flat()];
}

/** To the bit; as bytes, which are compared a thousand times as fast as elements. */
function expectSame(actual: Checkpoint, expected: Checkpoint, name: TensorName): void {
  const bytes = (checkpoint: Checkpoint) => Buffer.from(checkpoint.tensor(name).buffer);
  expect(bytes(actual).equals(bytes(expected)), name).toBe(true);
}

/** Equal, but for what GGUF rounds to `float32`. */
function expectClose(actual: unknown, expected: unknown, path = "config"): void {
  if (typeof expected === "number") {
    expect(Math.abs((actual as number) / expected - 1), path).toBeLessThan(1e-6);
  } else if (typeof expected === "object" && expected !== null) {
    expect(Object.keys(actual as object), path).toEqual(Object.keys(expected));
    for (const [key, value] of Object.entries(expected)) {
      expectClose((actual as Readonly<Record<string, unknown>>)[key], value, `${path}.${key}`);
    }
  } else expect(actual, path).toBe(expected);
}

function largestGap(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length);
  return Array.from(expected).reduce((max, value, i) => Math.max(max, Math.abs(value - actual[i]!)), 0);
}

/** Relative to the expected numbers' size. */
function distance(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let [apart, size] = [0, 0];
  for (let i = 0; i < expected.length; i++) {
    apart += (actual[i]! - expected[i]!) ** 2;
    size += expected[i]! ** 2;
  }
  return Math.sqrt(apart / size);
}
