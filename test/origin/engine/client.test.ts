/** The engine in a real thread, on a fake runtime: messages, cancels and the thread's death. */
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, onTestFinished, test } from "vitest";
import type { EngineClient, Generation, GenerationEvent } from "../../../origin/engine/client.ts";
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

async function read(generation: Generation): Promise<number[]> {
  const tokens: number[] = [];
  for await (const event of generation) if (event.type === "tokens") tokens.push(...event.tokens);
  return tokens;
}

/** Polls, because the thread answers when it likes; fails by the test's timeout. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(2);
}

describe.each([false, true])("an engine in a thread (asynchronous runtime: %s)", (asynchronous) => {
  test("answers many at once as it answers each alone", async () => {
    const client = await start({ runtime: { asynchronous } });
    const firsts = Array.from({ length: 20 }, (_, i) => 40 + i);
    const together = await Promise.all(firsts.map((first) => read(client.submit(request(first)))));
    for (const [i, first] of firsts.entries()) expect(together[i]).toEqual(await read(client.submit(request(first))));
    expect(new Set(together.map(String)).size).toBeGreaterThan(15);
  });

  test("stops working on what is cancelled", async () => {
    const client = await start({ runtime: { asynchronous, stepMs: 2, slots: 1 } });
    const generation = client.submit(request(40, 500));
    const waiting = client.submit(request(41, 3));
    for await (const event of generation) {
      expect(event.type).toBe("tokens");
      break;
    }
    // The only row is free: the one that waited gets it long before 500 steps could be over.
    const begun = performance.now();
    expect(await read(waiting)).toHaveLength(3);
    expect(performance.now() - begun).toBeLessThan(500);
    await until(() => client.occupancy.running === 0);
  });
});

test("a reader whose generation is cancelled hears of it", async () => {
  const client = await start({ runtime: { stepMs: 2 } });
  const generation = client.submit(request(40, 500));
  const reading = read(generation);
  setTimeout(() => generation.cancel(), 20);
  await expect(reading).rejects.toMatchObject({ name: "EngineError", reason: "cancelled" });
});

test("an end token is counted and not given", async () => {
  const client = await start();
  const tokens = await read(client.submit(request(40)));
  const ending = await start({ endTokens: [tokens[3] ?? -1] });
  const events: GenerationEvent[] = [];
  for await (const event of ending.submit(request(40))) events.push(event);
  expect(events.at(-1)).toEqual({ type: "finish", reason: "stop", generated: tokens.indexOf(tokens[3] ?? -1) + 1 });
  expect(events.flatMap((event) => (event.type === "tokens" ? event.tokens : []))).not.toContain(tokens[3]);
});

test("a poisoned request fails alone", async () => {
  const client = await start();
  const healthy = read(client.submit(request(40)));
  await expect(read(client.submit(request(POISON)))).rejects.toMatchObject({ reason: "poisoned" });
  expect(await healthy).toHaveLength(8);
});

test("a request that the engine refuses fails alone", async () => {
  const troubles: string[] = [];
  const client = await start({ onTrouble: (message) => troubles.push(message) });
  const healthy = read(client.submit(request(40)));
  await expect(read(client.submit(request(9999)))).rejects.toMatchObject({ reason: "failed" });
  expect(await healthy).toHaveLength(8);
  expect(troubles).toEqual(["a token is not in the vocabulary"]);
});

test("a failed run is told, and the engine goes on", async () => {
  const troubles: string[] = [];
  const client = await start({ onTrouble: (message) => troubles.push(message) });
  await expect(read(client.submit(request(FAIL)))).rejects.toMatchObject({ reason: "failed" });
  expect(troubles).toEqual(["the run failed"]);
  expect(await read(client.submit(request(40)))).toHaveLength(8);
});

test("a thread that dies ends everything that is open, is told once, and takes nothing more", async () => {
  const crashes: Error[] = [];
  const client = await start({ onCrash: (cause) => crashes.push(cause), runtime: { stepMs: 2 } });
  // Two run, the third kills the thread when its turn comes, two still wait.
  const firsts = [40, 41, CRASH, 42, 43];
  const ends = await Promise.allSettled(firsts.map((first) => read(client.submit(request(first, 400)))));
  for (const end of ends) expect(end).toMatchObject({ status: "rejected", reason: { reason: "crashed" } });
  expect(crashes).toHaveLength(1);
  expect(client.occupancy).toEqual({ running: 0, waiting: 0 });
  expect(() => client.submit(request(40))).toThrow(expect.objectContaining({ reason: "crashed" }));
});

test("stopping ends everything that is open", async () => {
  const client = await start({ runtime: { stepMs: 5 } });
  const open = [40, 41, 42, 43, 44, 45].map((first) => read(client.submit(request(first, 400))));
  const ends = Promise.allSettled(open);
  await client.stop();
  for (const end of await ends) expect(end).toMatchObject({ status: "rejected", reason: { reason: "stopped" } });
  await client.stop();
});

test("a runtime that can't be created is an error with its own words", async () => {
  await expect(
    start({
      runtimeModule: "data:text/javascript,export const createRuntime = () => { throw new Error('no weights here') }",
    }),
  ).rejects.toThrow("no weights here");
  await expect(start({ runtimeModule: "data:text/javascript,process.exit(7)" })).rejects.toThrow("code 7");
});
