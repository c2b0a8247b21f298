/** The engine in a real thread, on a fake runtime: messages, cancels and the thread's death. */
import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { Worker } from "node:worker_threads";
import { describe, expect, onTestFinished, test } from "vitest";
import { EngineClient, type GenerationEvent } from "../../../origin/engine/client.ts";
import type { SequenceUpdate } from "../../../origin/engine/engine.ts";
import { NO_COUNTERS, NO_STEP, packReport, type ToWorker } from "../../../origin/engine/messages.ts";
import type { SequenceRequest } from "../../../origin/engine/sequence.ts";
import { type FakeEngineOptions, startFakeEngine } from "../../fakes/engine.ts";
import { GREEDY } from "../../fakes/greedy.ts";

const POISON = 1;
const FAIL = 2;
const CRASH = 3;

async function start(options: FakeEngineOptions = {}): Promise<EngineClient> {
  const triggers = {
    poisonToken: POISON,
    failToken: FAIL,
    crashToken: CRASH,
    shunned: [POISON, FAIL, CRASH, 256, 257],
  };
  const client = await startFakeEngine({ ...options, runtime: { ...triggers, ...options.runtime } });
  onTestFinished(() => client.stop());
  return client;
}

function request(first: number, maxTokens = 8): Omit<SequenceRequest, "id"> {
  return { prompt: Int32Array.of(first, 20, 30), maxTokens, sampling: GREEDY };
}

/** Every event until the last one. */
async function readEvents(client: EngineClient, asked: Omit<SequenceRequest, "id">): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = [];
  await new Promise<void>((resolve) => {
    client.submit(asked, (event) => {
      events.push(event);
      if (event.type === "finish" || event.type === "error") resolve();
    });
  });
  return events;
}

/** The tokens; rejects with the error that ended the generation. */
async function read(client: EngineClient, asked: Omit<SequenceRequest, "id">): Promise<number[]> {
  const events = await readEvents(client, asked);
  const last = events.at(-1);
  if (last?.type === "error") throw last.error;
  return events.flatMap((event) => (event.type === "token" ? [event.token] : []));
}

