/**
 * Address space set aside at once, whose pages cost memory only from their first write until they are given back. What
 * grows inside it stays where it is. Linux only: elsewhere, and where the system has not so many addresses to give
 * (`ulimit -v`, strict overcommit), there is none.
 *
 * Source: mmap(2), madvise(2).
 */
import koffi from "koffi";

const PROT_READ_WRITE = 3;
/** `MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE`: nobody counts on there being memory behind all of it. */
const MAP_RESERVED = 0x2 | 0x20 | 0x4000;
/** `(void*) -1` */
const MAP_FAILED = 2n ** 64n - 1n;
const MADV_DONTNEED = 4;
/** Where the administrator has all memory in pages of 2 MiB, the first byte of each would cost as much. */
const MADV_NOHUGEPAGE = 15;
const PAGE_BYTES = 4096;

export interface ReservedMemory extends Disposable {
  /** As many arrays as were asked for; each begins with a page. Nobody may touch one once this is disposed. */
  readonly arrays: readonly Uint8Array<ArrayBuffer>[];
  /** Gives back the whole pages among an array's bytes `from` (inclusive) to `to` (exclusive); they read as 0 then. */
  giveBack(array: number, from: number, to: number): void;
}

/** @returns `undefined` where so much can't be set aside */
export function reserveMemory(arrays: number, bytes: number): ReservedMemory | undefined {
  if (process.platform !== "linux" || bytes === 0) return undefined;
  const c = koffi.load(null);
  const map = c.func("uintptr_t mmap(uintptr_t at, size_t bytes, int access, int flags, int file, int64_t offset)");
  const unmap = c.func("int munmap(uintptr_t at, size_t bytes)");
  const advise = c.func("int madvise(uintptr_t at, size_t bytes, int advice)");
  const step = roundUp(bytes);
  const address = BigInt(map(0, step * arrays, PROT_READ_WRITE, MAP_RESERVED, -1, 0) as number | bigint);
  if (address === MAP_FAILED) return undefined;
  advise(address, step * arrays, MADV_NOHUGEPAGE);
  const at = (array: number) => address + BigInt(array * step);
  return {
    arrays: Array.from({ length: arrays }, (_, array) => new Uint8Array(koffi.view(at(array), bytes))),
    giveBack: (array, from, to) => {
      const [first, end] = [roundUp(from), to === bytes ? step : to - (to % PAGE_BYTES)];
      if (end > first) advise(at(array) + BigInt(first), end - first, MADV_DONTNEED);
    },
    [Symbol.dispose]: () => void unmap(address, step * arrays),
  };
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / PAGE_BYTES) * PAGE_BYTES;
}
