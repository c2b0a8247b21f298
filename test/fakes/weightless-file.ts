/** An opened checkpoint without weights, for what reads only the words in it. */
import type { TensorFile } from "../../origin/import/sources/tensor-file.ts";

export function weightlessFile(
  parts: Pick<TensorFile, "format"> & Partial<Pick<TensorFile, "metadata" | "readText">>,
): TensorFile {
  return {
    path: "tiny",
    metadata: {},
    shapes: new Map(),
    readTensor: noWeights,
    readRows: noWeights,
    readText: () => undefined,
    [Symbol.dispose]: () => undefined,
    ...parts,
  };
}

function noWeights(): never {
  throw new Error("there are no weights in here");
}
