import { expect, test } from "vitest";
import { createSteadyClock } from "../../../origin/engine/clock.ts";

test("follows a clock that goes on, from zero, and takes a jump back as no time at all", () => {
  let now = 500;
  const clock = createSteadyClock(() => now);
  const readings = [500, 510, 100, 105, 90, 1090].map((ms) => {
    now = ms;
    return clock();
  });
  expect(readings).toEqual([0, 10, 10, 15, 15, 1015]);
});
