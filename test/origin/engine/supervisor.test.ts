/** An engine whose threads die: over real threads, on a fake runtime. */
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import type { GenerationEvent } from "../../../origin/engine/client.ts";
import type { SequenceRequest } from "../../../origin/engine/sequence.ts";
import { type EngineSupervisor, type SupervisorOptions, superviseEngine } from "../../../origin/engine/supervisor.ts";
import { type FakeEngineOptions, startFakeEngine } from "../../fakes/engine.ts";
import { GREEDY } from "../../fakes/greedy.ts";

/** What each way of dying is set off by. */
const EXIT = 3;
const THROW = 4;
const HANG = 5;
const HANG_MS = 1_500;

const RUNTIME = {
  crashToken: EXIT,
  throwToken: THROW,
  hangToken: HANG,
  hangMs: HANG_MS,
  shunned: [EXIT, THROW, HANG, 256, 257],
};

async function supervise(changes: Partial<SupervisorOptions> & { readonly engine?: FakeEngineOptions } = {}) {
  const { engine = {}, ...options } = changes;
  const seen = { crashes: [] as Error[], restarts: 0, givenUp: 0 };
  const supervisor = await superviseEngine({
    start: (onCrash) => startFakeEngine({ ...engine, runtime: { ...RUNTIME, ...engine.runtime }, onCrash }),
    crashesMax: 3,
    crashWindowMs: 60_000,
    pauseMs: 5,
    onCrash: (cause) => seen.crashes.push(cause),
    onRestart: () => (seen.restarts += 1),
    onGiveUp: () => (seen.givenUp += 1),
    now: () => performance.now(),
    ...options,
  });
  onTestFinished(() => supervisor.stop());
  return { supervisor, seen };
}

function request(first: number, maxTokens = 8): Omit<SequenceRequest, "id"> {
  return { prompt: Int32Array.of(first, 20, 30), maxTokens, sampling: GREEDY };
}

/** The last event. */
function end(supervisor: EngineSupervisor, asked: Omit<SequenceRequest, "id">): Promise<GenerationEvent> {
  return new Promise((resolve) => {
    supervisor.submit(asked, (event) => {
      if (event.type === "finish" || event.type === "error") resolve(event);
    });
  });
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(2);
}

const CRASHED = { type: "error", error: expect.objectContaining({ reason: "crashed" }) };

describe.each([
  ["exits", EXIT, /ended with code 3/],
  ["throws what nobody catches", THROW, /a bug in the runtime/],
])("when the thread %s", (_, poison, words) => {
  test("everything open ends with an error, and the next request is answered by another thread", async () => {
    const { supervisor, seen } = await supervise({ engine: { runtime: { stepMs: 1 } } });
    const before = await end(supervisor, request(40));
    const open = [
      end(supervisor, request(41, 400)),
      end(supervisor, request(poison)),
      end(supervisor, request(42, 400)),
    ];
    for (const event of await Promise.all(open)) expect(event).toMatchObject(CRASHED);
    expect(supervisor.status).toBe("restarting");
    expect(supervisor.occupancy).toEqual({ running: 0, waiting: 0 });
    expect(() => supervisor.submit(request(40), () => {})).toThrow(expect.objectContaining({ reason: "crashed" }));

    await until(() => supervisor.status === "ready");
    expect(await end(supervisor, request(40))).toEqual(before);
    expect(seen).toMatchObject({ crashes: [expect.objectContaining({ message: expect.stringMatching(words) })] });
    expect([seen.restarts, seen.givenUp]).toEqual([1, 0]);
  });
});

test("a step that hangs counts as a crash", async () => {
  const { supervisor, seen } = await supervise({ engine: { silenceMs: 200 } });
  const begun = performance.now();
  expect(await end(supervisor, request(HANG))).toMatchObject(CRASHED);
  expect(performance.now() - begun).toBeLessThan(HANG_MS);
  await until(() => supervisor.status === "ready");
  expect(await end(supervisor, request(40))).toMatchObject({ type: "finish" });
  expect(seen.crashes.map(({ message }) => message)).toEqual(["no step has ended for 200 ms"]);
});

