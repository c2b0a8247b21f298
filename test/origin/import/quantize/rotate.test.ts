/** Rotated checkpoints: the same logits by a forward pass without ONNX, from weights that quantize better. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Checkpoint, memoryCheckpoint, type TensorName } from "../../../../origin/import/checkpoint/checkpoint.ts";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import { readCheckpoint } from "../../../../origin/import/architectures/read-checkpoint.ts";
import { createRotation, rotateCheckpoint } from "../../../../origin/import/quantize/rotate.ts";
import { type TinyCheckpointOptions, writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";
import { squareMatrices } from "../as-stored.ts";
import { referenceLogits } from "../reference-decoder.ts";

let root = "";
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-rotate-"));
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

const TOKENS = [1, 70, 8, 260, 3, 3, 199, 271];

function logitsOf(checkpoint: Checkpoint): Float64Array {
  const { layers, queryHeads, kvHeads, headDim, normEpsilon, tiedEmbeddings: tied } = checkpoint.config;
  const shape = { layers, queryHeads, kvHeads, headDim, normEpsilon, ropeBase: 10_000 };
  const tensor = (name: TensorName) => checkpoint.tensor(name);
  return referenceLogits({ ...shape, ...squareMatrices(checkpoint), tied, tensor }, TOKENS).at(-1)!;
}

/** The largest weight of a matrix over its root mean square: what a scale per block suffers from. */
function crest(weights: Float32Array): number {
  const squares = weights.reduce((sum, weight) => sum + weight ** 2, 0);
  return weights.reduce((max, weight) => Math.max(max, Math.abs(weight)), 0) / Math.sqrt(squares / weights.length);
}

describe("a rotated checkpoint computes the logits of the given one", () => {
  const cases: readonly (readonly [string, TinyCheckpointOptions])[] = [
    ["with tied embeddings", {}],
    ["with an LM head of its own", { tied: false, seed: 2 }],
    ["with a hidden size that is no power of two", { hiddenSize: 96, queryHeads: 3, kvHeads: 1, headDim: 64, seed: 3 }],
    ["with an odd hidden size", { hiddenSize: 33, queryHeads: 2, kvHeads: 2, headDim: 16, ffnSize: 64, seed: 4 }],
    ["with gated values that 64 does not divide", { ffnSize: 160, seed: 6 }],
    ["with gated values that only one divides", { ffnSize: 67, seed: 7 }],
  ];
  const both = cases.flatMap(([name, options]) => [
    ["folded", name, options] as const,
    ["all", name, options] as const,
  ]);
  test.each(both)("%s %s", async (states, name, options) => {
    const path = join(root, `${states}-${name.replaceAll(" ", "-")}.gguf`);
    writeTinyCheckpoint(path, options);
    using file = openGguf(path);
    const checkpoint = readCheckpoint(file);
    const rotated = rotateCheckpoint(checkpoint, states);
    const expected = logitsOf(checkpoint);
    const actual = logitsOf(rotated);
    expect(Math.max(...expected.map(Math.abs))).toBeGreaterThan(1);
    // Weights are rounded to fp32 once more: some 1e-7 of logits within about ±12.
    expect(Math.max(...expected.map((logit, id) => Math.abs(logit - actual[id]!)))).toBeLessThan(1e-4);
  });
});

test("spreads an outlying channel over all of them", async () => {
  const path = join(root, "outlier.gguf");
  writeTinyCheckpoint(path, { seed: 5 });
  using file = openGguf(path);
  const plain = readCheckpoint(file);
  const { hiddenSize } = plain.config;
  // One hidden channel a hundred times as large as its neighbours, as trained decoders have them.
  const outlying = memoryCheckpoint(plain.config, (name) => {
    const weights = plain.tensor(name);
    if (name === "token_embd.weight") for (let at = 7; at < weights.length; at += hiddenSize) weights[at]! *= 100;
    return weights;
  });
  expect(crest(outlying.tensor("token_embd.weight"))).toBeGreaterThan(20);
  expect(crest(rotateCheckpoint(outlying, "folded").tensor("token_embd.weight"))).toBeLessThan(5);
});

describe("a rotation", () => {
  test.each([1, 2, 33, 64, 72, 96])("of %d elements is orthogonal, and the same every time", (size) => {
    const columns = Array.from({ length: size }, (_, at) => {
      const unit = Float64Array.from({ length: size }, (_element, i) => (i === at ? 1 : 0));
      createRotation(size).apply(unit);
      return unit;
    });
    const errors = columns.flatMap((left, a) =>
      columns.map((right, b) => Math.abs(left.reduce((sum, value, i) => sum + value * right[i]!, a === b ? -1 : 0))),
    );
    expect(Math.max(...errors)).toBeLessThan(1e-12);
  });

  test("leaves no element of a lone channel, nor of a constant, larger than a few times the mean", () => {
    for (const vector of [new Float64Array(576).fill(1), Float64Array.from({ length: 576 }, (_, i) => +(i === 9))]) {
      const length = Math.hypot(...vector);
      createRotation(576).apply(vector);
      const largest = Math.max(...vector.map(Math.abs));
      expect(largest / (length / Math.sqrt(576))).toBeLessThan(4);
    }
  });
});
