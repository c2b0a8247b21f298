/**
 * Multiplication by row-wise codes, as ONNX Runtime does it: the very weights that the quantizer says are in the matrix,
 * looked up and multiplied by; a token's result whatever is beside it; and the activations that have no scale.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { embed } from "../../../../origin/import/graph/embedding.ts";
import { multiply } from "../../../../origin/import/graph/multiply.ts";
import { writeMatrix } from "../../../../origin/import/graph/matrix.ts";
import { OnnxGraph } from "../../../../origin/onnx/onnx-graph.ts";
import { dequantizeRows, quantizeRows } from "../../../../origin/import/quantize/quantize-rows.ts";
import { rowsOf } from "../../../../origin/import/checkpoint/rows.ts";
import { WeightsFile } from "../../../../origin/import/graph/weights-file.ts";
import { mulberry32 } from "../../../fakes/mulberry32.ts";

const SHAPE = { rows: 72, columns: 160 };
const FORMAT = { bits: 8, scale: "row" } as const;
const random = mulberry32(3);
const WEIGHTS = Float32Array.from({ length: SHAPE.rows * SHAPE.columns }, () => (random() - 0.4) * random());

let folder = "";
let session: InferenceSession;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-rows-"));
  const graph = new OnnxGraph();
  using file = new WeightsFile(join(folder, "weights"));
  // Two matrices stacked, as queries, keys and values are: a piece of the codes' every column each.
  const cut = 24 * SHAPE.columns;
  const sources = [WEIGHTS.subarray(0, cut), WEIGHTS.subarray(cut)].map((part) => rowsOf(part, SHAPE.columns));
  const matrix = writeMatrix(file, { name: "matrix", sources, columns: SHAPE.columns, format: FORMAT });
  const tokens = graph.input("tokens", "int32", ["batch", "length"]);
  const embedded = embed(graph, { embeddingScale: 1 }, matrix, tokens);
  graph.output(embedded, "float32", ["batch", "length", SHAPE.columns]);
  const input = graph.input("input", "float32", [1, "many", SHAPE.columns]);
  multiply({ graph, type: "float32" }, matrix, input, "product");
  graph.output("product", "float32", [1, "many", SHAPE.rows]);
  const format = { ...FORMAT, normedInputs: true };
  const forNormed = writeMatrix(file, { name: "normed", sources, columns: SHAPE.columns, format });
  multiply({ graph, type: "float32" }, forNormed, input, "normed_product");
  graph.output("normed_product", "float32", [1, "many", SHAPE.rows]);
  writeFileSync(join(folder, "model.onnx"), graph.encode());
  session = await InferenceSession.create(join(folder, "model.onnx"), { intraOpNumThreads: 2 });
});
afterAll(async () => {
  await session.release();
  rmSync(folder, { recursive: true, force: true });
});

async function run(input: Float32Array, tokens: readonly (readonly number[])[] = [[0]]) {
  const many = input.length / SHAPE.columns;
  const ids = Int32Array.from(tokens.flat());
  const results = await session.run({
    tokens: new Tensor("int32", ids, [tokens.length, ids.length / tokens.length]),
    input: new Tensor("float32", input, [1, many, SHAPE.columns]),
  });
  const [embedded, product, normed] = ["embed", "product", "normed_product"].map((name) => results[name]!.data);
  return { embedded, product, normed } as Record<"embedded" | "product" | "normed", Float32Array>;
}

test("holds the quantizer's weights, as products and as a table", async () => {
  const expected = dequantizeRows(quantizeRows(WEIGHTS, SHAPE), SHAPE);
  const units = new Float32Array(SHAPE.columns ** 2);
  for (let i = 0; i < SHAPE.columns; i++) units[i * SHAPE.columns + i] = 1;
  const tokens = [
    [5, 0, 71],
    [23, 24, 5],
  ];
  const { embedded, product } = await run(units, tokens);
  for (const [i, weight] of expected.entries()) {
    const [row, column] = [Math.floor(i / SHAPE.columns), i % SHAPE.columns];
    expect(product[column * SHAPE.rows + row]).toBeCloseTo(weight, 6);
  }
  for (const [place, token] of tokens.flat().entries()) {
    const { columns } = SHAPE;
    const found = embedded.subarray(place * columns, (place + 1) * columns);
    expect(found).toEqual(expected.subarray(token * columns, (token + 1) * columns));
  }
});

/** Of sizes from a thousandth to a thousand. */
function activations(many: number): Float32Array {
  return Float32Array.from({ length: many * SHAPE.columns }, (_, i) => {
    const size = 10 ** ((Math.floor(i / SHAPE.columns) % 7) - 3);
    return (random() - 0.5) * size;
  });
}

