import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";

/** Type-checks a copy of the project's tsconfigs in which one file of `from` imports one file of `to`. */
async function typeCheckImport(from: string, to: string): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), "coldpath-architecture-"));
  try {
    // Only the types, so that the build's output stays inside the copy.
    await mkdir(join(root, "node_modules"));
    for (const types of ["@types", "@cloudflare", "undici-types"]) {
      await symlink(resolve("node_modules", types), join(root, "node_modules", types));
    }
    await cp("package.json", join(root, "package.json"));
    await cp("tsconfig.json", join(root, "tsconfig.json"));
    for (const folder of ["shared", "edge", "origin", "infra"]) {
      await mkdir(join(root, folder));
      await cp(join(folder, "tsconfig.json"), join(root, folder, "tsconfig.json"));
      await writeFile(join(root, folder, "room.ts"), `export const room = "${folder}";\n`);
    }
    await writeFile(join(root, from, "visitor.ts"), `export { room } from "../${to}/room.ts";\n`);
    const tsc = join("node_modules", "typescript", "bin", "tsc");
    await promisify(execFile)(process.execPath, [tsc, "-b", join(root, from)]);
    return "";
  } catch (error) {
    return String((error as { stdout?: string }).stdout);
  } finally {
    await rm(root, { recursive: true });
  }
}

test.each([
  ["edge", "origin"],
  ["origin", "edge"],
  ["shared", "edge"],
  ["shared", "origin"],
  ["infra", "edge"],
  ["infra", "origin"],
])("%s importing %s fails the type-check", async (from, to) => {
  expect(await typeCheckImport(from, to)).toMatch(/TS6307/);
});

test.each(["edge", "origin", "infra"])("%s may import shared", async (from) => {
  expect(await typeCheckImport(from, "shared")).toBe("");
});
