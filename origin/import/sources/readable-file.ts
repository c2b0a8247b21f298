/** A file that is open for reading at any position. Does not depend on its content. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { ImportError } from "../../manifest/import-error.ts";

export class ReadableFile implements Disposable {
  readonly path: string;
  /** Size in bytes when the file was opened. */
  readonly size: number;
  readonly #descriptor: number;

  /** @throws {ImportError} `unreadable-file` */
  constructor(path: string) {
    this.path = path;
    this.#descriptor = openFile(path);
    this.size = fstatSync(this.#descriptor).size;
  }

  /**
   * Reads `length` bytes from `offset` on into a new buffer.
   *
   * @throws {ImportError} `truncated-file` if the file ends before
   */
  read(offset: number, length: number): Uint8Array<ArrayBuffer> {
    // Checked before the buffer is made: a damaged file may claim a length beyond the machine's memory.
    if (offset + length > this.size) throw this.#endsBefore(offset + length);
    const buffer = new Uint8Array(length);
    // One read returns at most 2 GiB, so a large tensor needs several.
    for (let done = 0; done < length;) {
      const count = readSync(this.#descriptor, buffer, done, length - done, offset + done);
      if (count === 0) throw this.#endsBefore(offset + length);
      done += count;
    }
    return buffer;
  }

  [Symbol.dispose](): void {
    closeSync(this.#descriptor);
  }

  #endsBefore(needed: number): ImportError {
    const { size } = fstatSync(this.#descriptor);
    const reason = size === this.size ? "is truncated" : "was truncated while it was read";
    return new ImportError(
      "truncated-file",
      `${this.path} ${reason}: it ends at byte ${size}, but its content at byte ${needed}`,
    );
  }
}

function openFile(path: string): number {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code === "ENOENT" ? "there is no such file" : String(cause);
    throw new ImportError("unreadable-file", `${path} can't be opened: ${reason}`, { cause });
  }
  if (fstatSync(descriptor).isFile()) return descriptor;
  closeSync(descriptor);
  throw new ImportError("unreadable-file", `${path} is not a file`);
}