test("an idle engine may be silent for as long as it likes, and a busy one for as long as it takes steps", async () => {
  const { supervisor, seen } = await supervise({ engine: { silenceMs: 100, runtime: { stepMs: 2 } } });
  await sleep(250);
  // 300 steps take far longer than the silence that is borne.
  expect(await end(supervisor, request(40, 300))).toMatchObject({ type: "finish" });
  await sleep(250);
  expect(await end(supervisor, request(41))).toMatchObject({ type: "finish" });
  expect(seen.crashes).toEqual([]);
});

test("after too many crashes it gives up, once, and says so to everybody", async () => {
  const { supervisor, seen } = await supervise({ crashesMax: 2 });
  for (let crash = 1; crash <= 3; crash++) {
    await until(() => supervisor.status === "ready");
    expect(await end(supervisor, request(EXIT))).toMatchObject(CRASHED);
  }
  expect(supervisor.status).toBe("failed");
  expect([seen.crashes.length, seen.restarts, seen.givenUp]).toEqual([3, 2, 1]);
  expect(() => supervisor.submit(request(40), () => {})).toThrow(expect.objectContaining({ reason: "crashed" }));
});

test("crashes that are far apart don't add up, and each new one within the window waits longer", async () => {
  let nowMs = 0;
  const { supervisor, seen } = await supervise({ crashesMax: 1, crashWindowMs: 1_000, now: () => nowMs });
  for (let crash = 0; crash < 4; crash++) {
    await until(() => supervisor.status === "ready");
    await end(supervisor, request(EXIT));
    nowMs += 1_000;
  }
  expect([seen.crashes.length, seen.givenUp]).toEqual([4, 0]);

  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  onTestFinished(() => void vi.useRealTimers());
  const pauses: number[] = [];
  const timed = await supervise({ crashesMax: 9, pauseMs: 100, start: () => startFakeEngine({ runtime: RUNTIME }) });
  const spy = vi.spyOn(globalThis, "setTimeout");
  for (let crash = 0; crash < 4; crash++) {
    timed.supervisor.crashed(new Error("x"));
    pauses.push(Number(spy.mock.lastCall?.[1]));
  }
  expect(pauses).toEqual([100, 200, 400, 800]);
});

test("a start anew that fails counts as a crash", async () => {
  let starts = 0;
  const { supervisor, seen } = await supervise({
    start: (onCrash) => {
      starts += 1;
      return starts === 2 ? Promise.reject(new Error("no memory")) : startFakeEngine({ runtime: RUNTIME, onCrash });
    },
  });
  await end(supervisor, request(EXIT));
  await until(() => supervisor.status === "ready");
  expect(seen.crashes.map(({ message }) => message)).toEqual([expect.stringContaining("code 3"), "no memory"]);
  expect(await end(supervisor, request(40))).toMatchObject({ type: "finish" });
});

test("what can't be started at all is an error with its own words, and is not tried again", async () => {
  let starts = 0;
  const start = () => {
    starts += 1;
    return Promise.reject(new Error("no weights"));
  };
  await expect(supervise({ start })).rejects.toThrow("no weights");
  await sleep(30);
  expect(starts).toBe(1);
});

test("stopping while another thread is being started leaves none behind", async () => {
  const engines: Awaited<ReturnType<typeof startFakeEngine>>[] = [];
  const { supervisor } = await supervise({
    start: async (onCrash) => {
      const engine = await startFakeEngine({ runtime: RUNTIME, onCrash });
      engines.push(engine);
      return engine;
    },
  });
  await end(supervisor, request(EXIT));
  await sleep(10);
  await supervisor.stop();
  expect(() => supervisor.submit(request(40), () => {})).toThrow(expect.objectContaining({ reason: "stopped" }));
  await sleep(500);
  for (const engine of engines.slice(1)) {
    expect(() => engine.submit(request(40), () => {})).toThrow(expect.objectContaining({ reason: "stopped" }));
  }
});
