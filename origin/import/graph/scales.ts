/**
 * The scales of quantized matrices: how a graph computes them from what is stored, and which a graph computes. All of it is
 * constant, so ONNX Runtime does it once, as it loads.
 */
import { ELEMENT_TYPES, type ExternalTensor, type OnnxGraph } from "../onnx.ts";
import type { StoredBlocks } from "./weights.ts";

const [CODES, ROWS] = [".codes", ".rows"] as const;

/** A matrix's scales, and the weights that they are computed from. */
export interface StoredScales {
  /** Of the computed value: `float32`, of the codes' shape. */
  readonly name: string;
  /** `int8`, `[rows, blocks]`. */
  readonly codes: ExternalTensor;
  /** `float16`, `[rows, 1]`. */
  readonly rows: ExternalTensor;
}

/** What the two parts of a matrix's scales are called in the file of weights. */
export function scaleNames(matrix: string): { readonly codes: string; readonly rows: string } {
  return { codes: `${scalesName(matrix)}${CODES}`, rows: `${scalesName(matrix)}${ROWS}` };
}

/** A matrix's scales, `[rows, blocks]`. @returns the value's name */
export function computeScales(graph: OnnxGraph, matrix: string, { scaleCodes, rowScales }: StoredBlocks): string {
  const name = scalesName(matrix);
  return graph.once(name, () => {
    const widen = (tensor: ExternalTensor): string => {
      const widened = `${tensor.name}.float32`;
      graph.node("Cast", widened, [graph.external(tensor)], { attributes: { to: ELEMENT_TYPES.float32 } });
      return widened;
    };
    graph.node("Mul", name, [widen(scaleCodes), widen(rowScales)]);
    return name;
  });
}

/** The scales that a graph with these weights computes. */
export function findScales(weights: readonly ExternalTensor[]): readonly StoredScales[] {
  const byName = new Map(weights.map((tensor) => [tensor.name, tensor]));
  return weights.flatMap((codes) => {
    if (!codes.name.endsWith(CODES)) return [];
    const name = codes.name.slice(0, -CODES.length);
    const rows = byName.get(`${name}${ROWS}`);
    return rows === undefined ? [] : [{ name, codes, rows }];
  });
}

function scalesName(matrix: string): string {
  return `${matrix}.scales`;
}
