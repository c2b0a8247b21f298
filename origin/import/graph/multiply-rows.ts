/**
 * Multiplication by a matrix of row-wise codes (`quantize-rows.ts`). A token's activations become 8-bit codes too, by
 * their largest or all tokens' alike, so that all products are of whole numbers and add up exactly: a token's result is the
 * same to the bit whatever is multiplied beside it, and whichever kernel does it.
 *
 * Why beside `MatMulNBits`: that one has a scale for every few inputs, and on x64 without VNNI splits every product in
 * two, lest a sum of two overflows 16 bits. It multiplies 27 thousand million pairs a second and core there (Zen 3), whole
 * numbers 64: sixteen rows take two thirds of the time, prompts less. One row waits for memory and pays for the small nodes
 * around every matrix, some 2 µs each. With VNNI it was 0.75 of the time for prompts and sixteen rows, and 1.3 for one,
 * before it had this form.
 *
 * Source: ONNX Runtime, docs/ContribOperators.md, `com.microsoft.MatMulIntegerToFloat`; scales by token as in Yao et al.
 * 2022, "ZeroQuant", section 4.
 */
import type { ExternalTensor, OnnxGraph } from "../../onnx/onnx-graph.ts";
import { CODE_MAX, ZERO_CODE } from "../quantize-rows.ts";
import { cast, one } from "./nodes.ts";
import type { StoredRows } from "./weights.ts";

/**
 * The outermost code of inputs with a mean square of 1. With many channels mixed into each they are close to normally
 * distributed, and there 3.9 loses least in 8 bits: Banner et al. 2019, "Post training 4-bit quantization of convolutional
 * networks for rapid-deployment", section 3. What is beyond it is cut off.
 */
const NORMED_MAX = 4;

/** `input · matrixᵀ`, from `[any, any, columns]`. */
export function multiplyRows(
  graph: OnnxGraph,
  name: string,
  stored: StoredRows,
  input: string,
  output: string,
): string {
  if (stored.normedInputs) return multiplyCodes(graph, name, stored, { input, max: NORMED_MAX, output });
  const absolute = one(graph.node("Abs", `${name}.in.abs`, [input]));
  // Not -1: of no tokens at all, where none is sampled, ONNX Runtime would reduce nothing.
  const last = graph.constant("last_axis", [2]);
  const size = one(graph.node("ReduceMax", `${name}.in.size`, [absolute, last], { attributes: { keepdims: 1 } }));
  // Where all are 0 this is no number, and any code is right: the result is multiplied by 0.
  const unit = one(graph.node("Div", `${name}.in.unit`, [input, size]));
  const product = multiplyCodes(graph, name, stored, { input: unit, max: 1, output: `${name}.unit` });
  return one(graph.node("Mul", output, [product, size]));
}

/** The product with inputs that `max` is the outermost code of. */
function multiplyCodes(
  graph: OnnxGraph,
  name: string,
  { codes, scales }: StoredRows,
  { input, max, output }: { readonly input: string; readonly max: number; readonly output: string },
): string {
  const step = graph.scalar(`code.step.${max}`, max / CODE_MAX);
  const zero = graph.scalar("code.zero", ZERO_CODE, "uint8");
  const inputCodes = one(graph.node("QuantizeLinear", `${name}.in.codes`, [input, step, zero]));
  const operands = [inputCodes, graph.external(codes), step, scalesOf(graph, scales), zero, zero];
  return one(graph.node("MatMulIntegerToFloat", output, operands, { domain: "com.microsoft" }));
}

/** Rows of the matrix, for each of the tokens `[any, any]`. */
export function gatherRowCodes(graph: OnnxGraph, name: string, { codes, scales }: StoredRows, tokens: string): string {
  // The codes lie by column: a token's are one of each.
  const byColumn = one(
    graph.node("Gather", `${name}.codes`, [graph.external(codes), tokens], { attributes: { axis: 1 } }),
  );
  const numbers = cast(graph, byColumn, "float32");
  const whole = one(graph.node("Sub", `${name}.whole`, [numbers, graph.scalar("code.zero.float", ZERO_CODE)]));
  const tokenScales = one(graph.node("Gather", `${name}.scales`, [scalesOf(graph, scales), tokens]));
  const scaled = one(graph.node("Mul", `${name}.scaled`, [whole, tokenScales]));
  return one(graph.node("Transpose", name, [scaled], { attributes: { perm: [1, 2, 0] } }));
}

/** Constant, so ONNX Runtime casts them once, as it loads. A tied embedding's are read twice. */
function scalesOf(graph: OnnxGraph, scales: ExternalTensor): string {
  return graph.once(`${scales.name}.float32`, () => cast(graph, graph.external(scales), "float32"));
}
