/** Speed and remaining time, with a simulated clock. */
import { expect, test } from "vitest";
import { formatBytes, TransferRate } from "../../../../origin/import/progress/transfer-rate.ts";

test("describes the speed of the last seconds, and the time left at that speed", () => {
  let nowMs = 0;
  const rate = new TransferRate(() => nowMs);
  expect(rate.describe(100)).toBe("");
  // A resumed download: bytes from before do not count.
  rate.note(500_000_000);
  for (let second = 1; second <= 5; second++) {
    nowMs = second * 1_000;
    rate.note(500_000_000 + second * 2_000_000);
  }
  expect(rate.bytesPerSecond).toBe(2_000_000);
  expect(rate.describe(510_000_000 + 60_000_000)).toBe("2.0 MB/s, 30 s left");
  expect(rate.describe(510_000_000 + 600_000_000)).toBe("2.0 MB/s, 5 min left");
  expect(rate.describe(510_000_000 + 72_000_000_000)).toBe("2.0 MB/s, 10.0 h left");
});

test("shows a stall, whatever the speed before it", () => {
  let nowMs = 0;
  const rate = new TransferRate(() => nowMs);
  for (; nowMs <= 60_000; nowMs += 500) rate.note(Math.min(nowMs, 30_000) * 1_000);
  expect(rate.describe(1e9)).toBe("stalled");
});

test.each([
  [0, "0 B"],
  [999, "999 B"],
  [1_000, "1.0 kB"],
  [98_362_432, "98.4 MB"],
  [7e12, "7.0 TB"],
  [9e18, "9000000.0 TB"],
])("%d bytes are %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));
