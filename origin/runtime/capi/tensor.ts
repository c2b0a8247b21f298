/**
 * Tensors over memory that JavaScript or a mapped file owns: ONNX Runtime reads and writes that very memory. A tensor
 * does not keep its memory alive; whoever holds the handle holds the array.
 */
import koffi from "koffi";
import { ELEMENT_TYPES, type ElementType } from "../../onnx/onnx-graph.ts";
import type { Handle, OrtApi } from "./ort-api.ts";

export interface TensorMemory {
  readonly address: bigint;
  readonly bytes: number;
  readonly type: ElementType;
  readonly dimensions: readonly number[];
}

/** @returns a handle of the kind `value` */
export function makeTensor(api: OrtApi, memoryInfo: Handle, memory: TensorMemory): Handle {
  const { address, bytes, type, dimensions } = memory;
  const shape = BigInt64Array.from(dimensions, BigInt);
  return api.make(
    "createTensorWithDataAsOrtValue",
    memoryInfo,
    address,
    bytes,
    shape,
    dimensions.length,
    ELEMENT_TYPES[type],
  );
}

/** Has a tensor for as long as it takes to bind it: a binding keeps it on, and whoever owns the memory the memory. */
export function withTensor(
  api: OrtApi,
  memoryInfo: Handle,
  memory: TensorMemory,
  bind: (tensor: Handle) => void,
): void {
  const tensor = makeTensor(api, memoryInfo, memory);
  try {
    bind(tensor);
  } finally {
    api.release("value", tensor);
  }
}

/** A tensor of an allocator's own memory, which goes with it. The memory holds anything. @returns a handle of the kind `value` */
export function allocateTensor(
  api: OrtApi,
  allocator: Handle,
  { type, dimensions }: Pick<TensorMemory, "type" | "dimensions">,
): Handle {
  const shape = BigInt64Array.from(dimensions, BigInt);
  return api.make("createTensorAsOrtValue", allocator, shape, dimensions.length, ELEMENT_TYPES[type]);
}

/** Where a tensor's first number is, in whichever memory it lies. */
export function tensorAddress(api: OrtApi, tensor: Handle): bigint {
  return api.make("getTensorMutableData", tensor);
}

/**
 * Where an array's first number is. Only of arrays made over an `ArrayBuffer` of their own, which stays where it is;
 * a small array made by length alone lives in the collected heap and is moved.
 */
export function addressOf(array: ArrayBufferView<ArrayBuffer>): bigint {
  return koffi.address(array);
}
