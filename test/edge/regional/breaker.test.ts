/** The breaker under a set clock: when nobody asks, who is the probe, and what a lost answer does. */
import { describe, expect, it } from "vitest";
import { Breaker, withBreaker } from "../../../edge/regional/breaker.ts";
import type { SendCommand } from "../../../edge/regional/redis.ts";
import { StoreUnavailable } from "../../../edge/regional/regional-store.ts";

const PAUSE_MS = 2_000;
const START_MS = 1_700_000_000_000;

function shut(breaker: Breaker): Breaker {
  for (let silence = 0; silence < 3; silence += 1) breaker.silent(START_MS);
  return breaker;
}

describe("a breaker", () => {
  it("shuts after three silences in a row, not after as many with an answer between", () => {
    const breaker = new Breaker(PAUSE_MS);
    for (let round = 0; round < 5; round += 1) {
      breaker.silent(START_MS);
      breaker.silent(START_MS);
      breaker.answered();
      expect([breaker.isShut, breaker.mayAsk(START_MS)]).toEqual([false, true]);
    }
    expect([shut(breaker).isShut, breaker.mayAsk(START_MS)]).toEqual([true, false]);
  });

  it("lets one probe through after the pause, and the next one a pause later where that was lost", () => {
    const breaker = shut(new Breaker(PAUSE_MS));
    expect(breaker.mayAsk(START_MS + PAUSE_MS - 1)).toBe(false);
    const asked = Array.from({ length: 10 }, () => breaker.mayAsk(START_MS + PAUSE_MS));
    expect(asked).toEqual([true, ...Array<boolean>(9).fill(false)]);
    expect(breaker.mayAsk(START_MS + 2 * PAUSE_MS - 1)).toBe(false);
    expect(breaker.mayAsk(START_MS + 2 * PAUSE_MS)).toBe(true);
  });

  it("opens with the probe's answer, and stays shut with its silence", () => {
    const breaker = shut(new Breaker(PAUSE_MS));
    expect(breaker.mayAsk(START_MS + PAUSE_MS)).toBe(true);
    breaker.silent(START_MS + PAUSE_MS + 500);
    expect(breaker.mayAsk(START_MS + PAUSE_MS + 501)).toBe(false);
    expect(breaker.mayAsk(START_MS + 2 * PAUSE_MS + 500)).toBe(true);
    breaker.answered();
    expect([breaker.isShut, breaker.mayAsk(START_MS + 2 * PAUSE_MS + 501)]).toEqual([false, true]);
  });

  it("is not kept shut by a clock that is set back, and never shuts without a pause", () => {
    expect(shut(new Breaker(PAUSE_MS)).mayAsk(START_MS - 3_600_000)).toBe(true);
    expect(shut(new Breaker(0)).mayAsk(START_MS)).toBe(true);
  });

  it("counts silence alone: refusals and error replies are answers", async () => {
    const breaker = new Breaker(PAUSE_MS);
    let asked = 0;
    let failure = new StoreUnavailable("OOM command not allowed");
    const send: SendCommand = async () => {
      asked += 1;
      throw failure;
    };
    const guarded = withBreaker(send, breaker, () => START_MS);
    for (let time = 0; time < 10; time += 1) await expect(guarded(["PING"])).rejects.toThrowError("OOM");
    expect(asked).toBe(10);
    failure = new StoreUnavailable("timeout", { heard: "silent" });
    for (let time = 0; time < 2; time += 1) await expect(guarded(["PING"])).rejects.toThrowError("timeout");
    // What never went out says nothing of the store.
    failure = new StoreUnavailable("too many commands wait for Redis", { heard: "not-asked" });
    await expect(guarded(["PING"])).rejects.toThrowError("too many");
    failure = new StoreUnavailable("timeout", { heard: "silent" });
    await expect(guarded(["PING"])).rejects.toThrowError("timeout");
    await expect(guarded(["PING"])).rejects.toThrowError(
      expect.objectContaining({ name: "StoreUnavailable", message: "not asked: it was silent lately" }),
    );
    expect(asked).toBe(14);
  });

  it("does not count one that had less than the whole time, and passes that time on", async () => {
    const breaker = new Breaker(PAUSE_MS);
    const times: unknown[] = [];
    const send: SendCommand = async (_, timeoutMs) => {
      times.push(timeoutMs);
      throw new StoreUnavailable("timeout", { heard: "silent" });
    };
    const guarded = withBreaker(send, breaker, () => START_MS);
    for (let time = 0; time < 5; time += 1) await expect(guarded(["PING"], 7)).rejects.toThrowError("timeout");
    expect([times, breaker.isShut]).toEqual([[7, 7, 7, 7, 7], false]);
  });
});
