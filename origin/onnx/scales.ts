/// <reference lib="esnext.float16" />
/**
 * What the scales of a quantized matrix are called: the stored parts, and the value that a graph makes of them. Who loads a
 * graph finds them by these names.
 */
import type { ExternalTensor } from "./onnx-graph.ts";

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

/** Of the computed value, `[rows, blocks]`. */
export function scalesName(matrix: string): string {
  return `${matrix}.scales`;
}

/** Every block's scale, `[rows, blocks]`. */
export function blockScales({
  scaleCodes,
  rowScales,
}: {
  readonly scaleCodes: Int8Array;
  readonly rowScales: Float16Array;
}): Float32Array {
  const scales = new Float32Array(scaleCodes.length);
  const blocks = scaleCodes.length / rowScales.length;
  for (const [row, rowScale] of rowScales.entries()) {
    for (let index = row * blocks; index < (row + 1) * blocks; index++) scales[index] = scaleCodes[index]! * rowScale;
  }
  return scales;
}
