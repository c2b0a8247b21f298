/** Promises kept and missed, and how the report and its plot say so. */
import { describe, expect, test } from "vitest";
import type { Comparison } from "../../../origin/evaluate/compare.ts";
import {
  type Figures,
  holdToPromises,
  type ImportReport,
  reportMarkdown,
} from "../../../origin/evaluate/import-report.ts";
import { drawReport } from "../../../origin/evaluate/report-plot.ts";

const read: Comparison = {
  tokens: 10,
  referencePerplexity: 10,
  perplexity: 10.1,
  referenceAccuracy: 0.5,
  accuracy: 0.495,
  meanKl: 0.01,
  p99Kl: 0.1,
  top1: 0.99,
};
const full = {
  format: "fp32",
  weightBytes: 1000,
  folderBytes: 1200,
  decodeTokensPerSecond: 50,
  promptTokensPerSecond: 300,
};
const sound: Figures = {
  full,
  quantized: { ...full, format: "int8", weightBytes: 260, decodeTokensPerSecond: 70 },
  evaluation: { parts: { prose: read }, texts: read, all: read, sameGreedyTokens: 3, answerTokens: 4 },
};

function reportOf(figures: Figures, model = "tiny"): ImportReport {
  const source = { name: "tiny.gguf", sha256: "ab".repeat(32) };
  return { model, source, machine: "2 of 2 cores, a CPU", ...figures, promises: holdToPromises(figures) };
}

function missed(figures: Figures): readonly string[] {
  return holdToPromises(figures).flatMap(({ what, isKept }) => (isKept ? [] : [what]));
}

const { quantized, evaluation } = sound;
const { texts, all } = evaluation;

test("all are kept on their bounds", () => {
  expect(missed(sound)).toEqual([]);
});

test.each<[string, Figures, RegExp]>([
  ["size", { ...sound, quantized: { ...quantized, weightBytes: 261 } }, /^bytes of weights/],
  ["speed", { ...sound, quantized: { ...quantized, decodeTokensPerSecond: 69 } }, /^tokens a second/],
  ["perplexity", { ...sound, evaluation: { ...evaluation, texts: { ...texts, perplexity: 10.3 } } }, /^perplexity/],
  ["accuracy", { ...sound, evaluation: { ...evaluation, texts: { ...texts, accuracy: 0.48 } } }, /^tokens predicted/],
  ["agreement", { ...sound, evaluation: { ...evaluation, all: { ...all, top1: 0.97 } } }, /^first choices/],
  ["a figure that is no number", { ...sound, full: { ...full, weightBytes: Number.NaN } }, /^bytes of weights/],
])("a missed %s is named, and nothing else", (_, figures, what) => {
  expect(missed(figures)).toEqual([expect.stringMatching(what)]);
});

describe("in words", () => {
  test("a report without a miss says so", () => {
    const markdown = reportMarkdown(reportOf(sound), "report.svg");
    expect(markdown).toContain("Every promise is kept.");
    expect(markdown).not.toContain("missed");
    expect(markdown).toContain("](report.svg)");
    expect(markdown).toMatch(/^\| int8 +\| 0\.0 \| 0\.0 \| 70\.0 \| 300 \|$/m);
  });

  test("a miss is a sentence with the figure and the bound", () => {
    const heavy = { ...sound, quantized: { ...quantized, weightBytes: 325 } };
    const markdown = reportMarkdown(reportOf(heavy), "report.svg");
    expect(markdown).toContain(
      "Not kept by int8:\n\n- bytes of weights, over fp32's: 0.3250, promised is at most 0.26.",
    );
    expect(markdown).toMatch(/\| 0\.3250 \| at most 0\.26 \| \*\*missed\*\* \|/);
  });
});

describe("the plot", () => {
  test("has a bar a figure whose lengths are the figures'", () => {
    const svg = drawReport(reportOf(sound));
    const widths = [...svg.matchAll(/<rect x="304" y="\d+" width="([\d.]+)"/g)].map(([, width]) => Number(width) / 180);
    const expected = sound.quantized.weightBytes / full.weightBytes;
    // Full precision, then the format, for each of five figures.
    expect(widths).toHaveLength(10);
    expect(widths[0]).toBeCloseTo(1, 2);
    expect(widths[1]).toBeCloseTo(expected, 2);
    expect(widths[3]).toBeCloseTo(1.4, 2);
    expect(svg).not.toMatch(/\d missed<\/text>/);
  });

  test("shows a miss, keeps a model's name out of its markup, and does not draw what is no number", () => {
    const broken = { ...sound, full: { ...full, weightBytes: Number.NaN } };
    const svg = drawReport(reportOf(broken, `<script>"&`));
    expect(svg).toContain("NaN missed</text>");
    expect(svg).toContain("&lt;script&gt;&quot;&amp;");
    expect(svg).not.toMatch(/<script|="NaN"/);
  });

  test("is the same for the same report", () => {
    expect(drawReport(reportOf(sound))).toBe(drawReport(reportOf(sound)));
  });
});
