/** Several processes on one port: real ones that die, refuse to start and stop, watched from outside. */
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it, onTestFinished, vi } from "vitest";
import { LaunchFailure } from "../../../infra/launch/failure.ts";
import { type Fleet, type FleetOptions, startFleet } from "../../../infra/launch/fleet.ts";
import { startGuard } from "../../../infra/launch/guard.ts";
import { type Part, startPart } from "../../../infra/launch/part.ts";
import { findFreePort } from "../../../infra/launch/ports.ts";
import { openSharedSocket } from "../../../infra/launch/shared-socket.ts";

const folder = mkdtempSync(join(tmpdir(), "coldpath-fleet-"));
afterAll(() => rmSync(folder, { recursive: true }));

function processes() {
  const guard = startGuard();
  onTestFinished(() => guard.close());
  return (script: string, place: number, descriptor?: number): Promise<Part> =>
    startPart({
      name: `process ${place}`,
      command: process.execPath,
      args: ["-e", script],
      env: process.env,
      output: { file: join(folder, `${place}.log`) },
      guard,
      ...(descriptor === undefined ? {} : { descriptor }),
    });
}

async function fleetOf(options: Omit<FleetOptions, "graceMs" | "say">): Promise<{ fleet: Fleet; said: string[] }> {
  const said: string[] = [];
  const fleet = await startFleet({ ...options, graceMs: 2_000, say: (line) => said.push(line) });
  onTestFinished(() => fleet.stop());
  return { fleet, said };
}

const FOR_EVER = "setInterval(() => {}, 1000)";

it("starts a process again that died, and leaves the others alone", async () => {
  const start = processes();
  const { fleet, said } = await fleetOf({ size: 2, start: (place) => start(FOR_EVER, place) });
  const [first, second] = fleet.parts;
  first?.kill();
  await vi.waitFor(() => expect(said).toEqual(["process 0 was ended by SIGKILL; it is started again in 100 ms"]));
  await vi.waitFor(() => expect(fleet.parts).toHaveLength(2));
  expect(fleet.parts[0]?.pid).not.toBe(first?.pid);
  expect(fleet.parts[1]?.pid).toBe(second?.pid);
});

it("waits longer each time for a process that keeps dying soon, and short again after a long life", async () => {
  const start = processes();
  let nowMs = 0;
  const { fleet, said } = await fleetOf({ size: 1, start: (place) => start(FOR_EVER, place), now: () => nowMs });
  const pauses = () => said.map((line) => Number(/in (\d+) ms/.exec(line)?.[1]));
  const kill = async (ends: number) => {
    await vi.waitFor(() => expect(fleet.parts).toHaveLength(1), { timeout: 5_000 });
    fleet.parts[0]?.kill();
    await vi.waitFor(() => expect(said).toHaveLength(ends));
  };
  await kill(1);
  await kill(2);
  await kill(3);
  expect(pauses()).toEqual([100, 200, 400]);
  await vi.waitFor(() => expect(fleet.parts).toHaveLength(1), { timeout: 5_000 });
  nowMs += 60_000;
  await kill(4);
  expect(pauses().at(-1)).toBe(100);
});

it("stops what it had started when one can't be started", async () => {
  const start = processes();
  const started: Part[] = [];
  const attempt = startFleet({
    size: 2,
    graceMs: 2_000,
    say: () => {},
    start: async (place) => {
      if (place === 1) throw new LaunchFailure("no such program");
      const part = await start(FOR_EVER, place);
      started.push(part);
      return part;
    },
  });
  await expect(attempt).rejects.toThrow("no such program");
  expect((await started[0]?.exited)?.signal).toBe("SIGTERM");
});

it("stops during a pause, and starts nothing any more", async () => {
  const start = processes();
  const { fleet, said } = await fleetOf({ size: 1, start: (place) => start("process.exit(3)", place) });
  await vi.waitFor(() => expect(said.length).toBeGreaterThan(1), { timeout: 5_000 });
  await fleet.stop();
  const before = said.length;
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect([said.length, fleet.parts]).toEqual([before, []]);
});

it("shares one port between processes that got a socket each, and goes on without one of them", async () => {
  const start = processes();
  const port = await findFreePort();
  const script = `require("node:net").createServer((s) => s.end(String(process.pid))).listen({ fd: 3 })`;
  const { fleet } = await fleetOf({
    size: 2,
    start: async (place) => {
      const socket = await openSharedSocket({ host: "127.0.0.1", port });
      try {
        return await start(script, place, socket.descriptor);
      } finally {
        socket.close();
      }
    },
  });
  const answered = async (): Promise<string> => {
    const socket = connect(port, "127.0.0.1");
    let text = "";
    socket.on("data", (chunk) => (text += String(chunk)));
    await once(socket, "close");
    return text;
  };
  const pids = new Set<string>();
  for (let n = 0; n < 60; n++) pids.add(await answered());
  expect(pids).toEqual(new Set(fleet.parts.map(({ pid }) => String(pid))));
});
