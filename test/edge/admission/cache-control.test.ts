/** What a client's `cache-control` asks for, however it is written. */
import { expect, it } from "vitest";
import { readCacheWish } from "../../../edge/admission/cache-control.ts";

const ANYTHING = { read: true, keep: true, ageMaxSeconds: undefined, onlyIfCached: false };

it.each([
  [null, {}],
  ["", {}],
  ["no-transform, x=1", {}],
  ["no-store", { read: false, keep: false }],
  ["No-Cache", { read: false }],
  [" ONLY-IF-CACHED ", { onlyIfCached: true }],
  ["max-age=15", { ageMaxSeconds: 15 }],
  ['max-age="15", only-if-cached', { ageMaxSeconds: 15, onlyIfCached: true }],
  ["max-age=-1", { ageMaxSeconds: 0 }],
  ["max-age", { ageMaxSeconds: 0 }],
  ["max-age=1e9", { ageMaxSeconds: 0 }],
  // Two headers of one name arrive as one list.
  ["max-age=15, max-age=3600", { ageMaxSeconds: 15 }],
  ["max-age=3600, max-age=0", { ageMaxSeconds: 0 }],
])("%j", (header, wish) => {
  expect(readCacheWish(header)).toEqual({ ...ANYTHING, ...wish });
});
