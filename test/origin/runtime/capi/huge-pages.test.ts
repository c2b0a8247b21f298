/** Whether memory gets huge pages is the system's to say, so what is asked for is read from its own account: `smaps`. */
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { collectIntoHugePages } from "../../../../origin/runtime/capi/huge-pages.ts";
import { addressOf } from "../../../../origin/runtime/capi/tensor.ts";

const OFFER = "/sys/kernel/mm/transparent_hugepage/enabled";
const isOffered = existsSync(OFFER) && !readFileSync(OFFER, "utf8").includes("[never]");
const MEBIBYTE = 2 ** 20;

function makeBytes(mebibytes: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(new ArrayBuffer(mebibytes * MEBIBYTE));
}

function fail(): never {
  throw new RangeError("no such file");
}

/** Whether the memory in the middle of an array is marked for huge pages; false where the system does not say. */
function isMarked(bytes: Uint8Array<ArrayBuffer>): boolean {
  if (!isOffered) return false;
  const address = addressOf(bytes) + BigInt(bytes.length >> 1);
  const mappings = readFileSync("/proc/self/smaps", "utf8").split(/\n(?=[\da-f]+-[\da-f]+ )/);
  const mapping = mappings.find((one) => {
    const [, from, to] = /^([\da-f]+)-([\da-f]+) /.exec(one) ?? [];
    return BigInt(`0x${from ?? 0}`) <= address && address < BigInt(`0x${to ?? 0}`);
  });
  return /VmFlags:.* hg\b/.test(mapping ?? "");
}

describe("huge pages", () => {
  test("take over what some work has allocated, with all that is in it", () => {
    const before = makeBytes(48).fill(1);
    const kept = collectIntoHugePages(() => {
      const made = makeBytes(48);
      for (let i = 0; i < made.length; i++) made[i] = i & 127;
      return made;
    });
    expect(isMarked(kept)).toBe(isOffered);
    for (let page = 0; page < kept.length; page += 4_093) expect(kept[page]).toBe(page & 127);
    for (let page = 0; page < before.length; page += 4_093) expect(before[page]).toBe(1);
  });

  test("leave a failure of the work its own", () => {
    expect(() => collectIntoHugePages(fail)).toThrow(new RangeError("no such file"));
  });
});