describe("a token's result", () => {
  test("is what its codes and the matrix's make, each rounded to a step of its largest", async () => {
    const input = activations(7);
    const { product } = await run(input);
    const weights = dequantizeRows(quantizeRows(WEIGHTS, SHAPE), SHAPE);
    for (let token = 0; token < 7; token++) {
      const values = input.subarray(token * SHAPE.columns, (token + 1) * SHAPE.columns);
      const largest = values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
      for (let row = 0; row < SHAPE.rows; row++) {
        const of = weights.subarray(row * SHAPE.columns, (row + 1) * SHAPE.columns);
        const exact = values.reduce((sum, value, i) => sum + value * of[i]!, 0);
        const bound = (of.reduce((sum, weight) => sum + Math.abs(weight), 0) * largest) / 127 / 2;
        expect(Math.abs(product[token * SHAPE.rows + row]! - exact)).toBeLessThan(bound * 1.01);
      }
    }
  });

  test.each([1, 2, 3, 4, 5, 8, 16, 33])("is the same to the bit alone and among %d", async (many) => {
    const input = activations(many);
    const { product } = await run(input);
    for (let token = 0; token < many; token++) {
      const { product: alone } = await run(input.slice(token * SHAPE.columns, (token + 1) * SHAPE.columns));
      expect(product.slice(token * SHAPE.rows, (token + 1) * SHAPE.rows)).toEqual(alone);
    }
  });

  test("of nothing but zeros is zero, and a neighbour's is not touched", async () => {
    const input = activations(3);
    input.fill(0, SHAPE.columns, 2 * SHAPE.columns);
    const { product } = await run(input);
    expect(product.subarray(SHAPE.rows, 2 * SHAPE.rows).every((value) => value === 0)).toBe(true);
    expect(product.slice(2 * SHAPE.rows)).toEqual((await run(input.slice(2 * SHAPE.columns))).product);
  });

  test.each([NaN, Infinity])("of %s is no number, and a neighbour's is not touched", async (wrong) => {
    const input = activations(2);
    const undisturbed = (await run(input.slice(SHAPE.columns))).product;
    input.fill(wrong, 0, SHAPE.columns);
    const { product } = await run(input);
    expect(product.subarray(0, SHAPE.rows).every((value) => !Number.isFinite(value))).toBe(true);
    expect(product.slice(SHAPE.rows)).toEqual(undisturbed);
  });

  test("of no tokens is nothing", async () => {
    expect((await run(new Float32Array(0))).product).toHaveLength(0);
  });
});

/** Of a normal distribution, but for one in a hundred that is six times as large. */
function normallyDistributed(many: number): Float32Array {
  return Float32Array.from({ length: many * SHAPE.columns }, (_, i) => {
    const value = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    return i % 100 === 0 ? value * 6 : value;
  });
}

/** Below zero there is one code more. */
function cutOff(value: number): number {
  return Math.max((-4 * 128) / 127, Math.min(4, value));
}

describe("where inputs have a mean square of 1", () => {
  test("each is rounded to one of 127 steps to 4, and what is beyond is cut off", async () => {
    const input = normallyDistributed(5);
    const { normed: product } = await run(input);
    const weights = dequantizeRows(quantizeRows(WEIGHTS, SHAPE), SHAPE);
    expect(input.some((value) => Math.abs(value) > 5)).toBe(true);
    for (let token = 0; token < 5; token++) {
      const values = input.subarray(token * SHAPE.columns, (token + 1) * SHAPE.columns);
      for (let row = 0; row < SHAPE.rows; row++) {
        const of = weights.subarray(row * SHAPE.columns, (row + 1) * SHAPE.columns);
        const exact = values.reduce((sum, value, i) => sum + cutOff(value) * of[i]!, 0);
        const bound = (of.reduce((sum, weight) => sum + Math.abs(weight), 0) * 4) / 127 / 2;
        expect(Math.abs(product[token * SHAPE.rows + row]! - exact)).toBeLessThan(bound * 1.01);
      }
    }
  });

  test.each([2, 5, 16, 33])("a token's result is the same to the bit alone and among %d", async (many) => {
    const input = normallyDistributed(many);
    const { normed: product } = await run(input);
    for (let token = 0; token < many; token++) {
      const { normed: alone } = await run(input.slice(token * SHAPE.columns, (token + 1) * SHAPE.columns));
      expect(product.slice(token * SHAPE.rows, (token + 1) * SHAPE.rows)).toEqual(alone);
    }
  });
});
