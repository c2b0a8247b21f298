/**
 * The files the graph writer leaves, and the quantized graphs against a forward pass without ONNX over the very weights
 * that their codes stand for: what is left between the two is the rounding of activations to 8 bits.
 */
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { WEIGHT_FORMATS, type WeightFormat } from "../../../../origin/onnx/weight-formats.ts";
import { type Checkpoint, memoryCheckpoint, type TensorName } from "../../../../origin/import/checkpoint/checkpoint.ts";
import { writeDecoderGraph } from "../../../../origin/import/graph/decoder-graph.ts";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import { readCheckpoint } from "../../../../origin/import/architectures/read-checkpoint.ts";
import { type ExternalTensor, readExternalTensors } from "../../../../origin/onnx/onnx-graph.ts";
import { rotateCheckpoint } from "../../../../origin/import/quantize/rotate.ts";
import {
  DECODER_FILE,
  HALF_DECODER_FILE,
  HALF_MIXED_DECODER_FILE,
  MIXED_DECODER_FILE,
  WEIGHTS_FILE,
} from "../../../../origin/manifest/manifest.ts";
import { createCapiRuntime } from "../../../../origin/runtime/capi/capi-runtime.ts";
import { kvTokenBytes } from "../../../../origin/runtime/port/kv-model.ts";
import { type TinyCheckpointOptions, writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";
import { asStored, squareMatrices } from "../as-stored.ts";
import { referenceLogits } from "../reference-decoder.ts";

const TOKENS = [1, 70, 8, 260, 3, 3, 199, 271, 44, 5];
/** Relative to the logits' size; measured 0.010 to 0.020. One token changed in the prompt is 0.85 or more. */
const ROUNDING_MAX = 0.05;

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-graph-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

interface Written {
  readonly folder: string;
  readonly checkpoint: Checkpoint;
  readonly plain: ReadonlyMap<string, ExternalTensor>;
  readonly mixed: ReadonlyMap<string, ExternalTensor>;
  readonly progress: readonly (readonly [done: number, total: number])[];
}

/** Writes a tiny model's graphs. The checkpoint that comes back is in memory, so that it outlives its file. */
async function write(format: WeightFormat, options: TinyCheckpointOptions = {}): Promise<Written> {
  const folder = mkdtempSync(join(root, "model-"));
  const path = join(folder, "tiny.gguf");
  writeTinyCheckpoint(path, options);
  using file = openGguf(path);
  const opened = readCheckpoint(file);
  const read = new Map<TensorName, Float32Array>();
  const checkpoint = memoryCheckpoint(opened.config, (name) => {
    const values = read.get(name) ?? opened.tensor(name);
    read.set(name, values);
    return values;
  });
  const progress: [number, number][] = [];
  writeDecoderGraph(checkpoint, { folder, format, onProgress: (done, total) => progress.push([done, total]) });
  const external = (graph: string): Written["plain"] =>
    new Map(readExternalTensors(readFileSync(join(folder, graph))).map((weight) => [weight.name, weight]));
  return { folder, checkpoint, plain: external(DECODER_FILE), mixed: external(MIXED_DECODER_FILE), progress };
}

const GRAPHS = {
  float32: { plain: DECODER_FILE, mixed: MIXED_DECODER_FILE },
  float16: { plain: HALF_DECODER_FILE, mixed: HALF_MIXED_DECODER_FILE },
} as const;

/** The logits of the last token, from each of the two graphs. */
function runPrompt({ folder, checkpoint }: Written, type: keyof typeof GRAPHS): readonly Float32Array[] {
  const { layers, kvHeads, headDim, vocabSize } = checkpoint.config;
  const kv = { layers, kvHeads, headDim, type };
  const limits = { vocabSize, slots: 2, capacity: 32, tokenBytes: kvTokenBytes(kv), draftTokens: 1 };
  const graphs = GRAPHS[type];
  using runtime = createCapiRuntime({ folder, graphs, limits, kv, threads: 1, provider: "cpu", memory: "host" });
  runtime.resize({ ...limits, kept: [] });
  const none = new Int32Array();
  const prefill = { slot: 0, past: 0, sampled: 1, tokens: Int32Array.from(TOKENS) };
  const alone = Float32Array.from(runtime.step({ decode: { tokens: none, pasts: none }, prefill }));
  const decode = { tokens: Int32Array.of(TOKENS.at(-1)!), pasts: Int32Array.of(TOKENS.length - 1) };
  const both = runtime.step({ decode, prefill: { ...prefill, slot: 1 } });
  return [alone, both.slice(0, vocabSize), both.slice(vocabSize)];
}

function distance(actual: Float32Array, expected: Float64Array): number {
  let [apart, size] = [0, 0];
  for (const [index, value] of expected.entries()) {
    apart += (actual[index]! - value) ** 2;
    size += value ** 2;
  }
  return Math.sqrt(apart / size);
}

describe("the quantized graph computes what its codes stand for", () => {
  // 128 and 192 inputs: blocks of 128 leave the last one half empty. 96: three blocks of 32, one short block of 128.
  const shapes: readonly (readonly [string, TinyCheckpointOptions])[] = [
    ["tied", {}],
    ["with a head of its own", { tied: false, seed: 2 }],
    ["with odd sizes", { hiddenSize: 96, queryHeads: 3, kvHeads: 1, headDim: 64, ffnSize: 160, seed: 3 }],
    ["with as many KV heads as query heads", { queryHeads: 2, kvHeads: 2, layers: 1, seed: 4 }],
  ];
  const formats = Object.values(WEIGHT_FORMATS).filter((format) => format.name !== "fp32");

  describe.each(shapes)("%s", (_, options) => {
    test.each(formats)("$name", async (format) => {
      const written = await write(format, options);
      const checkpoint = format.rotated ? rotateCheckpoint(written.checkpoint, format.rotated) : written.checkpoint;
      const { config } = checkpoint;
      const { layers, queryHeads, kvHeads, headDim, normEpsilon } = config;
      const reference = { layers, queryHeads, kvHeads, headDim, normEpsilon, ropeBase: 10_000 };
      const tensor = (name: TensorName) => asStored(checkpoint, format, name, checkpoint.tensor(name));
      const expected = referenceLogits(
        { ...reference, ...squareMatrices(checkpoint), tied: config.tiedEmbeddings, tensor },
        TOKENS,
      ).at(-1)!;
      for (const type of ["float32", "float16"] as const) {
        for (const logits of runPrompt(written, type)) {
          expect(distance(logits, expected), type).toBeLessThan(ROUNDING_MAX);
        }
      }
    });
  });
});

describe("the weights file", () => {
  test("is shared: both graphs name the same weights at the same places", async () => {
    for (const format of [WEIGHT_FORMATS.int4, WEIGHT_FORMATS.fp32]) {
      const { folder, plain, mixed } = await write(format);
      expect(mixed).toEqual(plain);
      for (const file of [HALF_DECODER_FILE, HALF_MIXED_DECODER_FILE]) {
        const weights = readExternalTensors(readFileSync(join(folder, file)));
        expect(new Map(weights.map((weight) => [weight.name, weight])), file).toEqual(plain);
      }
      expect([...new Set([...plain.values()].map(({ location }) => location.file))]).toEqual([WEIGHTS_FILE]);
    }
  });

  test("holds every weight on cache lines of its own, whole and inside the file", async () => {
    const { folder, plain } = await write(WEIGHT_FORMATS["int4-mixed"], { tied: false });
    const size = statSync(join(folder, WEIGHTS_FILE)).size;
    const places = [...plain.values()].toSorted((a, b) => a.location.offset - b.location.offset);
    let end = 0;
    for (const { name, type, shape, location } of places) {
      expect(location.offset % 64, name).toBe(0);
      const elements = shape.reduce((product, dimension) => product * dimension, 1);
      expect(location.length, name).toBe(elements * (type === "float32" ? 4 : type === "float16" ? 2 : 1));
      // The embedding's codes are there once, under two names.
      if (!name.endsWith(".rows")) expect(location.offset, name).toBeGreaterThanOrEqual(end);
      end = location.offset + location.length;
    }
    expect(end).toBe(size);
  });

  test("keeps tied embeddings once, and reads the LM head's bytes as the table", async () => {
    const tied = await write(WEIGHT_FORMATS.int8);
    expect(tied.plain.get("token_embd.packed.rows")!.location).toEqual(tied.plain.get("token_embd.packed")!.location);
    expect([...tied.plain.keys()].filter((name) => name.startsWith("output"))).toEqual(["output_norm.weight"]);
    const untied = await write(WEIGHT_FORMATS.int8, { tied: false });
    expect(untied.plain.has("output.packed")).toBe(true);
  });

  test("holds the checkpoint's own numbers, q, k and v stacked, in fp32", async () => {
    const { folder, checkpoint, plain } = await write(WEIGHT_FORMATS.fp32);
    const bytes = readFileSync(join(folder, WEIGHTS_FILE));
    const stored = (name: string): Float32Array => {
      const { offset, length } = plain.get(name)!.location;
      return new Float32Array(Uint8Array.from(bytes.subarray(offset, offset + length)).buffer);
    };
    expect(stored("blk.1.ffn_norm.weight")).toEqual(checkpoint.tensor("blk.1.ffn_norm.weight"));
    const parts = (["attn_q", "attn_k", "attn_v"] as const).map((part) => checkpoint.tensor(`blk.1.${part}.weight`));
    const stacked = parts.flatMap((part) => Array.from(part));
    expect([...stored("blk.1.attn_qkv")]).toEqual(stacked);
  });

  test("is the same, byte for byte, when it is written again", async () => {
    const [first, second] = [await write(WEIGHT_FORMATS.int4), await write(WEIGHT_FORMATS.int4)];
    for (const file of [DECODER_FILE, MIXED_DECODER_FILE, WEIGHTS_FILE]) {
      expect(readFileSync(join(first.folder, file)).equals(readFileSync(join(second.folder, file))), file).toBe(true);
    }
  });

  test("reports progress matrix by matrix, to the end", async () => {
    const { progress } = await write(WEIGHT_FORMATS.int4, { tied: false });
    expect(progress).toEqual(Array.from({ length: 10 }, (_, done) => [done + 1, 10]));
  });
});
