/**
 * `npm start` as a newcomer meets it: the real launcher with the real model, in a terminal's place. What it prints is
 * run as it is; whatever goes wrong must end everything, in one sentence, with nothing left in the process table.
 */
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it, onTestFinished, vi } from "vitest";
import { findFreePort } from "../../infra/launch/ports.ts";

const ROOT = join(import.meta.dirname, "../..");
const READY = "Ctrl-C stops everything";
const folder = mkdtempSync(join(tmpdir(), "coldpath-start-"));
afterAll(() => rmSync(folder, { recursive: true }));

interface Launcher {
  readonly process: ChildProcess;
  /** What it has printed so far, both streams. */
  readonly output: () => string;
  /** Resolves with its exit code or the signal that ended it. */
  readonly ended: Promise<number | NodeJS.Signals | null>;
  /** Waits until it has printed this. */
  readonly says: (text: string) => Promise<void>;
  /** Its direct children, by what they run. */
  readonly children: () => readonly { readonly pid: number; readonly args: string }[];
}

async function freePorts(): Promise<NodeJS.ProcessEnv> {
  return {
    COLDPATH_EDGE_PORT: String(await findFreePort()),
    COLDPATH_ORIGIN_PORT: String(await findFreePort()),
    COLDPATH_REDIS_REST_PORT: String(await findFreePort()),
  };
}

