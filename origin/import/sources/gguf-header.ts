/**
 * Parses the header of a GGUF file: keys with values, and the place of each tensor. Reads forward, once, and checks every
 * count against the remaining bytes. Does not depend on what keys and tensors mean.
 *
 * `@huggingface/gguf` 0.4 is not used, although the tests compare with it: it reads zeros behind the end of a file, cuts a
 * string that continues in its next chunk, parses a long value again for each chunk, and accepts files of the wrong byte
 * order.
 *
 * Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
 */
import { ImportError, shown } from "../../manifest/import-error.ts";
import { ReadableFile } from "./readable-file.ts";
import type { Metadata } from "./tensor-file.ts";

export interface GgufHeader {
  readonly metadata: Metadata;
  readonly tensors: readonly GgufTensor[];
  /** Start of the tensors' data, in bytes from the beginning of the file. */
  readonly dataOffset: number;
}

/** A tensor as the header describes it, not yet checked. */
export interface GgufTensor {
  readonly name: string;
  /** Dimensions, the contiguous one last. */
  readonly shape: readonly number[];
  /** GGML's number of the type. */
  readonly dtype: number;
  /** Position in bytes from `dataOffset`. */
  readonly offset: number;
}

/**
 * Upper bound of a header, which also bounds time and memory: ten times the largest known one, with a vocabulary of 260,000
 * tokens.
 */
const HEADER_BYTES_MAX = 2 ** 28;
const ARRAY_LENGTH_MAX = 2 ** 22;
const ARRAY_DEPTH_MAX = 4;
/** GGML's own limit. */
const DIMENSIONS_MAX = 4;
const DEFAULT_ALIGNMENT = 32;
/** Bytes of the smallest possible entries. The smallest key is an empty name with a value of one byte. */
const KEY_VALUE_BYTES_MIN = 13;
const TENSOR_BYTES_MIN = 24;

/**
 * Reads a header.
 *
 * @throws {ImportError} `invalid-file`; `truncated-file` if the file ends inside the header
 */
export function readGgufHeader(file: ReadableFile): GgufHeader {
  const at = new Cursor(file);
  readVersion(at);
  const tensorCount = at.count("tensors", TENSOR_BYTES_MIN);
  const keyCount = at.count("keys", KEY_VALUE_BYTES_MIN);
  const metadata = new Map<string, unknown>();
  for (let i = 0; i < keyCount; i++) {
    const key = at.text();
    if (metadata.has(key)) throw at.error(`has a duplicate key ${key}`);
    metadata.set(key, readValue(at, at.uint32(), 0));
  }
  const tensors: GgufTensor[] = [];
  for (let i = 0; i < tensorCount; i++) tensors.push(readTensorInfo(at));
  const alignment = metadata.get("general.alignment") ?? DEFAULT_ALIGNMENT;
  if (typeof alignment !== "number" || alignment < 8 || alignment % 8 !== 0) {
    throw at.error(`aligns its tensors to ${shown(alignment)} bytes, which is not a multiple of 8`);
  }
  return {
    metadata: Object.fromEntries(metadata),
    tensors,
    dataOffset: Math.ceil(at.position / alignment) * alignment,
  };
}

function readVersion(at: Cursor): void {
  if (at.uint32() !== 0x46_55_47_47) throw at.error("does not begin with GGUF's magic number");
  const version = at.uint32();
  if (version === 2 || version === 3) return;
  if ((version & 0xffff) === 0) throw at.error("is big-endian; convert it to little-endian");
  throw at.error(`has the GGUF version ${version}; 2 and 3 are supported`);
}

function readTensorInfo(at: Cursor): GgufTensor {
  const name = at.text();
  const dimensions = at.uint32();
  if (dimensions > DIMENSIONS_MAX) {
    throw at.error(`gives ${name} ${dimensions} dimensions; the limit is ${DIMENSIONS_MAX}`);
  }
  const sizes = Array.from({ length: dimensions }, () => Number(at.uint64()));
  return { name, shape: sizes.toReversed(), dtype: at.uint32(), offset: Number(at.uint64()) };
}

