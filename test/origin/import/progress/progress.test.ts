/** Progress on a terminal and in a log. */
import { PassThrough } from "node:stream";
import { describe, expect, test } from "vitest";
import { reportProgress } from "../../../../origin/import/progress/progress.ts";

/** A stream that records what is written to it. */
function recorder(isTTY: boolean): { readonly stream: NodeJS.WriteStream; readonly written: () => string } {
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 200, rows: 50 });
  const chunks: string[] = [];
  stream.on("data", (chunk: Buffer) => chunks.push(chunk.toString()));
  return { stream: stream as unknown as NodeJS.WriteStream, written: () => chunks.join("") };
}

/** The lines that stay on a terminal: what follows the last "clear line" of each. */
function lasting(written: string): readonly string[] {
  const lines = written.split("\n").map((line) => line.split("\u001b[2K").at(-1) ?? "");
  return lines.filter((line) => line !== "");
}

describe("on a terminal", () => {
  test("leaves one line of a completed task", () => {
    const { stream, written } = recorder(true);
    const progress = reportProgress(stream, () => 0);
    progress.begin("importing tiny", 2);
    progress.update(1);
    progress.update(2);
    progress.end();
    expect(written()).toContain("100%");
    expect(lasting(written())).toEqual(["importing tiny: done"]);
  });

  test("leaves nothing of a task that did not complete", () => {
    const { stream, written } = recorder(true);
    const progress = reportProgress(stream, () => 0);
    progress.begin("downloading model.gguf", 100, "bytes");
    progress.line("Hugging Face can't be reached; trying ModelScope");
    progress.end();
    expect(lasting(written())).toEqual(["Hugging Face can't be reached; trying ModelScope"]);
  });
});

test("in a log, prints a plain line every few seconds", () => {
  const { stream, written } = recorder(false);
  let nowMs = 0;
  const progress = reportProgress(stream, () => nowMs);
  progress.begin("downloading model.gguf", 100_000_000, "bytes");
  for (; nowMs <= 10_000; nowMs += 1_000) progress.update(nowMs * 5_000);
  progress.end();
  expect(written().trimEnd().split("\n")).toEqual([
    "downloading model.gguf: 25 %, 5.0 MB/s, 15 s left",
    "downloading model.gguf: 50 %, 5.0 MB/s, 10 s left",
  ]);
});
