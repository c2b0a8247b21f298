/**
 * The imported graphs against the architecture's definition: every position's logits, the first by prefill and the
 * others by decode. Quantized graphs are held to their own codes; what those lose is `npm run bench -- quality`.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { DEFAULT_WEIGHT_FORMAT, WEIGHT_FORMATS, type WeightFormatName } from "../../../origin/onnx/weight-formats.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import type { TensorName } from "../../../origin/import/checkpoint/checkpoint.ts";
import { openGguf } from "../../../origin/import/sources/gguf.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { readCheckpoint } from "../../../origin/import/architectures/read-checkpoint.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { rotateCheckpoint } from "../../../origin/import/quantize/rotate.ts";
import { TOKENIZER_FILE } from "../../../origin/manifest/manifest.ts";
import { createRuntime } from "../../../origin/runtime/create-runtime.ts";
import { type TinyCheckpointOptions, writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";
import { asStored, squareMatrices } from "./as-stored.ts";
import { referenceLogits, type ReferenceModel } from "./reference-decoder.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-fidelity-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** The largest difference between the graph's and the definition's logits, over all positions. */
async function largestDifference(
  path: string,
  definition: Omit<ReferenceModel, "tensor">,
  tokens: readonly number[],
  format: WeightFormatName = "fp32",
): Promise<number> {
  const config = readImportConfig({ COLDPATH_MODELS_DIR: folder });
  const imported = await ensureModel({ model: path, format, config, progress: silentProgress, fetch });
  using file = openGguf(path);
  const read = readCheckpoint(file);
  const checkpoint = WEIGHT_FORMATS[format].rotated ? rotateCheckpoint(read, WEIGHT_FORMATS[format].rotated) : read;
  const tensor = (name: TensorName) => asStored(checkpoint, WEIGHT_FORMATS[format], name, checkpoint.tensor(name));
  const expected = referenceLogits({ ...definition, ...squareMatrices(checkpoint), tensor }, tokens);
  using runtime = await createRuntime({
    backend: "capi",
    folder: imported.folder,
    slots: 2,
    capacity: 64,
    threads: 1,
  });
  runtime.resize({ ...runtime.limits, kept: [] });
  let largest = 0;
  for (const [position, token] of tokens.entries()) {
    const one = Int32Array.of(token);
    const nothing = new Int32Array(0);
    const logits = await runtime.step(
      position === 0
        ? { decode: { tokens: nothing, pasts: nothing }, prefill: { slot: 0, tokens: one, past: 0, sampled: 1 } }
        : { decode: { tokens: one, pasts: Int32Array.of(position) } },
    );
    expect(logits).toHaveLength(expected[position]!.length);
    for (const [id, logit] of expected[position]!.entries()) {
      largest = Math.max(largest, Math.abs(logit - logits[id]!));
    }
  }
  return largest;
}

const tiny = { layers: 2, queryHeads: 4, kvHeads: 2, headDim: 32, ropeBase: 10_000, normEpsilon: 1e-5 };
const tokens = [1, 70, 8, 260, 3, 3, 199, 271, 44, 5, 130, 2];

