import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

const readme = readFileSync("README.md", "utf8");
const inTable = [...readme.matchAll(/^\| `(COLDPATH_\w+)` +\|/gm)].map(([, name]) => name ?? "");
const sources = execFileSync("git", ["ls-files", "edge", "origin", "infra", "shared"], { encoding: "utf8" })
  .split("\n")
  .filter((file) => file.endsWith(".ts"));

test("every knob is in the README", () => {
  const knobs = sources.flatMap((file) =>
    [...readFileSync(file, "utf8").matchAll(/env: "(COLDPATH_\w+)"/g)].map(([, name]) => name ?? ""),
  );
  expect(knobs.length).toBeGreaterThan(50);
  expect(knobs.filter((name) => !inTable.includes(name))).toEqual([]);
});

test("every knob in the README exists", () => {
  const code = sources.map((file) => readFileSync(file, "utf8")).join("\n");
  expect(inTable.filter((name) => !code.includes(`env: "${name}"`))).toEqual([]);
});

test("every file the README names is there", () => {
  const links = [...readme.matchAll(/\]\(([^)]+)\)/g)].map(([, path]) => path ?? "");
  const paths = [...readme.matchAll(/\b(?:edge|origin|shared|infra|test)\/[\w/.-]+\.(?:ts|lua)\b/g)].map(
    ([path]) => path,
  );
  expect(paths.length).toBeGreaterThan(20);
  expect([...links, ...paths].filter((path) => !existsSync(path))).toEqual([]);
});

test("every code of the error table that a client can meet is one that exists", () => {
  const table = readFileSync("shared/errors.ts", "utf8");
  const section = readme.split("## What bad input gets")[1] ?? "";
  const codes = [...section.matchAll(/`([a-z]+(?:_[a-z]+)+)`/g)].map(([, code]) => code ?? "");
  expect(codes.length).toBeGreaterThan(10);
  expect(codes.filter((code) => !["max_tokens"].includes(code) && !table.includes(`  ${code}: {`))).toEqual([]);
});
