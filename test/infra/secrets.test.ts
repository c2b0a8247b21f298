/** The local secrets: made once, private, and damaged in every way a tired person manages. */
import { chmodSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { SECRET_NAMES, findSecret, makeSecrets } from "../../infra/secrets.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-secrets-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

it("makes five different secrets once, and keeps them", () => {
  const secrets = makeSecrets(folder, {});
  expect(Object.keys(secrets).toSorted()).toEqual(SECRET_NAMES.toSorted());
  expect(new Set(Object.values(secrets)).size).toBe(5);
  for (const secret of Object.values(secrets)) expect(secret).toMatch(/^[0-9a-f]{64}$/);
  expect(makeSecrets(folder, {})).toEqual(secrets);
  expect(readdirSync(folder)).toEqual(["secrets.json"]);
});

it("lets nobody else read them, even after someone opened the file to all", () => {
  const inner = join(folder, "state");
  makeSecrets(inner, {});
  expect(statSync(inner).mode & 0o777).toBe(0o700);
  expect(statSync(join(inner, "secrets.json")).mode & 0o777).toBe(0o600);
  chmodSync(join(inner, "secrets.json"), 0o644);
  makeSecrets(inner, {});
  expect(statSync(join(inner, "secrets.json")).mode & 0o777).toBe(0o600);
});

it("takes what the environment sets, and does not write it down", () => {
  const mine = "m".repeat(40);
  expect(makeSecrets(folder, { COLDPATH_JWT_SECRET: mine }).COLDPATH_JWT_SECRET).toBe(mine);
  expect(readFileSync(join(folder, "secrets.json"), "utf8")).not.toContain(mine);
  expect(findSecret("COLDPATH_JWT_SECRET", folder, { COLDPATH_JWT_SECRET: mine })).toBe(mine);
});

it("refuses a secret that is too short without repeating it", () => {
  expect(() => makeSecrets(folder, { COLDPATH_CACHE_SECRET: "hunter2" })).toThrow(
    /^COLDPATH_CACHE_SECRET must be at least 32 bytes long$/,
  );
});

it("finds none where none were made", () => {
  expect(findSecret("COLDPATH_JWT_SECRET", folder, {})).toBeUndefined();
});

it("lets an older file's cache secret go on naming the answers", () => {
  const { COLDPATH_IDENTITY_SECRET: _, ...older } = makeSecrets(folder, {});
  writeFileSync(join(folder, "secrets.json"), JSON.stringify(older));
  expect(makeSecrets(folder, {})).toEqual({ ...older, COLDPATH_IDENTITY_SECRET: older.COLDPATH_CACHE_SECRET });
});

it.each([
  ["empty", ""],
  ["cut off", `{"COLDPATH_JWT_SECRET": "abc`],
  ["without one of them", JSON.stringify({ COLDPATH_JWT_SECRET: "x".repeat(64) })],
  ["with a short one", JSON.stringify(Object.fromEntries(SECRET_NAMES.map((name) => [name, "short"])))],
  ["of another kind", "[]"],
])("says what to do about a file that is %s", (_, text) => {
  writeFileSync(join(folder, "secrets.json"), text);
  expect(() => makeSecrets(folder, {})).toThrow(/secrets\.json is damaged: delete it/);
});

it("says what to do about a folder that can't be made", () => {
  writeFileSync(join(folder, "file"), "");
  expect(() => makeSecrets(join(folder, "file", "state"), {})).toThrow(/COLDPATH_STATE_DIR|can't be read/);
});
