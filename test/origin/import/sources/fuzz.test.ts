/**
 * Randomly damaged files: a reader must either read a file or refuse it with one sentence. A damaged file is a valid one after
 * a few random edits: extreme numbers, flipped bytes, pieces cut, doubled or moved. COLDPATH_FUZZ_FILES sets the number of
 * files; COLDPATH_FUZZ_SEED repeats one.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { ImportError } from "../../../../origin/manifest/import-error.ts";
import { openTensorFile } from "../../../../origin/import/sources/open.ts";
import { mulberry32 } from "../../../fakes/mulberry32.ts";
import { fakeTensor, safetensorsFile } from "../../../fakes/safetensors-file.ts";
import { tinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";

const FILES = Number(process.env["COLDPATH_FUZZ_FILES"] ?? 500);
const SEED = Number(process.env["COLDPATH_FUZZ_SEED"] ?? 1);

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-fuzz-"));
  writeFileSync(join(folder, "config.json"), "{}");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Random = () => number;

const EXTREMES: readonly bigint[] = [
  0n,
  1n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 53n,
  2n ** 60n,
  2n ** 63n - 1n,
  2n ** 64n - 1n,
  2n ** 64n - 32n,
];

/** Replacements in the text of a header, by pattern. */
const REPLACEMENTS: readonly (readonly [RegExp, readonly string[]])[] = [
  [/\d+/g, ["-1", "0", "1e400", "1e300", "0.5", "9007199254740993", "18446744073709551615", "null", '"4"']],
  [/"(F32|BF16|F16)"/g, ['"F64"', '"I8"', '"f32"', "null", '"__proto__"']],
  [/[[\]{},:"]/g, ["", "[", "]", "{", "}", ",", '"', "\\", "\u0000"]],
];

function below(random: Random, limit: number): number {
  return Math.floor(random() * limit);
}

function pick<T>(random: Random, from: readonly T[]): T {
  return from[below(random, from.length)]!;
}

/** Edits of bytes. Most are near the beginning, where the header is. */
const BYTE_EDITS: readonly ((bytes: Buffer, random: Random) => Buffer)[] = [
  (bytes, random) => {
    bytes[placeIn(bytes, random)]! ^= 1 << below(random, 8);
    return bytes;
  },
  (bytes, random) => {
    const at = placeIn(bytes, random);
    if (at + 8 <= bytes.length) bytes.writeBigUInt64LE(pick(random, EXTREMES), at);
    return bytes;
  },
  (bytes, random) => {
    const at = placeIn(bytes, random);
    if (at + 4 <= bytes.length) bytes.writeUInt32LE(Number(BigInt.asUintN(32, pick(random, EXTREMES))), at);
    return bytes;
  },
  (bytes, random) => bytes.subarray(0, placeIn(bytes, random)),
  (bytes, random) => {
    const [from, to] = [placeIn(bytes, random), placeIn(bytes, random)].toSorted((a, b) => a - b) as [number, number];
    const at = placeIn(bytes, random);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(from, to), bytes.subarray(at)]);
  },
  (bytes, random) => {
    const [from, to] = [placeIn(bytes, random), placeIn(bytes, random)].toSorted((a, b) => a - b) as [number, number];
    return Buffer.concat([bytes.subarray(0, from), bytes.subarray(to)]);
  },
];

function placeIn(bytes: Buffer, random: Random): number {
  return Math.floor(random() ** 3 * bytes.length);
}

function damagedBytes(valid: Uint8Array, random: Random): Uint8Array {
  let bytes: Buffer = Buffer.from(valid);
  for (let edits = 1 + below(random, 3); edits > 0 && bytes.length > 0; edits--) {
    bytes = pick(random, BYTE_EDITS)(bytes, random);
  }
  return bytes;
}

/** Makes one replacement in the text of a header. */
function damagedText(json: string, random: Random): string {
  const [pattern, replacements] = pick(random, REPLACEMENTS);
  const places = [...json.matchAll(pattern)];
  const place = pick(random, places);
  return json.slice(0, place.index) + pick(random, replacements) + json.slice(place.index + place[0].length);
}

const TENSORS = ["BF16", "F32", "F16"].map((dtype, i) =>
  fakeTensor(`model.layers.${i}.weight`, [8, 4], new Float32Array(32).fill(i), dtype as "F32"),
);
const GGUF = tinyCheckpoint({ layers: 1, hiddenSize: 32, queryHeads: 2, kvHeads: 1, headDim: 16, ffnSize: 32 }).bytes;

const FORMATS: readonly (readonly [string, (random: Random) => Uint8Array])[] = [
  ["model.gguf", (random) => damagedBytes(GGUF, random)],
  [
    "model.safetensors",
    (random) =>
      random() < 0.5
        ? damagedBytes(safetensorsFile(TENSORS), random)
        : safetensorsFile(TENSORS, { editHeader: (json) => damagedText(json, random) }),
  ],
];

test.each(FORMATS)("%s: damaged files are read or refused with one sentence", (name, damaged) => {
  const path = join(folder, name);
  let refused = 0;
  for (let seed = SEED; seed < SEED + FILES; seed++) {
    writeFileSync(path, damaged(mulberry32(seed)));
    try {
      using file = openTensorFile(path);
      for (const [tensor, shape] of file.shapes) {
        const elements = shape.reduce((product, size) => product * size, 1);
        expect(file.readTensor(tensor), `seed ${seed}`).toHaveLength(elements);
      }
    } catch (error) {
      if (!(error instanceof ImportError))
        throw new Error(`COLDPATH_FUZZ_SEED=${seed}: unexpected error for ${name}`, { cause: error });
      expect(error.message, `seed ${seed}`).not.toContain("\n");
      refused++;
    }
  }
  // The reader does not accept everything, and the edits change something.
  expect(refused).toBeGreaterThan(FILES / 4);
  expect(refused).toBeLessThan(FILES);
});
