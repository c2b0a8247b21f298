/// <reference lib="esnext.float16" />
/** The weights that a format's codes stand for: what an imported graph computes with, before activations are rounded. */
import type { MatrixKind, WeightFormat } from "../../../origin/onnx/weight-formats.ts";
import type { Checkpoint, TensorName } from "../../../origin/import/checkpoint/checkpoint.ts";
import { dequantizeBlocks, quantizeBlocks } from "../../../origin/import/quantize/quantize-blocks.ts";
import { dequantizeRows, quantizeRows } from "../../../origin/import/quantize/quantize-rows.ts";
import { readAll } from "../../../origin/import/checkpoint/rows.ts";
import type { ReferenceModel } from "./reference-decoder.ts";

/** A checkpoint's tensor: matrices through codes and back, norms and biases untouched. */
export function asStored({ config }: Checkpoint, format: WeightFormat, name: TensorName, values: Float32Array) {
  const matrixFormat = format.matrices[kindOf(name)];
  if (name.includes("norm") || name.endsWith("bias")) return values;
  if (typeof matrixFormat === "string") return matrixFormat === "fp32" ? values : Float32Array.from(values, toHalf);
  const { hiddenSize, queryHeads, headDim, ffnSize } = config;
  const columns = name.includes("attn_output")
    ? queryHeads * headDim
    : name.includes("ffn_down")
      ? ffnSize
      : hiddenSize;
  const shape = { rows: values.length / columns, columns };
  if ("scale" in matrixFormat) return dequantizeRows(quantizeRows(values, shape), shape);
  return dequantizeBlocks(quantizeBlocks(values, shape, matrixFormat), shape, matrixFormat);
}

function toHalf(value: number): number {
  return Math.f16round(value);
}

function kindOf(name: TensorName): MatrixKind {
  if (!name.startsWith("blk.")) return "head";
  if (name.includes("attn_")) return "attention";
  return name.includes("ffn_down") ? "down" : "up";
}

/** What the reference decoder is to be told of a checkpoint whose matrices do not all read their inputs as they are. */
export function squareMatrices({
  beforeHead,
  beforeDown,
}: Checkpoint): Pick<ReferenceModel, "beforeHead" | "beforeDown"> {
  return {
    ...(beforeHead && { beforeHead: readAll(beforeHead) }),
    ...(beforeDown && { beforeDown: readAll(beforeDown) }),
  };
}
