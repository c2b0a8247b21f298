/// <reference lib="esnext.float16" />
/** Numbers in half precision, for scales that nothing they were made for may be cut off by. */
import { ImportError } from "../../manifest/import-error.ts";

/**
 * A scale in half precision, never smaller than the exact one.
 *
 * @param exact - not negative
 * @param largest - the weight that it was made for, for the message
 * @throws {ImportError} `unsupported-model` where there is none
 */
export function halfScale(exact: number, largest: number): number {
  const nearest = Math.f16round(exact);
  const half = nearest < exact ? nextHalf(nearest) : nearest;
  if (Number.isFinite(half)) return half;
  throw new ImportError("unsupported-model", `a model with weights as large as ${largest} can't be quantized`);
}

/** The next larger number in half precision, of one that is not negative. */
function nextHalf(half: number): number {
  const bits = new Uint16Array(Float16Array.of(half).buffer);
  bits[0]! += 1;
  return new Float16Array(bits.buffer)[0]!;
}