/** Readers of values by GGUF's type number, with the bytes of the smallest value. */
const VALUE_TYPES: ReadonlyMap<number, { readonly bytesMin: number; readonly read: (at: Cursor) => unknown }> = new Map(
  [
    [0, { bytesMin: 1, read: (at: Cursor) => at.take(1).getUint8(0) }],
    [1, { bytesMin: 1, read: (at: Cursor) => at.take(1).getInt8(0) }],
    [2, { bytesMin: 2, read: (at: Cursor) => at.take(2).getUint16(0, true) }],
    [3, { bytesMin: 2, read: (at: Cursor) => at.take(2).getInt16(0, true) }],
    [4, { bytesMin: 4, read: (at: Cursor) => at.uint32() }],
    [5, { bytesMin: 4, read: (at: Cursor) => at.take(4).getInt32(0, true) }],
    [6, { bytesMin: 4, read: (at: Cursor) => at.take(4).getFloat32(0, true) }],
    [7, { bytesMin: 1, read: (at: Cursor) => at.flag() }],
    [8, { bytesMin: 8, read: (at: Cursor) => at.text() }],
    [10, { bytesMin: 8, read: (at: Cursor) => plain(at.uint64()) }],
    [11, { bytesMin: 8, read: (at: Cursor) => plain(at.take(8).getBigInt64(0, true)) }],
    [12, { bytesMin: 8, read: (at: Cursor) => at.take(8).getFloat64(0, true) }],
  ],
);
const ARRAY = 9;
const ARRAY_BYTES_MIN = 12;

function readValue(at: Cursor, type: number, depth: number): unknown {
  if (type === ARRAY) return readArray(at, depth + 1);
  const known = VALUE_TYPES.get(type);
  if (known === undefined) throw at.error(`has a value of the unknown type ${type}`);
  return known.read(at);
}

function readArray(at: Cursor, depth: number): unknown[] {
  if (depth > ARRAY_DEPTH_MAX) throw at.error(`has lists nested more than ${ARRAY_DEPTH_MAX} deep`);
  const type = at.uint32();
  const length = at.count("elements in a list", VALUE_TYPES.get(type)?.bytesMin ?? ARRAY_BYTES_MIN);
  if (length > ARRAY_LENGTH_MAX) throw at.error(`has a list of ${length} elements; the limit is ${ARRAY_LENGTH_MAX}`);
  const elements: unknown[] = [];
  for (let i = 0; i < length; i++) elements.push(readValue(at, type, depth));
  return elements;
}

/** A number if it is exact, otherwise the bigint. */
function plain(value: bigint): number | bigint {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : value;
}

/** A position in the file that moves forward. */
class Cursor {
  readonly #file: ReadableFile;
  /** End of reading: the end of the file or the limit of a header, whichever comes first. */
  readonly #end: number;
  /** Bytes of the file from `#windowStart` on. */
  #window = new Uint8Array(0);
  #windowStart = 0;
  position = 0;

  constructor(file: ReadableFile) {
    this.#file = file;
    this.#end = Math.min(file.size, HEADER_BYTES_MAX);
  }

  /** Reads the next bytes. */
  take(bytes: number): DataView {
    const start = this.#advance(bytes);
    return new DataView(this.#window.buffer, start, bytes);
  }

  uint32(): number {
    return this.take(4).getUint32(0, true);
  }

  uint64(): bigint {
    return this.take(8).getBigUint64(0, true);
  }

  flag(): boolean {
    const byte = this.take(1).getUint8(0);
    if (byte > 1) throw this.error(`has ${byte} as a boolean`);
    return byte === 1;
  }

  text(): string {
    const length = Number(this.uint64());
    const start = this.#advance(length);
    return Buffer.from(this.#window.buffer, start, length).toString("utf8");
  }

  /** Reads a number of entries and checks that the rest of the file can hold them. */
  count(of: string, entryBytesMin: number): number {
    const count = Number(this.uint64());
    if (count * entryBytesMin <= this.#file.size - this.position) return count;
    throw this.error(`claims ${count} ${of}, which do not fit into the rest of the file`);
  }

  error(reason: string, code: "invalid-file" | "truncated-file" = "invalid-file"): ImportError {
    return new ImportError(code, `${this.#file.path} is not a valid GGUF file: it ${reason}`);
  }

  /** Moves on. @returns the start of the bytes in the window */
  #advance(bytes: number): number {
    const from = this.position;
    if (from + bytes > this.#end) {
      if (from + bytes <= this.#file.size) throw this.error(`has a header of more than ${HEADER_BYTES_MAX} bytes`);
      throw this.error(`ends at byte ${this.#file.size}, inside its header`, "truncated-file");
    }
    if (from + bytes > this.#windowStart + this.#window.length) {
      this.#window = this.#file.read(from, Math.min(Math.max(bytes, 2 ** 20), this.#end - from));
      this.#windowStart = from;
    }
    this.position = from + bytes;
    return from - this.#windowStart;
  }
}
