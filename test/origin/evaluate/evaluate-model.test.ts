/** Evaluations of tiny models, from the folder to the figures: what is lost, and what happens without the source. */
import { mkdtempSync, readdirSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { WeightFormatName } from "../../../origin/onnx/weight-formats.ts";
import type { Evaluation } from "../../../origin/evaluate/evaluate.ts";
import { evaluateModel } from "../../../origin/evaluate/evaluate-model.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";

let root = "";
let gguf = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "coldpath-evaluate-"));
  gguf = join(root, "tiny.gguf");
  writeTinyCheckpoint(gguf);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function common() {
  return { config: readImportConfig({ COLDPATH_MODELS_DIR: join(root, "models") }), progress: silentProgress, fetch };
}

async function importAs(format: WeightFormatName): Promise<void> {
  await ensureModel({ ...common(), model: gguf, format });
}

async function evaluateTiny(model: string, source?: string): Promise<Evaluation> {
  const options = { ...common(), model, source, backend: "capi", threads: 1 } as const;
  return (await evaluateModel(options)).evaluation;
}

describe("the loss", () => {
  test("of full precision is nothing", async () => {
    await importAs("fp32");
    const { texts, all, sameGreedyTokens, answerTokens, parts } = await evaluateTiny(gguf);
    expect(Object.keys(parts)).toEqual(["prose", "code", "chinese", "chat"]);
    expect(texts.tokens).toBeGreaterThan(500);
    expect(texts.perplexity).toBe(texts.referencePerplexity);
    expect(Math.abs(all.meanKl)).toBeLessThan(1e-9);
    expect(all.top1).toBe(1);
    expect(parts["chat"]?.accuracy).toBe(1);
    expect(sameGreedyTokens).toBe(answerTokens);
    expect(answerTokens).toBeGreaterThan(1);
  });

  test("grows from 8 bits to 4", async () => {
    await importAs("int8-rotated");
    const eight = await evaluateTiny(gguf);
    await importAs("int4");
    const four = await evaluateTiny(gguf);
    expect(eight.all.meanKl).toBeGreaterThan(0);
    expect(four.all.meanKl).toBeGreaterThan(10 * eight.all.meanKl);
    expect(four.all.top1).toBeLessThan(eight.all.top1);
    // Both read the same text with the same reference.
    expect(four.texts.referencePerplexity).toBe(eight.texts.referencePerplexity);
  });

  test("leaves nothing behind in the models folder", async () => {
    await importAs("int8");
    const before = readdirSync(join(root, "models")).toSorted();
    await evaluateTiny(gguf);
    const after = readdirSync(join(root, "models")).filter((name) => !name.endsWith(".lock"));
    expect(after.toSorted()).toEqual(before.filter((name) => !name.endsWith(".lock")));
  });
});

describe("the file that the model was imported from", () => {
  test("is asked for where the name does not say, and taken from --source", async () => {
    await importAs("int8");
    await expect(evaluateTiny("tiny")).rejects.toThrow(/imported from tiny\.gguf \(SHA-256 [0-9a-f]{64}\).*--source/);
    const moved = join(root, "moved.gguf");
    renameSync(gguf, moved);
    expect((await evaluateTiny("tiny", moved)).all.top1).toBeGreaterThan(0.5);
  });

  test("is refused when it is another one, or gone", async () => {
    await importAs("int8");
    const other = join(root, "other.gguf");
    writeTinyCheckpoint(other, { seed: 9 });
    await expect(evaluateTiny("tiny", other)).rejects.toThrow(/is not the file that tiny was imported from/);
    await expect(evaluateTiny("tiny", join(root, "gone.gguf"))).rejects.toThrow(/there is no file/);
  });
});

test("refuses a model that is not imported", async () => {
  await expect(evaluateTiny("nobody")).rejects.toThrow(/no model "nobody" is imported/);
});
