/**
 * Maps a file into memory, read only: its pages are the system's page cache, shared by all processes and given back
 * under pressure, and files of any size are mapped at once, where `readFile` stops at 2 GiB and copies. POSIX only.
 */
import { closeSync, fstatSync, openSync } from "node:fs";
import koffi from "koffi";
import { RuntimeError } from "../port/runtime.ts";

const PROT_READ = 1;
const MAP_PRIVATE = 2;
/** `(void*) -1` */
const MAP_FAILED = 2n ** 64n - 1n;

export interface MappedFile extends Disposable {
  /** Where the file's first byte is. Nothing may read there once this is disposed. */
  readonly address: bigint;
  readonly bytes: number;
}

/** @throws {RuntimeError} when the file can't be opened or mapped */
export function mapFile(path: string): MappedFile {
  const c = koffi.load(null);
  const map = c.func("uintptr_t mmap(uintptr_t at, size_t bytes, int access, int flags, int file, int64_t offset)");
  const unmap = c.func("int munmap(uintptr_t at, size_t bytes)");
  const { descriptor, bytes } = openForMapping(path);
  try {
    const address = BigInt(map(0, bytes, PROT_READ, MAP_PRIVATE, descriptor, 0) as number | bigint);
    if (address === MAP_FAILED) throw new RuntimeError(`${path} can't be mapped into memory`);
    return { address, bytes, [Symbol.dispose]: () => void unmap(address, bytes) };
  } finally {
    // The mapping outlives the descriptor.
    closeSync(descriptor);
  }
}

function openForMapping(path: string): { readonly descriptor: number; readonly bytes: number } {
  try {
    const descriptor = openSync(path, "r");
    return { descriptor, bytes: fstatSync(descriptor).size };
  } catch (cause) {
    throw new RuntimeError(`${path} can't be opened`, { cause });
  }
}
