/** In processes of their own: the flags are the whole process's. V8 tells on stdout what its memory reducer decides. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { expect, test } from "vitest";

const SETTLE = new URL("../../../origin/models/settle-heap.ts", import.meta.url).href;

/** As one that has loaded a model: some megabytes are held, more are garbage. Ends with its stdin. */
const LOADED = `
  const make = (count) => Array.from({ length: count }, (_, i) => ({ i, list: [i] }));
  globalThis.held = make(100_000);
  make(200_000);
`;
const TELL = `
  console.log("heap", process.memoryUsage().heapUsed, typeof gc);
  process.stdin.resume();
`;

/** @param collect - how the heap is collected; @returns all that was said, by V8 too, until its reducer had decided */
async function run(collect: string): Promise<string> {
  const flags = ["--trace-gc", "--trace-memory-reducer", "--gc-memory-reducer-start-delay-ms=1"];
  const child = spawn(process.execPath, [...flags, "--input-type=module", "--eval", LOADED + collect + TELL], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    said += text;
    if (said.includes("heap ") && said.includes("Memory reducer: ")) child.stdin.end();
  });
  const [code] = (await once(child, "close")) as [number];
  expect(code).toBe(0);
  return said;
}

const collections = (said: string) => said.match(/Mark-Compact .*testing/gu)?.length ?? 0;

test("what loading has left is collected, once", async () => {
  const said = await run(`(await import("${SETTLE}")).settleHeap();`);
  const [, before = 0, after = 0] = /Mark-Compact ([\d.]+) \S+ -> ([\d.]+)/u.exec(said)?.map(Number) ?? [];
  expect(after).toBeGreaterThan(0);
  expect(after).toBeLessThan(before / 2);
  expect(collections(said)).toBe(1);
});

test("V8 plans no collection for a process that seems to idle, as it would have", async () => {
  const plans = "Memory reducer: waiting";
  const byHand = `
    const [{ setFlagsFromString }, { runInNewContext }] = [await import("node:v8"), await import("node:vm")];
    setFlagsFromString("--expose-gc");
    runInNewContext("gc")();
  `;
  expect(await run(byHand)).toContain(plans);
  expect(await run(`(await import("${SETTLE}")).settleHeap();`)).not.toContain(plans);
});

test("nobody else gets hold of the collector", async () => {
  const later = `(await import("node:vm")).runInNewContext("typeof gc")`;
  const said = await run(`(await import("${SETTLE}")).settleHeap(); console.log("later", ${later});`);
  expect(said).toContain("later undefined");
  expect(said).toMatch(/heap \d+ undefined/u);
});
