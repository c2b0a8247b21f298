/**
 * What ONNX Runtime reads out of a quantized matrix: the very weights that the quantizer says are in it, through both
 * operators that read one. `MatMulNBits` is asked by multiplying with unit vectors, which 8-bit activations hold exactly.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InferenceSession, Tensor } from "onnxruntime-node";
import { expect, test } from "vitest";
import type { BlockFormat } from "../../../../origin/onnx/weight-formats.ts";
import { embed } from "../../../../origin/import/graph/embedding.ts";
import { multiply } from "../../../../origin/import/graph/multiply.ts";
import type { Matrix } from "../../../../origin/import/graph/matrix.ts";
import { OnnxGraph } from "../../../../origin/onnx/onnx-graph.ts";
import { dequantizeBlocks, quantizeBlocks } from "../../../../origin/import/quantize/quantize-blocks.ts";
import { WeightsFile } from "../../../../origin/import/graph/weights-file.ts";
import { mulberry32 } from "../../../fakes/mulberry32.ts";

const SHAPE = { rows: 24, columns: 160 };

const FORMATS = ([4, 8] as const).flatMap((bits) =>
  [true, false].flatMap((symmetric) =>
    [32, 64, 128].flatMap((blockSize) =>
      [true, false].map((fitted): BlockFormat => ({ bits, symmetric, blockSize, fitted })),
    ),
  ),
);

test.each(FORMATS)("%j", async (format) => {
  const folder = mkdtempSync(join(tmpdir(), "coldpath-stored-"));
  try {
    const random = mulberry32(7);
    const weights = Float32Array.from({ length: SHAPE.rows * SHAPE.columns }, () => (random() - 0.4) * random());
    const quantized = quantizeBlocks(weights, SHAPE, format);
    const expected = dequantizeBlocks(quantized, SHAPE, format);

    const graph = new OnnxGraph();
    const matrix = store(join(folder, "weights"), quantized, format);
    const tokens = graph.input("tokens", "int32", ["tokens"]);
    const rows = embed(graph, { embeddingScale: 1 }, matrix, tokens);
    const columns = graph.input("columns", "float32", ["columns", SHAPE.columns]);
    multiply({ graph, type: "float32" }, matrix, columns, "product");
    graph.output(rows, "float32", ["tokens", SHAPE.columns]);
    graph.output("product", "float32", ["columns", SHAPE.rows]);
    writeFileSync(join(folder, "model.onnx"), graph.encode());

    const session = await InferenceSession.create(join(folder, "model.onnx"), { intraOpNumThreads: 1 });
    const results = await session.run({
      tokens: new Tensor(
        "int32",
        Int32Array.from({ length: SHAPE.rows }, (_, row) => row),
        [SHAPE.rows],
      ),
      columns: new Tensor("float32", unitVectors(SHAPE.columns), [SHAPE.columns, SHAPE.columns]),
    });
    expect(results[rows]?.data).toEqual(expected);
    const product = results["product"]?.data as Float32Array;
    expect(product).toHaveLength(weights.length);
    for (const [i, weight] of expected.entries()) {
      const [row, column] = [Math.floor(i / SHAPE.columns), i % SHAPE.columns];
      expect(product[column * SHAPE.rows + row]).toBeCloseTo(weight, 6);
    }
    await session.release();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

function unitVectors(size: number): Float32Array {
  const matrix = new Float32Array(size * size);
  for (let i = 0; i < size; i++) matrix[i * size + i] = 1;
  return matrix;
}

function store(
  path: string,
  { packed, scaleCodes, rowScales, zeroPoints }: ReturnType<typeof quantizeBlocks>,
  format: BlockFormat,
): Matrix {
  using file = new WeightsFile(path);
  const blocks = Math.ceil(SHAPE.columns / format.blockSize);
  const codes = file.append("codes", [SHAPE.rows, blocks, packed.length / SHAPE.rows / blocks], packed);
  const stored = {
    kind: "blocks",
    format,
    packed: codes,
    scaleCodes: file.append("scales", [SHAPE.rows, blocks], scaleCodes),
    rowScales: file.append("rows", [SHAPE.rows, 1], rowScales),
    zeroPoints: zeroPoints && file.append("zeros", [SHAPE.rows, zeroPoints.length / SHAPE.rows], zeroPoints),
  } as const;
  return { name: "matrix", ...SHAPE, stored };
}
