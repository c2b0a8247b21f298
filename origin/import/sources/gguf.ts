/**
 * A GGUF file on disk: its metadata, and its tensors read one at a time. The header is parsed by `@huggingface/gguf`;
 * here everything it claims is held against the file's real size before a byte is believed. Knows no architecture.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { gguf, type GGUFParseOutput } from "@huggingface/gguf";
import { ImportError } from "../import-error.ts";
import { dequantize, type ElementType, ggmlType, ggmlTypeNames } from "./dequantize/element-types.ts";
import type { TensorFile } from "./tensor-file.ts";

interface TensorPlace {
  readonly shape: readonly number[];
  readonly type: ElementType;
  /** Bytes from the beginning of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/**
 * Opens a GGUF file and checks that all of it is there.
 *
 * @throws {ImportError} `unreadable-file`, `invalid-file`, `truncated-file`, or `unsupported-model` for an element type
 * that can't be read
 */
export async function openGguf(path: string): Promise<TensorFile> {
  const fd = openFile(path);
  try {
    const size = fstatSync(fd).size;
    const header = await parseHeader(path, size);
    const places = placeTensors(path, header, size);
    const find = (name: string): TensorPlace => {
      const place = places.get(name);
      if (place === undefined) throw new ImportError("invalid-file", `${path} has no tensor ${name}`);
      return place;
    };
    const read = (place: TensorPlace) => dequantize(readBytes(fd, place, path), place.type);
    return {
      format: "gguf",
      path,
      metadata: { ...header.metadata },
      shapes: new Map([...places].map(([name, { shape }]) => [name, shape])),
      readTensor: (name) => read(find(name)),
      readRows: (name, from, to) => read(rowsOf(find(name), from, to)),
      [Symbol.dispose]: () => closeSync(fd),
    };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

function openFile(path: string): number {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code === "ENOENT" ? "there is no such file" : String(cause);
    throw new ImportError("unreadable-file", `${path} can't be opened: ${reason}`, { cause });
  }
  if (fstatSync(fd).isFile()) return fd;
  closeSync(fd);
  throw new ImportError("unreadable-file", `${path} is not a file`);
}

async function parseHeader(path: string, size: number): Promise<GGUFParseOutput> {
  if (size < 24) throw new ImportError("truncated-file", `${path} has only ${size} bytes, which is no GGUF file`);
  let header: GGUFParseOutput;
  try {
    header = await gguf(path, { allowLocalFile: true });
  } catch (cause) {
    // The parser reads zeros behind the end of a short file, so most cuts end in one of its own complaints.
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ImportError("invalid-file", `${path} is not a sound GGUF file: ${reason}`, { cause });
  }
  const [, end] = header.tensorInfoByteRange;
  if (end > size) {
    throw new ImportError(
      "truncated-file",
      `${path} is truncated: its header ends at byte ${end}, the file at ${size}`,
    );
  }
  return header;
}

function placeTensors(path: string, header: GGUFParseOutput, size: number): Map<string, TensorPlace> {
  const dataOffset = Number(header.tensorDataOffset);
  const places = new Map<string, TensorPlace>();
  for (const { name, shape: dimensions, dtype, offset } of header.tensorInfos) {
    const shape = dimensions.map(Number).toReversed();
    const type = ggmlType(dtype);
    if (places.has(name)) throw new ImportError("invalid-file", `${path} has two tensors named ${name}`);
    if (type === undefined) {
      throw new ImportError(
        "unsupported-model",
        `${path} stores ${name} as GGML type ${dtype}, which can't be read; ${ggmlTypeNames()} can`,
      );
    }
    const elements = shape.reduce((product, dimension) => product * dimension, 1);
    const rowLength = shape.at(-1) ?? 1;
    if (!Number.isSafeInteger(elements) || elements === 0 || rowLength % type.blockSize !== 0) {
      throw new ImportError("invalid-file", `${path} gives ${name} the impossible shape [${shape.join(", ")}]`);
    }
    const bytes = (elements / type.blockSize) * type.blockBytes;
    const start = dataOffset + Number(offset);
    if (start + bytes > size) {
      throw new ImportError(
        "truncated-file",
        `${path} is truncated: ${name} ends at byte ${start + bytes}, the file at ${size}`,
      );
    }
    places.set(name, { shape, type, offset: start, bytes });
  }
  return places;
}

/** The place of some rows, which are whole blocks. */
function rowsOf({ shape, type, offset, bytes }: TensorPlace, from: number, to: number): TensorPlace {
  const columns = shape.at(-1) ?? 1;
  const rowBytes = (columns / type.blockSize) * type.blockBytes;
  if (!(from >= 0 && from <= to && to * rowBytes <= bytes)) throw new RangeError(`there are no rows ${from} to ${to}`);
  return { shape: [to - from, columns], type, offset: offset + from * rowBytes, bytes: (to - from) * rowBytes };
}

function readBytes(fd: number, { offset, bytes }: TensorPlace, path: string): Uint8Array<ArrayBuffer> {
  const buffer = new Uint8Array(bytes);
  // One read returns at most 2 GiB, so a large tensor takes several.
  for (let done = 0; done < bytes;) {
    const count = readSync(fd, buffer, done, bytes - done, offset + done);
    if (count === 0) throw new ImportError("truncated-file", `${path} became shorter while it was read`);
    done += count;
  }
  return buffer;
}
