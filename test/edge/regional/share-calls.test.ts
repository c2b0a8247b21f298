/** Commands that share calls: who goes with whom, and what becomes of those that wait when a call fails or is lost. */
import { describe, expect, it } from "vitest";
import type { Command } from "../../../edge/regional/redis.ts";
import { StoreUnavailable } from "../../../edge/regional/regional-store.ts";
import { type CommandReply, shareCalls } from "../../../edge/regional/share-calls.ts";

interface Made {
  readonly commands: readonly Command[];
  readonly timeoutMs: number;
  answer(): void;
  fail(error: unknown): void;
}

/** A store whose calls the test answers: each command with its own last word. */
function heldStore({ timeoutMs = 60_000, pendingMax = 1_000 } = {}) {
  const calls: Made[] = [];
  const clock = { ms: 0 };
  const send = shareCalls(
    (commands, callMs) => {
      const replies = Promise.withResolvers<readonly CommandReply[]>();
      calls.push({
        commands,
        timeoutMs: callMs,
        answer: () => replies.resolve(commands.map((command) => ({ result: command.at(-1) }))),
        fail: replies.reject,
      });
      return replies.promise;
    },
    { timeoutMs, pendingMax, now: () => clock.ms },
  );
  return { send, calls, clock };
}

/** Everything that can go on by itself has gone on. */
const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

function get(key: string): Command {
  return ["GET", key];
}

describe("commands that share calls", () => {
  it("go at once and alone while few are under way", async () => {
    const { send, calls } = heldStore();
    const replies = ["a", "b", "c", "d"].map((key) => send(get(key)));
    expect(calls.map(({ commands }) => commands)).toEqual([[get("a")], [get("b")], [get("c")], [get("d")]]);
    for (const call of calls) call.answer();
    expect(await Promise.all(replies)).toEqual(["a", "b", "c", "d"]);
  });

  it("go together once a call is over, when they came meanwhile, and each hears its own reply", async () => {
    const { send, calls } = heldStore();
    const keys = Array.from({ length: 20 }, (_, index) => `key ${index}`);
    const replies = keys.map((key) => send(get(key)));
    await settled();
    expect(calls).toHaveLength(4);
    calls[1]?.answer();
    await settled();
    expect(calls[4]?.commands).toEqual(keys.slice(4).map(get));
    for (const call of calls) call.answer();
    expect(await Promise.all(replies)).toEqual(keys);
  });

  it("are no more than sixty-four to a call", async () => {
    const { send, calls } = heldStore();
    const keys = Array.from({ length: 200 }, (_, index) => `key ${index}`);
    const replies = keys.map((key) => send(get(key)));
    for (let answered = 0; answered < calls.length; answered += 1) {
      calls[answered]?.answer();
      await settled();
    }
    expect(Math.max(...calls.map(({ commands }) => commands.length))).toBe(64);
    expect(calls.flatMap(({ commands }) => commands)).toHaveLength(200);
    expect(await Promise.all(replies)).toEqual(keys);
  });

  it("fail together when their call does, and those after them are asked all the same", async () => {
    const { send, calls } = heldStore();
    const first = ["a", "b", "c", "d", "e", "f"].map((key) => send(get(key)));
    calls[0]?.answer();
    await settled();
    const failure = new StoreUnavailable("unreachable");
    const later = send(get("g"));
    calls[4]?.fail(failure);
    await expect(first[4]).rejects.toBe(failure);
    await expect(first[5]).rejects.toBe(failure);
    await settled();
    for (const call of calls) call.answer();
    expect(await later).toBe("g");
    expect(await Promise.all(first.slice(0, 4))).toEqual(["a", "b", "c", "d"]);
  });

  it("hear of an error that is theirs alone, and of a reply that is missing", async () => {
    const replies: readonly CommandReply[] = [{ result: "of a" }, { error: "NOSCRIPT No matching script." }];
    const first = Promise.withResolvers<readonly CommandReply[]>();
    let calls = 0;
    const send = shareCalls(
      async (commands) => {
        calls += 1;
        if (calls === 1) return first.promise;
        return commands.length === 1 ? new Promise(() => {}) : replies;
      },
      { timeoutMs: 60_000, pendingMax: 1_000, now: () => 0 },
    );
    const alone = send(get("x"));
    for (let hanging = 0; hanging < 3; hanging += 1) void send(get("y"));
    const [a, b, c] = ["a", "b", "c"].map((key) => send(get(key)));
    const refused = expect(b).rejects.toThrow("NOSCRIPT");
    const missing = expect(c).rejects.toThrow("can't be read");
    first.resolve([{ result: "alone" }]);
    expect(await alone).toBe("alone");
    expect(await a).toBe("of a");
    await refused;
    await missing;
    expect(calls).toBe(5);
  });

  it("are never run once they were given up", async () => {
    const { send, calls } = heldStore({ timeoutMs: 20 });
    const replies = Array.from({ length: 4 }, (_, index) => send(get(`first ${index}`)));
    const late = send(get("late"));
    await expect(late).rejects.toMatchObject({ message: "timeout", heard: "silent" });
    for (const call of calls) call.answer();
    await Promise.all(replies);
    await settled();
    expect(calls.flatMap(({ commands }) => commands)).not.toContainEqual(get("late"));
  });

  it("have one time for waiting and for the call that they make after it", async () => {
    const { send, calls } = heldStore({ timeoutMs: 200 });
    for (let hanging = 0; hanging < 4; hanging += 1) void send(get("hanging"));
    const timedOut = { message: "timeout", heard: "silent" };
    const waited = expect(send(get("waited"))).rejects.toMatchObject(timedOut);
    const alongside = expect(send(get("alongside"))).rejects.toMatchObject(timedOut);
    calls[0]?.answer();
    await settled();
    expect(calls[4]?.commands).toEqual([get("waited"), get("alongside")]);
    // The store never answers this call, and nothing but their own time ends it here.
    await waited;
    await alongside;
  });

  it("go on when requests have ended in the middle of all calls", async () => {
    const { send, calls, clock } = heldStore({ timeoutMs: 50 });
    // Nobody ever hears of these again.
    for (let lost = 0; lost < 4; lost += 1) void send(get("lost"));
    clock.ms += 51;
    const reply = send(get("a"));
    calls[4]?.answer();
    expect(await reply).toBe("a");
  });

  it("wait only up to a number", async () => {
    const { send, calls } = heldStore({ pendingMax: 2 });
    const replies = Array.from({ length: 6 }, (_, index) => send(get(`key ${index}`)));
    await expect(send(get("one too many"))).rejects.toMatchObject({ heard: "not-asked" });
    for (let answered = 0; answered < calls.length; answered += 1) {
      calls[answered]?.answer();
      await settled();
    }
    await Promise.all(replies);
  });

  it("go alone where they are long, or have less time than usual, whoever else waits", async () => {
    const { send, calls } = heldStore();
    const replies = Array.from({ length: 6 }, (_, index) => send(get(`key ${index}`)));
    const long = send(["SET", "k", "x".repeat(20_000)]);
    const hurried = send(get("soon"), 7);
    expect(calls.map(({ commands }) => commands.length)).toEqual([1, 1, 1, 1, 1, 1]);
    expect(calls.at(-1)?.timeoutMs).toBe(7);
    for (let answered = 0; answered < calls.length; answered += 1) {
      calls[answered]?.answer();
      await settled();
    }
    expect(await hurried).toBe("soon");
    expect(await long).toHaveLength(20_000);
    await Promise.all(replies);
  });
});