describe("the imported fp32 graph computes the architecture's logits", () => {
  const cases: readonly (readonly [string, TinyCheckpointOptions, Omit<ReferenceModel, "tensor">])[] = [
    ["with tied embeddings", {}, { ...tiny, tied: true }],
    ["with an LM head of its own", { tied: false, seed: 2 }, { ...tiny, tied: false }],
    [
      "with Llama 3's RoPE factors",
      { seed: 3, ropeFactors: Array.from({ length: 16 }, (_, i) => 1 + i / 2) },
      { ...tiny, tied: true, ropeFactors: Array.from({ length: 16 }, (_, i) => 1 + i / 2) },
    ],
    [
      "with linearly scaled RoPE",
      {
        seed: 4,
        metadata: {
          "llama.rope.scaling.type": { type: "string", value: "linear" },
          "llama.rope.scaling.factor": { type: "float32", value: 4 },
        },
      },
      { ...tiny, tied: true, ropeFactors: Array.from({ length: 16 }, () => 4) },
    ],
    [
      "with as many key heads as query heads, and heads that do not add up to the hidden size",
      { seed: 5, queryHeads: 3, kvHeads: 3, headDim: 16, hiddenSize: 96, layers: 1 },
      { ...tiny, layers: 1, queryHeads: 3, kvHeads: 3, headDim: 16, tied: true },
    ],
  ];
  test.each(cases)("%s", async (name, options, definition) => {
    const path = join(folder, `${name.replaceAll(/[^a-z]/gi, "")}.gguf`);
    writeTinyCheckpoint(path, options);
    // Logits are within about ±12; fp32 sums in another order differ by some 1e-6 of that.
    expect(await largestDifference(path, definition, tokens)).toBeLessThan(1e-4);
  });

  test("on the real weights of SmolLM2-135M-Instruct", async () => {
    // The numbers of the published config.json.
    const smollm2 = {
      layers: 30,
      queryHeads: 9,
      kvHeads: 3,
      headDim: 64,
      ropeBase: 100_000,
      normEpsilon: 1e-5,
      tied: true,
    };
    // "<|im_start|>user\nHi<|im_end|>\n<|im_start|>"
    const prompt = [1, 4093, 198, 26843, 2, 198, 1];
    expect(await largestDifference(inject("modelFile"), smollm2, prompt)).toBeLessThan(2e-3);
  });
});

describe("the imported real model predicts what llama.cpp predicts", () => {
  // node-llama-cpp 3.22.1 (llama.cpp v0.5.0, CPU) on the same GGUF: the likeliest next tokens and their probabilities.
  // llama.cpp computes on Q4_1 with 8-bit activations, so a few hundredths apart is equal; a wrong rotation is not.
  const assistant = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
  const chat = `<|im_start|>system\n${assistant}<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n`;
  const cases: readonly (readonly [string, Readonly<Record<string, number>>])[] = [
    ["The capital of France is", { " Paris": 0.78, " the": 0.0617, " London": 0.0129 }],
    ["Once upon a time", { ",": 0.9359, " in": 0.0152, " there": 0.0064 }],
    [`${chat}<|im_start|>assistant\n`, { L: 0.1569, The: 0.1232, La: 0.1058, Al: 0.0628, Le: 0.0592 }],
  ];
  test.each(["fp32", DEFAULT_WEIGHT_FORMAT] as const)("in %s", async (format) => {
    const config = readImportConfig({ COLDPATH_MODELS_DIR: folder });
    const model = inject("modelFile");
    const imported = await ensureModel({ model, name: format, format, config, progress: silentProgress, fetch });
    const json = readFileSync(join(imported.folder, TOKENIZER_FILE), "utf8");
    const tokenizer = new Tokenizer(JSON.parse(json) as object, {});
    using runtime = await createRuntime({
      backend: "capi",
      folder: imported.folder,
      slots: 1,
      capacity: 64,
      threads: 2,
    });
    runtime.resize({ ...runtime.limits, kept: [] });
    for (const [text, expected] of cases) {
      const ids = Int32Array.from(tokenizer.encode(text, { add_special_tokens: false }).ids);
      const nobody = { tokens: new Int32Array(0), pasts: new Int32Array(0) };
      const prefill = { slot: 0, tokens: ids, past: 0, sampled: 1 };
      const powers = (await runtime.step({ decode: nobody, prefill })).map(Math.exp);
      const sum = powers.reduce((total, power) => total + power, 0);
      for (const [token, probability] of Object.entries(expected)) {
        const [id = -1] = tokenizer.encode(token, { add_special_tokens: false }).ids;
        expect(Math.abs(powers[id]! / sum - probability), `${text} → ${token}`).toBeLessThan(0.05);
      }
    }
  });
});

describe("a quantized graph computes the logits of its own codes", () => {
  // Level 4 also rounds activations to 8 bits; a misread code, scale or zero point is off by whole logits.
  test.each(Object.keys(WEIGHT_FORMATS) as WeightFormatName[])("%s", async (format) => {
    const path = join(folder, "quantized.gguf");
    writeTinyCheckpoint(path, { seed: 6 });
    expect(await largestDifference(path, { ...tiny, tied: true }, tokens, format)).toBeLessThan(0.5);
  });
});
