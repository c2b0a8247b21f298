/**
 * A partly downloaded file: the received bytes and the progress of each segment, in one file on disk, so that a download can
 * be resumed after its process was killed at any moment.
 *
 * ```
 * [0, bytes)   the file's bytes; each segment is filled from its beginning, the rest are holes
 * 8 bytes      length of a segment
 * 8 bytes      for each segment: number of bytes received
 * ```
 *
 * A segment's counter is written after its bytes, so it never exceeds the bytes on disk unless the machine loses power. The
 * digest, which is checked at the end, detects that case.
 */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { diskFullError } from "../disk/disk-full.ts";
import { ImportError } from "../../manifest/import-error.ts";

const COUNTER_BYTES = 8;
/** Upper bound of segments, so that the counters stay small. A huge file gets longer segments. */
const SEGMENTS_MAX = 10_000;

export interface Segment {
  readonly index: number;
  /** Position of the segment's first byte in the file. */
  readonly from: number;
  readonly length: number;
  /** Bytes on disk, from the segment's beginning. */
  done: number;
}

export class PartialFile implements AsyncDisposable {
  readonly path: string;
  readonly bytes: number;
  readonly segments: readonly Segment[];
  readonly #file: FileHandle;

  private constructor(path: string, { bytes, segments, file }: PartialFileParts) {
    this.path = path;
    this.bytes = bytes;
    this.segments = segments;
    this.#file = file;
  }

  /** Opens what an earlier attempt left, or starts a new file if there is nothing usable. */
  static async open(
    path: string,
    options: { readonly bytes: number; readonly segmentBytes: number },
  ): Promise<PartialFile> {
    const { bytes } = options;
    const segmentBytes = Math.max(options.segmentBytes, Math.ceil(bytes / SEGMENTS_MAX));
    const segments = cut(bytes, segmentBytes);
    const file = await open(path, constants.O_RDWR | constants.O_CREAT);
    try {
      const tail = Buffer.alloc(COUNTER_BYTES * (1 + segments.length));
      const { size } = await file.stat();
      const { bytesRead } = await file.read(tail, 0, tail.length, bytes);
      const counters = segments.map(({ index }) => Number(tail.readBigUInt64LE(COUNTER_BYTES * (1 + index))));
      const isUsable =
        size === bytes + tail.length &&
        bytesRead === tail.length &&
        Number(tail.readBigUInt64LE(0)) === segmentBytes &&
        segments.every(({ index, length }) => (counters[index] ?? 0) <= length);
      const partial = new PartialFile(path, { bytes, segments, file });
      if (!isUsable) await partial.#begin(segmentBytes);
      else for (const segment of segments) segment.done = counters[segment.index] ?? 0;
      return partial;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Bytes received so far. */
  get done(): number {
    return this.segments.reduce((sum, { done }) => sum + done, 0);
  }

  /** Writes the segment's next bytes. */
  async append(segment: Segment, chunk: Uint8Array): Promise<void> {
    await this.#write(chunk, segment.from + segment.done);
    await this.#count(segment, segment.done + chunk.length);
  }

  /** Resets all counters to 0. */
  async clear(): Promise<void> {
    for (const segment of this.segments) await this.#count(segment, 0);
  }

  /** Removes the counters, so that only the file's bytes remain. */
  async complete(): Promise<void> {
    await this.#truncate(this.bytes);
    await this.#file.datasync();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }

  /** Makes a hole as large as the file, so that old content is never taken for data. */
  async #begin(segmentBytes: number): Promise<void> {
    await this.#truncate(0);
    await this.#truncate(this.bytes + COUNTER_BYTES * (1 + this.segments.length));
    await this.#write(encode(segmentBytes), this.bytes);
  }

  async #count(segment: Segment, done: number): Promise<void> {
    await this.#write(encode(done), this.bytes + COUNTER_BYTES * (1 + segment.index));
    segment.done = done;
  }

  async #truncate(bytes: number): Promise<void> {
    await this.#file.truncate(bytes).catch((cause: NodeJS.ErrnoException) => {
      throw unwritable(this.path, cause);
    });
  }

  async #write(bytes: Uint8Array, position: number): Promise<void> {
    for (let written = 0; written < bytes.length;) {
      written += await this.#file.write(bytes, written, bytes.length - written, position + written).then(
        ({ bytesWritten }) => bytesWritten,
        (cause: NodeJS.ErrnoException) => {
          throw unwritable(this.path, cause);
        },
      );
    }
  }
}

interface PartialFileParts {
  readonly bytes: number;
  readonly segments: readonly Segment[];
  readonly file: FileHandle;
}

function cut(bytes: number, segmentBytes: number): Segment[] {
  return Array.from({ length: Math.ceil(bytes / segmentBytes) }, (_, index) => {
    const from = index * segmentBytes;
    return { index, from, length: Math.min(segmentBytes, bytes - from), done: 0 };
  });
}

function unwritable(path: string, cause: NodeJS.ErrnoException): ImportError {
  const full = diskFullError(cause, path, "the download is kept and will be resumed");
  return full ?? new ImportError("unwritable", `${path} can't be written: ${cause.message}`, { cause });
}

function encode(value: number): Buffer {
  const bytes = Buffer.alloc(COUNTER_BYTES);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