function launch(env: NodeJS.ProcessEnv): Launcher {
  const child = spawn(process.execPath, [join(ROOT, "infra/start.ts")], {
    env: { ...process.env, COLDPATH_STATE_DIR: folder, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let text = "";
  child.stdout.on("data", (chunk: Buffer) => (text += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (text += chunk.toString()));
  const ended = new Promise<number | NodeJS.Signals | null>((resolve) => {
    child.once("close", (code, signal) => resolve(code ?? signal));
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  return {
    process: child,
    output: () => text,
    ended,
    says: (wanted) =>
      vi.waitFor(() => expect(child.exitCode === null ? text : `${text}(ended)`).toContain(wanted), {
        timeout: 60_000,
        interval: 20,
      }),
    children: () => processes().filter(({ ppid }) => ppid === child.pid),
  };
}

function processes() {
  const table = execFileSync("ps", ["-A", "-ww", "-o", "pid=,ppid=,stat=,args="], { encoding: "utf8" });
  return table.split("\n").flatMap((line) => {
    const [, pid, ppid, state, args] = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(.*)$/.exec(line) ?? [];
    return state === undefined || state.startsWith("Z")
      ? []
      : [{ pid: Number(pid), ppid: Number(ppid), args: args ?? "" }];
  });
}

function stillRunning(pids: readonly number[]) {
  return processes().filter(({ pid }) => pids.includes(pid));
}

async function expectNothingLeft(pids: readonly number[]): Promise<void> {
  await vi.waitFor(() => expect(stillRunning(pids)).toEqual([]), { timeout: 10_000 });
}

function runPasted(output: string): {
  readonly status: number;
  readonly cache: string | undefined;
  readonly text: string;
} {
  const line = output.split("\n").find((candidate) => candidate.startsWith("curl "));
  if (line === undefined) throw new Error(`no curl line in: ${output}`);
  const { status, stdout, stderr } = spawnSync("sh", ["-c", `${line} -s -i`], { encoding: "utf8", timeout: 60_000 });
  if (status !== 0) throw new Error(`the pasted line failed (this test needs curl): ${stderr}`);
  const body = JSON.parse(stdout.slice(stdout.indexOf("\r\n\r\n"))) as {
    readonly choices: readonly { readonly message: { readonly content: string } }[];
  };
  return {
    status: Number(/^HTTP\/1\.1 (\d+)/.exec(stdout)?.[1]),
    cache: /^x-cache: (\w+)/im.exec(stdout)?.[1],
    text: body.choices[0]?.message.content ?? "",
  };
}

/** What a start that fails has printed, line by line. */
async function fails(env: NodeJS.ProcessEnv): Promise<readonly string[]> {
  const launcher = launch({ ...(await freePorts()), ...env });
  expect(await launcher.ended).toBe(1);
  return launcher.output().trimEnd().split("\n");
}

describe("a stack that runs", () => {
  it("prints a curl line that works when pasted, and leaves nothing behind on Ctrl-C", async () => {
    const launcher = launch(await freePorts());
    await launcher.says(READY);
    const cold = runPasted(launcher.output());
    expect(cold).toMatchObject({ status: 200, cache: "MISS" });
    expect(cold.text.length).toBeGreaterThan(20);
    expect(runPasted(launcher.output())).toEqual({ ...cold, cache: "HIT" });

    const pids = launcher.children().map(({ pid }) => pid);
    // Guard, Redis, redis-rest, origin, edge.
    expect(pids).toHaveLength(5);
    launcher.process.kill("SIGINT");
    expect(await launcher.ended).toBe(0);
    expect(launcher.output()).not.toMatch(/error/i);
    await expectNothingLeft(pids);
  });

  it("leaves nothing behind when it is killed with SIGKILL", async () => {
    const launcher = launch(await freePorts());
    await launcher.says(READY);
    const pids = launcher.children().map(({ pid }) => pid);
    expect(pids).toHaveLength(5);
    launcher.process.kill("SIGKILL");
    expect(await launcher.ended).toBe("SIGKILL");
    await expectNothingLeft(pids);
  });

  it.each([
    ["Redis", /redis-server|valkey-server/],
    ["origin", /origin\/main\.ts/],
  ])("ends as a whole, in one sentence, when %s dies", async (name, pattern) => {
    const launcher = launch(await freePorts());
    await launcher.says(READY);
    const children = launcher.children();
    const victim = children.find(({ args }) => pattern.test(args));
    if (victim === undefined) throw new Error(`no ${name} among ${JSON.stringify(children)}`);
    process.kill(victim.pid, "SIGKILL");
    expect(await launcher.ended).toBe(1);
    expect(launcher.output()).toContain(`coldpath: ${name} was ended by SIGKILL, so everything was stopped`);
    await expectNothingLeft(children.map(({ pid }) => pid));
  });

  it("runs beside another one that shares its state folder", async () => {
    const [one, two] = [launch(await freePorts()), launch(await freePorts())];
    await Promise.all([one.says(READY), two.says(READY)]);
    expect(runPasted(one.output()).cache).toBe("MISS");
    expect(runPasted(two.output()).cache).toBe("MISS");
    one.process.kill("SIGTERM");
    expect(await one.ended).toBe(0);
    expect(runPasted(two.output())).toMatchObject({ status: 200, cache: "HIT" });
    two.process.kill("SIGHUP");
    expect(await two.ended).toBe(0);
  });

  it("goes on without Redis where there is none, and says so in one line", async () => {
    const bin = join(folder, "bin");
    mkdirSync(bin);
    symlinkSync("/bin/sh", join(bin, "sh"));
    const launcher = launch({ ...(await freePorts()), PATH: bin });
    await launcher.says(READY);
    expect(launcher.output().match(/^.*without Redis.*$/gm)).toHaveLength(1);
    expect(runPasted(launcher.output())).toMatchObject({ status: 200, cache: "MISS" });
    expect(runPasted(launcher.output())).toMatchObject({ status: 200, cache: "HIT" });
    launcher.process.kill("SIGINT");
    expect(await launcher.ended).toBe(0);
  });
});

describe("Ctrl-C at any stage stops cleanly:", () => {
  it.each(["starting redis-rest", "starting origin", "starting edge"])("%s", async (stage) => {
    const launcher = launch(await freePorts());
    await launcher.says(stage);
    const pids = launcher.children().map(({ pid }) => pid);
    launcher.process.kill("SIGINT");
    expect(await launcher.ended).toBe(0);
    expect(launcher.output()).not.toContain(READY);
    await expectNothingLeft(pids);
  });

  it("before anything is started", async () => {
    const launcher = launch(await freePorts());
    await vi.waitFor(() => expect(launcher.children().length).toBeGreaterThan(0), { timeout: 20_000, interval: 5 });
    const pids = launcher.children().map(({ pid }) => pid);
    launcher.process.kill("SIGINT");
    expect(await launcher.ended).toBe(0);
    await expectNothingLeft(pids);
  });

  it("asked twice, it leaves at once", async () => {
    const launcher = launch(await freePorts());
    await launcher.says(READY);
    const children = launcher.children();
    const origin = children.find(({ args }) => args.includes("origin/main.ts"));
    // An origin that does not listen would hold the stop up for its whole grace.
    process.kill(origin?.pid ?? 0, "SIGSTOP");
    launcher.process.kill("SIGINT");
    await launcher.says("stopping");
    launcher.process.kill("SIGINT");
    expect(await launcher.ended).toBe(130);
    await expectNothingLeft(children.map(({ pid }) => pid));
  });
});

describe("what can't start ends with one sentence that says what to do:", () => {
  it.each(["COLDPATH_EDGE_PORT", "COLDPATH_ORIGIN_PORT", "COLDPATH_REDIS_REST_PORT"])("%s is taken", async (knob) => {
    const server = createServer().listen(0, "127.0.0.1");
    onTestFinished(() => void server.close());
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as { readonly port: number };
    expect(await fails({ [knob]: String(port) })).toEqual([
      `coldpath: port ${port} on 127.0.0.1 is in use: set ${knob} to another one, or stop what uses it`,
    ]);
  });

  it("a Redis that does not answer", async () => {
    const lines = await fails({ COLDPATH_REDIS_URL: `redis://:hunter2@127.0.0.1:${await findFreePort()}` });
    // Before it stand the models and their memory.
    expect(lines.filter((line) => line.startsWith("coldpath: "))).toEqual([
      expect.stringMatching(/^coldpath: the Redis at .* can't be used .* correct COLDPATH_REDIS_URL/),
    ]);
    expect(lines.join()).not.toContain("hunter2");
  });

  it("an address that is no Redis URL", async () => {
    expect(await fails({ COLDPATH_REDIS_URL: "localhost:6379" })).toEqual([
      "coldpath: COLDPATH_REDIS_URL must look like redis://:password@host:6379/0, or rediss:// for TLS",
    ]);
  });

  it("a Redis that was asked for and can't be had", async () => {
    const bin = join(folder, "empty");
    mkdirSync(bin);
    symlinkSync("/bin/sh", join(bin, "sh"));
    const lines = await fails({ COLDPATH_STORE: "redis", PATH: bin });
    expect(lines.at(-1)).toMatch(/^coldpath: COLDPATH_STORE asks for Redis and none can be had/);
  });

  it("damaged secrets", async () => {
    const stateDir = mkdtempSync(join(folder, "damaged-"));
    writeFileSync(join(stateDir, "secrets.json"), "{");
    expect(await fails({ COLDPATH_STATE_DIR: stateDir })).toEqual([
      expect.stringMatching(/^coldpath: .*secrets\.json is damaged: delete it/),
    ]);
  });

  it("a model that is not there", async () => {
    const lines = await fails({ COLDPATH_MODEL: join(folder, "missing.gguf") });
    expect(lines).toEqual([expect.stringContaining("missing.gguf")]);
  });

  it("a setting that a part can't use", async () => {
    const lines = await fails({ COLDPATH_QUEUE_MAX: "many" });
    expect(lines.at(-2)).toBe("coldpath: origin ended with exit code 1 before it was ready; it said:");
    expect(lines.at(-1)).toContain("COLDPATH_QUEUE_MAX must be a whole number");
  });

  it("a part that is told to be elsewhere", async () => {
    expect(await fails({ COLDPATH_ORIGIN_URL: "http://127.0.0.1:1" })).toEqual([
      expect.stringMatching(/^coldpath: COLDPATH_ORIGIN_URL is set, but npm start runs that part itself/),
    ]);
  });

  it("a setting of its own that makes no sense", async () => {
    expect(await fails({ COLDPATH_EDGE_PORT: "http" })).toEqual([
      `coldpath: COLDPATH_EDGE_PORT must be a whole number from 1 to 65535, not "http"`,
    ]);
  });
});
