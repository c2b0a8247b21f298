import { expect, test } from "vitest";
import { StopFilter } from "../../../origin/stream/stop-strings.ts";

/** Feeds the pieces; what a client would have seen. */
function read(stops: readonly string[], pieces: readonly string[]): { text: string; stopped: boolean } {
  const filter = new StopFilter(stops);
  let text = "";
  for (const piece of pieces) {
    const cut = filter.push(piece);
    text += cut.text;
    if (cut.stopped) return { text, stopped: true };
  }
  return { text: text + filter.flush(), stopped: false };
}

/** A plain definition to compare with: the first position at which any stop string has just been completed. */
function expected(stops: readonly string[], text: string): string {
  for (let end = 1; end <= text.length; end++) {
    const hits = stops.filter((stop) => text.slice(0, end).endsWith(stop));
    if (hits.length > 0) return text.slice(0, end - Math.max(...hits.map((stop) => stop.length)));
  }
  return text;
}

test("cuts before a stop string that lies across pieces", () => {
  expect(read(["\n\nUser:"], ["Hi", "\n", "\nUs", "er", ": more"])).toEqual({ text: "Hi", stopped: true });
});

test("holds back only what could still become a stop string", () => {
  const filter = new StopFilter(["abc"]);
  expect(filter.push("xab")).toEqual({ text: "x", stopped: false });
  expect(filter.push("ab")).toEqual({ text: "ab", stopped: false });
  expect(filter.flush()).toBe("ab");
});

test("gives everything back when no stop string came", () => {
  expect(read(["END"], ["the EN", "D"].slice(0, 1))).toEqual({ text: "the EN", stopped: false });
  expect(read([], ["any", "thing"])).toEqual({ text: "anything", stopped: false });
});

test("cuts at the same place however the text is cut into pieces", () => {
  const stopSets = [["abc", "b"], ["aab"], ["ba", "ab"], ["aaaa", "bb"], ["abab", "bab", "c"]];
  for (let n = 0; n < 3 ** 7; n++) {
    const text = n.toString(3).padStart(7, "0").replaceAll("0", "a").replaceAll("1", "b").replaceAll("2", "c");
    for (const stops of stopSets) {
      for (const pieces of [[text], Array.from(text), [text.slice(0, 3), text.slice(3)], text.match(/..?/g) ?? []]) {
        expect(read(stops, pieces).text, `${text} by ${stops.join()}`).toBe(expected(stops, text));
      }
    }
  }
});
