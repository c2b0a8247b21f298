/**
 * A GGUF file on disk: its metadata, and its tensors read one at a time. Whatever the header claims of a tensor is held
 * against the file's real size before a byte is believed. Knows no architecture.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { ImportError } from "../import-error.ts";
import { ggmlType, ggmlTypeNames } from "./dequantize/element-types.ts";
import { type GgufHeader, type GgufTensor, readGgufHeader } from "./gguf-header.ts";
import { ReadableFile } from "./readable-file.ts";
import { elementCount, type StoredTensor, tensorReader } from "./stored-tensor.ts";
import type { TensorFile } from "./tensor-file.ts";

/**
 * Opens a GGUF file and checks that all of it is there.
 *
 * @throws {ImportError} `unreadable-file`, `invalid-file`, `truncated-file`, or `unsupported-model` for an element type
 * that can't be read and for one part of a model in several files
 */
export function openGguf(path: string): TensorFile {
  const file = new ReadableFile(path);
  try {
    const header = readGgufHeader(file);
    refuseSplit(path, header);
    return {
      format: "gguf",
      path,
      metadata: header.metadata,
      ...tensorReader(path, placeTensors(file, header)),
      readText: () => undefined,
      [Symbol.dispose]: () => file[Symbol.dispose](),
    };
  } catch (error) {
    file[Symbol.dispose]();
    throw error;
  }
}

function refuseSplit(path: string, { metadata }: GgufHeader): void {
  const parts = metadata["split.count"];
  if (typeof parts !== "number" || parts <= 1) return;
  throw new ImportError(
    "unsupported-model",
    `${path} is one of ${parts} parts: join them with llama-gguf-split --merge`,
  );
}

function placeTensors(file: ReadableFile, { tensors, dataOffset }: GgufHeader): Map<string, StoredTensor> {
  const places = new Map<string, StoredTensor>();
  for (const tensor of tensors) {
    if (places.has(tensor.name)) {
      throw new ImportError("invalid-file", `${file.path} has two tensors named ${tensor.name}`);
    }
    places.set(tensor.name, placeTensor(file, tensor, dataOffset));
  }
  checkOverlaps(file.path, places);
  return places;
}

function placeTensor(file: ReadableFile, tensor: GgufTensor, dataOffset: number): StoredTensor {
  const { path, size } = file;
  const { name, shape, dtype } = tensor;
  const type = ggmlType(dtype);
  if (type === undefined) {
    throw new ImportError(
      "unsupported-model",
      `${path} stores ${name} as GGML type ${dtype}, which can't be read; ${ggmlTypeNames()} can`,
    );
  }
  const elements = elementCount(shape);
  if (elements === undefined || elements === 0 || (shape.at(-1) ?? 1) % type.blockSize !== 0) {
    throw new ImportError("invalid-file", `${path} gives ${name} the impossible shape [${shape.join(", ")}]`);
  }
  const bytes = (elements / type.blockSize) * type.blockBytes;
  const offset = dataOffset + tensor.offset;
  if (offset + bytes > size) {
    throw new ImportError(
      "truncated-file",
      `${path} is truncated: ${name} ends at byte ${offset + bytes}, the file at ${size}`,
    );
  }
  return { file, shape, type, offset, bytes };
}

function checkOverlaps(path: string, places: ReadonlyMap<string, StoredTensor>): void {
  const inOrder = [...places].toSorted(([, a], [, b]) => a.offset - b.offset);
  for (const [index, [name, { offset }]] of inOrder.entries()) {
    const [before, previous] = inOrder[index - 1] ?? [];
    if (previous === undefined || previous.offset + previous.bytes <= offset) continue;
    throw new ImportError("invalid-file", `${path} has ${name} begin inside ${before}`);
  }
}
