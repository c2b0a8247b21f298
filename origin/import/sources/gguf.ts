/**
 * A GGUF on disk, in one file or several: its metadata, and its tensors, which are read one at a time. The place of every
 * tensor is checked against the size of the file. Does not depend on architectures.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { ImportError, shown } from "../../manifest/import-error.ts";
import { ggmlType, ggmlTypeNames } from "./dequantize/ggml-types.ts";
import { type GgufHeader, type GgufTensor, readGgufHeader } from "./gguf-header.ts";
import { presentGgufParts } from "./gguf-parts.ts";
import { ReadableFile } from "./readable-file.ts";
import { elementCount, type StoredTensor, tensorReader } from "./stored-tensor.ts";
import type { TensorFile } from "./tensor-file.ts";

/**
 * Opens a GGUF file and checks that it is complete.
 *
 * @param path - the file, or any part of a split file
 * @throws {ImportError} `unreadable-file`, `invalid-file`, `truncated-file`; `unsupported-model` for a type of weights that
 * can't be read
 */
export function openGguf(path: string): TensorFile {
  using opened = new DisposableStack();
  const parts = openParts(path, opened);
  const [first] = parts;
  checkParts(path, parts);
  const tensors = new Map<string, StoredTensor>();
  for (const { file, header } of parts) {
    for (const [name, tensor] of placeTensors(file, header)) {
      if (tensors.has(name)) throw notOneModel(path, `${file.path} has a second tensor ${name}`);
      tensors.set(name, tensor);
    }
  }
  const files = opened.move();
  return {
    format: "gguf",
    path,
    metadata: first.header.metadata,
    ...tensorReader(path, tensors),
    readText: () => undefined,
    [Symbol.dispose]: () => files.dispose(),
  };
}

interface Part {
  readonly file: ReadableFile;
  readonly header: GgufHeader;
}

function openParts(path: string, opened: DisposableStack): readonly [Part, ...Part[]] {
  const open = (part: string): Part => {
    const file = opened.use(new ReadableFile(part));
    return { file, header: readGgufHeader(file) };
  };
  return presentGgufParts(path).map(open) as [Part, ...Part[]];
}

/** Compares the parts' numbers in the metadata with their names and with each other. */
function checkParts(path: string, parts: readonly [Part, ...Part[]]): void {
  const [{ header: first }] = parts;
  const total = first.metadata["split.tensors.count"];
  for (const [index, { file, header }] of parts.entries()) {
    const { "split.no": number, "split.count": count, "split.tensors.count": tensors } = header.metadata;
    const isWhole = count === undefined || count === 0 || count === 1;
    if (parts.length === 1 && isWhole) return;
    if (parts.length === 1) {
      const named = "its name does not end like -00001-of-00003.gguf, so the others can't be found";
      throw notOneModel(path, `its metadata says that it is one of ${shown(count)} files, but ${named}`);
    }
    if (count !== parts.length || number !== index) {
      const metadata = isWhole
        ? "says nothing about other parts"
        : `says that it is number ${shown(number)} of ${shown(count)}, counted from 0`;
      throw notOneModel(path, `the metadata of ${file.path} ${metadata}`);
    }
    if (tensors !== total) {
      const counts = `${shown(tensors)} tensors in all, not ${shown(total)}`;
      throw notOneModel(path, `the metadata of ${file.path} says ${counts}`);
    }
  }
  const found = parts.reduce((sum, { header }) => sum + header.tensors.length, 0);
  if (total !== undefined && total !== found) {
    throw notOneModel(path, `its parts have ${found} tensors, but their metadata says ${shown(total)}`);
  }
}

function notOneModel(path: string, reason: string): ImportError {
  return new ImportError("invalid-file", `${path} and its other parts are not one model: ${reason}`);
}

function placeTensors(file: ReadableFile, { tensors, dataOffset }: GgufHeader): Map<string, StoredTensor> {
  const places = new Map<string, StoredTensor>();
  for (const tensor of tensors) {
    if (places.has(tensor.name)) {
      throw new ImportError("invalid-file", `${file.path} has a duplicate tensor ${tensor.name}`);
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
      `${path} stores ${name} as GGML type ${dtype}, which is not supported; supported are ${ggmlTypeNames()}`,
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
      `${path} is truncated: ${name} ends at byte ${offset + bytes}, but the file at ${size}`,
    );
  }
  return { file, shape, type, offset, bytes };
}

function checkOverlaps(path: string, places: ReadonlyMap<string, StoredTensor>): void {
  const inOrder = [...places].toSorted(([, a], [, b]) => a.offset - b.offset);
  for (const [index, [name, { offset }]] of inOrder.entries()) {
    const [before, previous] = inOrder[index - 1] ?? [];
    if (previous === undefined || previous.offset + previous.bytes <= offset) continue;
    throw new ImportError("invalid-file", `${path} is damaged: the tensor ${name} begins inside ${before}`);
  }
}
