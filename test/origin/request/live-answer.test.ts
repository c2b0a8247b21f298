/** One answer and its readers: whoever comes late reads the same, and the maker works for as long as anybody reads. */
import { setImmediate as turn } from "node:timers/promises";
import { array, assert, asyncProperty, integer, record } from "fast-check";
import { describe, expect, test } from "vitest";
import {
  Abandoned,
  type AnswerEvent,
  LiveAnswer,
  type LiveEvent,
  type LiveReader,
} from "../../../origin/request/live-answer.ts";

function begin() {
  const seen = { ends: 0, stops: 0 };
  const answer = new LiveAnswer({ suffix: "1", created: 1, onEnd: () => (seen.ends += 1) });
  answer.whenAbandoned(() => (seen.stops += 1));
  return { answer, seen };
}

function text(generated: number): AnswerEvent {
  return { type: "text", index: 0, text: `${generated} `, tokens: undefined, generated };
}

async function readAll(reader: LiveReader, eventsMax = 3): Promise<readonly LiveEvent[]> {
  const all: LiveEvent[] = [];
  for (;;) {
    const events = await reader.read(eventsMax);
    if (events.length === 0) return all;
    expect(events.length).toBeLessThanOrEqual(eventsMax);
    all.push(...events);
  }
}

describe("an answer", () => {
  test("is the same for every reader, whenever he comes and however he reads", async () => {
    const reader = record({ comesAt: integer({ min: 0, max: 12 }), eventsMax: integer({ min: 1, max: 5 }) });
    await assert(
      asyncProperty(
        integer({ min: 1, max: 12 }),
        array(reader, { minLength: 1, maxLength: 6 }),
        async (length, plan) => {
          const { answer, seen } = begin();
          // So that it is not given up before the last has come.
          const first = readAll(answer.join());
          const others: Promise<readonly LiveEvent[]>[] = [];
          for (let at = 0; at <= 12; at++) {
            for (const { comesAt, eventsMax } of plan)
              if (comesAt === at) others.push(readAll(answer.join(), eventsMax));
            if (at < length) answer.publish(text(at));
            if (at === length) answer.finish();
            if (at % 3 === 0) await turn();
          }
          const expected = Array.from({ length }, (_, at) => text(at));
          expect(await first).toEqual(expected);
          for (const other of await Promise.all(others)) expect(other).toEqual(expected);
          expect(seen).toEqual({ ends: 1, stops: 0 });
        },
      ),
    );
  });

  test("is given up when the last reader leaves, and not before", async () => {
    const { answer, seen } = begin();
    const [one, two] = [answer.join(), answer.join()];
    answer.publish(text(1));
    one[Symbol.dispose]();
    one[Symbol.dispose]();
    expect([seen.stops, answer.open]).toEqual([0, true]);
    await expect(one.read(1)).rejects.toBeInstanceOf(Abandoned);
    answer.publish(text(2));
    expect(await two.read(9)).toEqual([text(1), text(2)]);
    const waiting = two.read(1);
    two[Symbol.dispose]();
    await expect(waiting).rejects.toBeInstanceOf(Abandoned);
    expect([seen, answer.open]).toEqual([{ ends: 1, stops: 1 }, false]);
    answer.publish(text(3));
    answer.finish();
    expect(seen).toEqual({ ends: 1, stops: 1 });
  });

  test("stops a maker that says how only after everybody has left", () => {
    const answer = new LiveAnswer({ suffix: "1", created: 1, onEnd: () => {} });
    answer.join()[Symbol.dispose]();
    let stops = 0;
    answer.whenAbandoned(() => (stops += 1));
    expect(stops).toBe(1);
  });

  test("that fails is read to where it failed, by everybody, and stops nobody who has stopped already", async () => {
    const { answer, seen } = begin();
    const early = answer.join();
    answer.publish(text(1));
    answer.fail(new Error("broken"));
    const late = answer.join();
    for (const reader of [early, late]) {
      expect(await reader.read(9)).toEqual([text(1)]);
      await expect(reader.read(9)).rejects.toThrow("broken");
      reader[Symbol.dispose]();
    }
    expect(seen).toEqual({ ends: 1, stops: 0 });
  });

  test("tells its place in line to readers who want to know, each change once, until its first event", async () => {
    const { answer } = begin();
    const [curious, other] = [answer.join(), answer.join()];
    answer.queue(3);
    const first = curious.read(9);
    curious.tellPosition();
    expect(await first).toEqual([{ type: "queued", position: 3 }]);
    answer.queue(3);
    answer.queue(1);
    expect(await curious.read(9)).toEqual([{ type: "queued", position: 1 }]);
    const next = Promise.all([curious.read(9), other.read(9)]);
    answer.queue(1);
    answer.publish(text(1));
    expect(await next).toEqual([[text(1)], [text(1)]]);
  });
});
