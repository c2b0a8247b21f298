/** Parts, and the guard that outlives a killed launcher: real processes, counted in the process table. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it, onTestFinished, vi } from "vitest";
import { type Guard, startGuard } from "../../../infra/launch/guard.ts";
import { type Part, startPart } from "../../../infra/launch/part.ts";

const folder = mkdtempSync(join(tmpdir(), "coldpath-part-"));
afterAll(() => rmSync(folder, { recursive: true }));

function freshGuard(): Guard {
  const guard = startGuard();
  onTestFinished(() => guard.close());
  return guard;
}

/** A shell that runs a script. */
function shell(script: string, guard = freshGuard(), env: NodeJS.ProcessEnv = process.env): Promise<Part> {
  return startPart({
    name: "shell",
    command: "sh",
    args: ["-c", script],
    env,
    output: { file: join(folder, "shell.log") },
    guard,
  });
}

function groupMembers(group: number): readonly string[] {
  const table = execFileSync("ps", ["-A", "-o", "pgid=,stat=,args="], { encoding: "utf8" });
  return table.split("\n").filter((line) => new RegExp(`^\\s*${group}\\s+[^Z]`).test(line));
}

it("reports how a part ended and what it said last", async () => {
  const part = await shell("for i in $(seq 30); do echo line $i; done; echo complaint >&2; exit 3");
  const exit = await part.exited;
  expect(exit).toMatchObject({ name: "shell", code: 3, signal: null });
  expect(exit.logTail.split("\n")).toHaveLength(12);
  expect(exit.logTail).toMatch(/line 30\ncomplaint$/);
});

it("hands a part its input and its environment, and nothing else", async () => {
  const part = await startPart({
    name: "shell",
    command: "/bin/sh",
    args: ["-c", "cat; env"],
    env: { ONLY: "this" },
    input: "secret\n",
    output: { file: join(folder, "input.log") },
    guard: freshGuard(),
  });
  await part.exited;
  const log = readFileSync(join(folder, "input.log"), "utf8");
  expect(log).toMatch(/^secret$/m);
  expect(log).toMatch(/^ONLY=this$/m);
  expect(log).not.toMatch(/^HOME=/m);
});

it("says which program can't be started", async () => {
  const start = startPart({
    name: "redis",
    command: join(folder, "missing"),
    args: [],
    env: {},
    output: { file: join(folder, "missing.log") },
    guard: freshGuard(),
  });
  await expect(start).rejects.toThrow(/^redis could not be started: .*ENOENT/);
});

it("stops a part with SIGTERM, and kills one that does not listen after the grace", async () => {
  const polite = await shell("trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done");
  await vi.waitFor(() => expect(readFileSync(join(folder, "shell.log"), "utf8")).toBe("up\n"));
  await polite.stop(5_000);
  expect(await polite.exited).toMatchObject({ code: 7 });

  const deaf = await shell("trap '' TERM; echo up; while :; do sleep 0.05; done");
  await vi.waitFor(() => expect(readFileSync(join(folder, "shell.log"), "utf8")).toBe("up\n"));
  await deaf.stop(200);
  expect(await deaf.exited).toMatchObject({ signal: "SIGKILL" });
});

it("leaves nothing behind that a part had started itself", async () => {
  const part = await shell("sleep 300 & sleep 300 & echo up; wait");
  await vi.waitFor(() => expect(groupMembers(part.pid)).toHaveLength(3));
  await part.stop(1_000);
  await vi.waitFor(() => expect(groupMembers(part.pid)).toEqual([]));
});

it("kills every group when the launcher is killed with SIGKILL", async () => {
  // The launcher of this test: starts two parts, says their numbers, and waits.
  const script = join(folder, "launcher.mts");
  const launch = join(import.meta.dirname, "../../../infra/launch");
  writeFileSync(
    script,
    `import { startGuard } from ${JSON.stringify(join(launch, "guard.ts"))};
     import { startPart } from ${JSON.stringify(join(launch, "part.ts"))};
     const guard = startGuard();
     const parts = [];
     for (const name of ["one", "two", "three"]) {
       parts.push(await startPart({ name, command: "sh", args: ["-c", "trap '' TERM HUP; sleep 300 & wait; wait"],
         env: process.env, output: { file: ${JSON.stringify(folder)} + "/" + name + ".log" }, guard }));
     }
     parts[2].kill();
     await parts[2].exited;
     console.log(parts.map((part) => part.pid).join(" "));
     setInterval(() => {}, 1000);`,
  );
  const launcher = spawn(process.execPath, [script], { stdio: ["ignore", "pipe", "inherit"] });
  const [line] = (await once(launcher.stdout, "data")) as [Buffer];
  const [one = 0, two = 0] = line.toString().trim().split(" ").map(Number);
  await vi.waitFor(() => expect(groupMembers(one)).toHaveLength(2));
  expect(groupMembers(two)).toHaveLength(2);

  launcher.kill("SIGKILL");
  await vi.waitFor(() => expect([...groupMembers(one), ...groupMembers(two)]).toEqual([]), { timeout: 5_000 });
});
