/** A file that is open for reading anywhere in it. Knows its size and nothing of what is in it. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { ImportError } from "../../manifest/import-error.ts";

export class ReadableFile implements Disposable {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly #descriptor: number;

  /** @throws {ImportError} `unreadable-file` */
  constructor(path: string) {
    this.path = path;
    this.#descriptor = openFile(path);
    this.size = fstatSync(this.#descriptor).size;
  }

  /**
   * Reads `length` bytes from `offset` on, into a buffer of their own.
   *
   * @throws {ImportError} `truncated-file` when the file ends before them
   */
  read(offset: number, length: number): Uint8Array<ArrayBuffer> {
    // Before the buffer is made: a length that a file claims may be more than there is memory.
    if (offset + length > this.size) throw this.#endsBefore(offset + length);
    const buffer = new Uint8Array(length);
    // One read returns at most 2 GiB, so a large tensor takes several.
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
    const became = size === this.size ? "is" : "became shorter while it was read and is";
    return new ImportError(
      "truncated-file",
      `${this.path} ${became} truncated: it ends at byte ${size}, what it describes at ${needed}`,
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