/** Polls, because the thread answers when it likes; fails by the test's timeout. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(2);
}

describe.each([false, true])("an engine in a thread (asynchronous runtime: %s)", (asynchronous) => {
  test("answers many at once as it answers each alone", async () => {
    const client = await start({ runtime: { asynchronous } });
    const firsts = Array.from({ length: 20 }, (_, i) => 40 + i);
    const together = await Promise.all(firsts.map((first) => read(client, request(first))));
    for (const [i, first] of firsts.entries()) expect(together[i]).toEqual(await read(client, request(first)));
    expect(new Set(together.map(String)).size).toBeGreaterThan(15);
  });

  test("stops working on what is cancelled", async () => {
    let steps = 0;
    const client = await start({ onStep: () => (steps += 1), runtime: { asynchronous, stepMs: 2, slots: 1 } });
    const events: GenerationEvent[] = [];
    const generation = client.submit(request(40, 500), (event) => events.push(event));
    const waiting = read(client, request(41, 3));
    await until(() => events.length > 0);
    generation.cancel();
    generation.cancel();
    const heard = events.length;
    const before = steps;
    expect(await waiting).toHaveLength(3);
    // The only row was free for the one that waited after the steps that nobody had told of yet, and not after 500.
    expect(steps - before).toBeLessThan(250);
    await until(() => client.occupancy.running === 0);
    // Not even of the step that was under way.
    expect(events).toHaveLength(heard);
  });
});

test("whoever waits is told his place in line, each time it changes", async () => {
  const client = await start({ runtime: { slots: 1, stepMs: 1 } });
  const all = await Promise.all([40, 41, 42, 43].map((first) => readEvents(client, request(first))));
  const places = all.map((events) => events.flatMap((event) => (event.type === "queued" ? [event.position] : [])));
  // The first may be told that it is first, where the thread sees it before its first step.
  expect(places.slice(1)).toEqual([[1], [2, 1], [3, 2, 1]]);
  for (const events of all) {
    const firstToken = events.findIndex(({ type }) => type === "token");
    expect(events.slice(firstToken).map(({ type }) => type)).not.toContain("queued");
  }
});

test("the row of a cancelled generation is free after the step that was under way, wherever it was cancelled", async () => {
  const client = await start({ runtime: { stepMs: 3, slots: 3 } });
  for (const cancelAt of [1, 2, 5, 17]) {
    let seen = 0;
    const doomed = client.submit(request(41, 500), () => {});
    await new Promise<void>((resolve) => {
      const witness = client.submit(request(40, 500), ({ type }) => {
        if (type !== "token" || ++seen !== cancelAt) return;
        doomed.cancel();
        // The thread reads of this one right behind the cancel, however many steps later that is: in its first step the
        // row must be free. Who only counted the witness's tokens would count on the thread to have read of it by then.
        client.submit(request(42), ({ type: answered }) => {
          if (answered !== "token") return;
          expect.soft(client.occupancy.running, `cancelled at token ${cancelAt}`).toBeLessThanOrEqual(2);
          witness.cancel();
          resolve();
        });
      });
    });
    await until(() => client.occupancy.running === 0);
  }
});

test("cancelling at any moment, before the first step to after the last, frees everything and disturbs nobody", async () => {
  const client = await start({ runtime: { stepMs: 1, slots: 2 } });
  const alone = await read(client, request(60, 20));
  for (let moment = 0; moment < 24; moment++) {
    const heard: GenerationEvent[] = [];
    const [other, doomed] = [
      read(client, request(60, 20)),
      client.submit(request(50 + moment, 8), (event) => heard.push(event)),
    ];
    await sleep(moment);
    doomed.cancel();
    const known = heard.length;
    expect(await other).toEqual(alone);
    expect(heard).toHaveLength(known);
  }
  await until(() => client.occupancy.running + client.occupancy.waiting === 0);
});

function update(id: number, status: "running" | "length"): SequenceUpdate {
  return { id, token: 50, status, cachedTokens: 0 };
}

test("whoever cancels at one of several tokens of one step hears none of those behind it", () => {
  // A thread that says what it is told to: whether a real one guesses is a matter of its clock.
  const told: ToWorker[] = [];
  const thread = Object.assign(new EventEmitter(), { postMessage: (message: ToWorker) => void told.push(message) });
  const limits = { vocabSize: 256, slots: 2, capacity: 64, tokenBytes: 4, draftTokens: 3 };
  const ready = { type: "ready", limits, selfTest: undefined } as const;
  const hooks = { onCrash: () => {}, onTrouble: () => {}, stopMs: 1, silenceMs: 60_000, stopSwitch: undefined };
  const client = new EngineClient(thread as unknown as Worker, ready, hooks);
  const heard: [id: number, type: string][] = [];
  const generations = [1, 2].map((id) =>
    client.submit(request(40 + id), ({ type }) => {
      heard.push([id, type]);
      if (id === 1 && heard.length === 2) generations[0]?.cancel();
    }),
  );
  const state = { occupancy: { running: 2, waiting: 0 }, serviceMs: undefined, counters: NO_COUNTERS, waiting: [] };
  const updates = [
    update(1, "running"),
    update(1, "running"),
    update(1, "running"),
    update(1, "length"),
    update(2, "length"),
  ];
  thread.emit("message", { type: "step", report: packReport(state, updates, NO_STEP), logprobs: undefined });
  expect(heard).toEqual([
    [1, "token"],
    [1, "token"],
    [2, "token"],
    [2, "finish"],
  ]);
  expect(told.map((message) => message.type)).toEqual(["submit", "submit", "cancel"]);
  // Ends the watch over the thread's silence.
  thread.emit("exit", 0);
});

test("a listener that throws ends its own generation, and is told why", async () => {
  const troubles: string[] = [];
  const client = await start({ onTrouble: (message) => troubles.push(message), runtime: { stepMs: 1 } });
  const healthy = read(client, request(40));
  const events: GenerationEvent[] = [];
  client.submit(request(41, 400), (event) => {
    events.push(event);
    if (event.type === "token") throw new Error("a bug in a listener");
  });
  expect(await healthy).toHaveLength(8);
  await until(() => client.occupancy.running === 0);
  expect(events.map(({ type }) => type).filter((type) => type !== "queued")).toEqual(["token", "error"]);
  expect(troubles).toEqual([expect.stringContaining("a bug in a listener")]);
});

test("an end token is counted and not given", async () => {
  const client = await start();
  const tokens = await read(client, request(40));
  const ending = await start({ endTokens: [tokens[3] ?? -1] });
  const events = await readEvents(ending, request(40));
  expect(events.at(-1)).toEqual({
    type: "finish",
    reason: "stop",
    generated: tokens.indexOf(tokens[3] ?? -1) + 1,
    cachedTokens: 0,
  });
  expect(events.flatMap((event) => (event.type === "token" ? [event.token] : []))).not.toContain(tokens[3]);
});

test("a poisoned request fails alone", async () => {
  const client = await start();
  const healthy = read(client, request(40));
  await expect(read(client, request(POISON))).rejects.toMatchObject({ reason: "poisoned" });
  expect(await healthy).toHaveLength(8);
});

test("a request that the engine refuses fails alone", async () => {
  const troubles: string[] = [];
  const client = await start({ onTrouble: (message) => troubles.push(message) });
  const healthy = read(client, request(40));
  await expect(read(client, request(9999))).rejects.toMatchObject({ reason: "failed" });
  expect(await healthy).toHaveLength(8);
  expect(troubles).toEqual(["a token is not in the vocabulary"]);
});

test("a failed run is told, and the engine goes on", async () => {
  const troubles: string[] = [];
  const client = await start({ onTrouble: (message) => troubles.push(message) });
  await expect(read(client, request(FAIL))).rejects.toMatchObject({ reason: "failed" });
  expect(troubles).toEqual(["the run failed"]);
  expect(await read(client, request(40))).toHaveLength(8);
});

test("a thread that dies ends everything that is open, is told once, and takes nothing more", async () => {
  const crashes: Error[] = [];
  const client = await start({ onCrash: (cause) => crashes.push(cause), runtime: { stepMs: 2 } });
  // Two run, the third kills the thread when its turn comes, two still wait.
  const firsts = [40, 41, CRASH, 42, 43];
  const ends = await Promise.allSettled(firsts.map((first) => read(client, request(first, 400))));
  for (const end of ends) expect(end).toMatchObject({ status: "rejected", reason: { reason: "crashed" } });
  expect(crashes).toHaveLength(1);
  expect(client.occupancy).toEqual({ running: 0, waiting: 0 });
  expect(() => client.submit(request(40), () => {})).toThrow(expect.objectContaining({ reason: "crashed" }));
});

test("stopping ends everything that is open", async () => {
  const client = await start({ runtime: { stepMs: 5 } });
  const open = [40, 41, 42, 43, 44, 45].map((first) => read(client, request(first, 400)));
  const ends = Promise.allSettled(open);
  await client.stop();
  for (const end of await ends) expect(end).toMatchObject({ status: "rejected", reason: { reason: "stopped" } });
  await client.stop();
});

test.each(["stopped", "crashed"])(
  "the step in progress is ended from here, and the switch given up when the thread is gone: %s",
  async (reason) => {
    const said: string[] = [];
    const stopSwitch = { stop: () => said.push("stop"), [Symbol.dispose]: () => said.push("given up") };
    const client = await start({
      stopSwitch,
      silenceMs: reason === "crashed" ? 50 : 60_000,
      onCrash: () => said.push("crash"),
      onTrouble: () => said.push("trouble"),
      runtime: { hangToken: 4, hangMs: 400 },
    });
    const end = read(client, request(4)).catch((error: unknown) => error);
    if (reason === "stopped") await client.stop();
    expect(await end).toMatchObject({ reason });
    await until(() => said.includes("given up"));
    expect(said).toEqual(reason === "crashed" ? ["stop", "crash", "given up"] : ["stop", "given up"]);
  },
);

test("a runtime that can't be created is an error with its own words", async () => {
  await expect(
    start({
      runtimeModule: "data:text/javascript,export const createRuntime = () => { throw new Error('no weights here') }",
    }),
  ).rejects.toThrow("no weights here");
  await expect(start({ runtimeModule: "data:text/javascript,process.exit(7)" })).rejects.toThrow("code 7");
});
