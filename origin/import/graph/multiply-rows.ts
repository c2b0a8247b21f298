/**
 * Multiplication by a matrix whose rows have one scale each (`quantize/quantize-rows.ts`). The inputs are quantized to 8 bits too,
 * with one scale per token or one constant scale for all tokens. All products are then integers and their sum is exact: the
 * result of a token is the same to the bit whatever else is in the batch and whichever kernel computes it.
 *
 * The alternative, `MatMulNBits`, has a scale for every few inputs. On x64 without VNNI it splits every product in two so
 * that a sum of two can't overflow 16 bits. There (Zen 3) it multiplies 27 thousand million pairs a second and core, integer
 * multiplication 64: sixteen rows take two thirds of the time, prompts less. One row is bound by memory and pays for the
 * small nodes around every matrix, about 2 µs each. With VNNI, an earlier form of this took 0.75 of the time for prompts and
 * sixteen rows, and 1.3 for one row.
 *
 * Source: ONNX Runtime, docs/ContribOperators.md, `com.microsoft.MatMulIntegerToFloat`; scales per token as in Yao et al.
 * 2022, "ZeroQuant", section 4.
 */
import type { ExternalTensor, OnnxGraph } from "../../onnx/onnx-graph.ts";
import { CODE_MAX, ZERO_CODE } from "../quantize/quantize-rows.ts";
import type { Matrix, StoredRows } from "./matrix.ts";
import { cast, one } from "./nodes.ts";

/**
 * Input value of the outermost code, for inputs with a mean square of 1. Every such input mixes many channels, so the inputs
 * are close to normally distributed, and a limit of 3.9 loses least in 8 bits: Banner et al. 2019, "Post training 4-bit
 * quantization of convolutional networks for rapid-deployment", section 3. Larger values are clipped.
 */
const NORMED_MAX = 4;

type RowMatrix = Pick<Matrix<StoredRows>, "name" | "stored">;

/** `input · matrixᵀ`, from `[any, any, columns]`, in `float32`. */
export function multiplyRows(graph: OnnxGraph, matrix: RowMatrix, input: string, output: string): string {
  const { name, stored } = matrix;
  if (stored.normedInputs) return multiplyCodes(graph, matrix, { input, max: NORMED_MAX, output });
  const absolute = one(graph.node("Abs", `${name}.in.abs`, [input]));
  // Axis 2, not -1: with no sampled token the value is empty, and ONNX Runtime would then reduce nothing.
  const last = graph.constant("last_axis", [2]);
  const size = one(graph.node("ReduceMax", `${name}.in.size`, [absolute, last], { attributes: { keepdims: 1 } }));
  // NaN where all inputs are 0. Any code is right there, because the result is multiplied by 0.
  const unit = one(graph.node("Div", `${name}.in.unit`, [input, size]));
  const product = multiplyCodes(graph, matrix, { input: unit, max: 1, output: `${name}.unit` });
  return one(graph.node("Mul", output, [product, size]));
}

/** Quantizes the inputs, so that `max` gets the outermost code, and multiplies. */
function multiplyCodes(
  graph: OnnxGraph,
  { name, stored }: RowMatrix,
  { input, max, output }: { readonly input: string; readonly max: number; readonly output: string },
): string {
  const step = graph.scalar(`code.step.${max}`, max / CODE_MAX);
  const zero = graph.scalar("code.zero", ZERO_CODE, "uint8");
  const inputCodes = one(graph.node("QuantizeLinear", `${name}.in.codes`, [input, step, zero]));
  const operands = [inputCodes, graph.external(stored.codes), step, scalesOf(graph, stored.scales), zero, zero];
  return one(graph.node("MatMulIntegerToFloat", output, operands, { domain: "com.microsoft" }));
}

/** Looks up the matrix row of each token of `[any, any]`. */
export function gatherRowCodes(graph: OnnxGraph, name: string, { codes, scales }: StoredRows, tokens: string): string {
  // The codes are stored by column: a token's codes are one of each.
  const byColumn = one(
    graph.node("Gather", `${name}.codes`, [graph.external(codes), tokens], { attributes: { axis: 1 } }),
  );
  const numbers = cast(graph, byColumn, "float32");
  const whole = one(graph.node("Sub", `${name}.whole`, [numbers, graph.scalar("code.zero.float", ZERO_CODE)]));
  const tokenScales = one(graph.node("Gather", `${name}.scales`, [scalesOf(graph, scales), tokens]));
  const scaled = one(graph.node("Mul", `${name}.scaled`, [whole, tokenScales]));
  return one(graph.node("Transpose", name, [scaled], { attributes: { perm: [1, 2, 0] } }));
}

/**
 * Scales in `float32`. They are constants, so ONNX Runtime casts them once, while it loads the graph. A tied embedding's
 * scales have two readers.
 */
function scalesOf(graph: OnnxGraph, scales: ExternalTensor): string {
  return graph.once(`${scales.name}.float32`, () => cast(graph, graph.external(scales), "float32"));
}
