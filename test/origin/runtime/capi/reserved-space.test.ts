/** A slab that grows where it is, held to one that moves; what it takes is read from the system's account, `smaps`. */
import { existsSync, readFileSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { createRandom } from "../../../../origin/engine/random.ts";
import { reserveMemory } from "../../../../origin/runtime/capi/reserved-memory.ts";
import { ReservedSpace } from "../../../../origin/runtime/capi/reserved-space.ts";
import { addressOf } from "../../../../origin/runtime/capi/tensor.ts";
import { type KvModel, kvTokenBytes } from "../../../../origin/runtime/port/kv-model.ts";
import { KvSlab } from "../../../../origin/runtime/port/kv-slab.ts";

const SMAPS = "/proc/self/smaps";
const KIBIBYTE = 1024;
const MODEL: KvModel = { layers: 2, kvHeads: 3, headDim: 64, type: "float32" };
const LARGEST = { slots: 4, capacity: 512 };

const open: Disposable[] = [];
afterEach(() => {
  for (const one of open.splice(0)) one[Symbol.dispose]();
});

/** What there is on Linux only; elsewhere a slab moves, as the conformance suite shows. */
const onLinux = describe.runIf(process.platform === "linux" && existsSync(SMAPS));

function reserve(largest = LARGEST): ReservedSpace {
  const space = ReservedSpace.reserve(MODEL, largest);
  if (space === undefined) throw new Error("this system has no addresses to give");
  open.push(space);
  return space;
}

/** The entry of the mapping that an array lies in. */
function mappingOf(bytes: Uint8Array<ArrayBuffer>): string {
  const address = addressOf(bytes);
  const mappings = readFileSync(SMAPS, "utf8").split(/\n(?=[\da-f]+-[\da-f]+ )/);
  const found = mappings.find((one) => {
    const [, from, to] = /^([\da-f]+)-([\da-f]+) /.exec(one) ?? [];
    return BigInt(`0x${from ?? 0}`) <= address && address < BigInt(`0x${to ?? 0}`);
  });
  return found ?? "";
}

function residentBytes(bytes: Uint8Array<ArrayBuffer>): number {
  return Number(/^Rss: +(\d+) kB/m.exec(mappingOf(bytes))?.[1]) * KIBIBYTE;
}

onLinux("reserved memory", () => {
  test("costs what is written, until it is given back, and is zero then", () => {
    const memory = reserveMemory(2, 2 ** 26)!;
    open.push(memory);
    const [first, second] = memory.arrays as [Uint8Array<ArrayBuffer>, Uint8Array<ArrayBuffer>];
    expect(residentBytes(first)).toBeLessThan(2 ** 16);
    second.fill(7, 0, 2 ** 20);
    expect(residentBytes(first)).toBeGreaterThanOrEqual(2 ** 20);
    expect(residentBytes(first)).toBeLessThan(2 ** 20 + 2 ** 16);
    // Only whole pages are given back; what lies around them stays.
    memory.giveBack(1, 1, 2 ** 20 - 1);
    expect(residentBytes(first)).toBeLessThan(2 ** 16);
    expect([second[0], second[4095], second[4096], second[2 ** 20 - 4097], second[2 ** 20 - 1]]).toEqual([
      7, 7, 0, 0, 7,
    ]);
  });

  test("is in small pages, or a slot's first token would cost a large one in every head", () => {
    const { buffers } = reserve();
    expect(mappingOf(buffers[0]!)).toMatch(/VmFlags:.* nh\b/);
  });

  test("of more addresses than there are is not to be had", () => {
    expect(reserveMemory(1, 2 ** 60) === undefined).toBe(true);
    expect(ReservedSpace.reserve(MODEL, { slots: 2 ** 20, capacity: 2 ** 30 }) === undefined).toBe(true);
  });
});

onLinux("a slab in reserved memory", () => {
  test("stays where it is, whatever its shape", () => {
    const slab = new KvSlab(MODEL, reserve());
    const before = slab.buffers.map((buffer) => addressOf(buffer));
    for (const [slots, capacity] of [
      [1, 64],
      [4, 512],
      [2, 100],
      [0, 0],
      [3, 512],
    ] as const) {
      slab.resize({ slots, capacity, kept: [] });
      expect(slab).toMatchObject({ slots, capacity, stride: 512 });
      expect(slab.buffers.map((buffer) => addressOf(buffer))).toEqual(before);
    }
  });

  test("gives back what a smaller shape has no room for", () => {
    const slab = new KvSlab(MODEL, reserve());
    const resident = () => residentBytes(slab.buffers[0]!);
    const fillSlot = (slot: number, tokens: number) =>
      slab.load(slot, { from: 0, tokens, bytes: new Uint8Array(tokens * kvTokenBytes(MODEL)).fill(1) });
    slab.resize({ ...LARGEST, kept: [] });
    for (let slot = 0; slot < 4; slot++) fillSlot(slot, 512);
    const full = 4 * 512 * kvTokenBytes(MODEL);
    expect(resident()).toBeGreaterThanOrEqual(full);
    slab.resize({ slots: 4, capacity: 128, kept: [128, 128, 128, 128] });
    expect(resident()).toBeLessThanOrEqual(full / 4);
    slab.resize({ slots: 2, capacity: 128, kept: [128, 128] });
    expect(resident()).toBeLessThanOrEqual(full / 8);
    expect(slab.save({ slot: 1, from: 0, tokens: 128 }).bytes.every((byte) => byte === 1)).toBe(true);
    slab.resize({ slots: 0, capacity: 0, kept: [] });
    expect(resident()).toBe(0);
  });

  test.each([1, 2, 3, 4, 5, 6])(
    "holds what one holds that moves, through all that can be done to it, seed %i",
    (seed) => {
      const random = createRandom(seed);
      const below = (limit: number) => Math.floor(random() * limit);
      const slabs = [new KvSlab(MODEL, reserve()), new KvSlab(MODEL)];
      const lengths = [0, 0, 0, 0];
      for (let step = 0; step < 60; step++) {
        const { slots, capacity } = slabs[0]!;
        const slot = below(slots);
        const kind = slots === 0 ? 0 : below(4);
        if (kind === 0) {
          const shape = { slots: below(5), capacity: 1 + below(512) };
          const kept = lengths.slice(0, Math.min(slots, shape.slots)).map((length) => Math.min(length, shape.capacity));
          for (const slab of slabs) slab.resize({ ...shape, kept });
          for (let one = 0; one < 4; one++) lengths[one] = kept[one] ?? 0;
        } else if (kind === 1) {
          const tokens = Math.min(1 + below(40), capacity - lengths[slot]!);
          const bytes = Uint8Array.from({ length: tokens * kvTokenBytes(MODEL) }, () => below(256));
          for (const slab of slabs) slab.load(slot, { from: lengths[slot]!, tokens, bytes });
          lengths[slot]! += tokens;
        } else if (kind === 2) {
          const to = below(slots);
          for (const slab of slabs) slab.copySlot({ from: slot, to, tokens: lengths[slot]! });
          lengths[to] = lengths[slot]!;
        }
        for (let one = 0; one < slabs[0]!.slots; one++) {
          const [here, there] = slabs.map((slab) => slab.save({ slot: one, from: 0, tokens: lengths[one]! }));
          expect(Buffer.compare(here!.bytes, there!.bytes), `slot ${one} after step ${step}`).toBe(0);
        }
      }
    },
  );
});
