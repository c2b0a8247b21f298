/** How answers are drawn where a request does not say: from a checkpoint's advice to what the engine is asked for. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { EngineClient } from "../../../origin/engine/client.ts";
import type { Sampling } from "../../../origin/engine/sample.ts";
import { type GenerationDefaults, readGenerationDefaults } from "../../../origin/manifest/generation-defaults.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { findPreset } from "../../../origin/import/fetch/presets.ts";
import { readGenerationAdvice } from "../../../origin/import/architectures/generation-advice.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { type ImportedModel } from "../../../origin/import/folder/model-folder.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { modelDigest } from "../../../origin/manifest/manifest.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { BYTE_MODEL, createOrigin } from "../../fakes/origin.ts";
import { writeTinyCheckpoint } from "../../fakes/tiny-checkpoint.ts";
import { weightlessFile } from "../../fakes/weightless-file.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-generation-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function advice(config: unknown): GenerationDefaults | undefined {
  const text = typeof config === "string" ? config : JSON.stringify(config);
  return readGenerationAdvice(
    weightlessFile({
      format: "safetensors",
      readText: (name) => (name === "generation_config.json" ? text : undefined),
    }),
  );
}

describe("a checkpoint's advice", () => {
  test("is Hugging Face's own file", () => {
    const qwen = {
      do_sample: true,
      eos_token_id: [1],
      repetition_penalty: 1.05,
      temperature: 0.7,
      top_p: 0.8,
      top_k: 20,
    };
    expect(advice(qwen)).toEqual({ repetition_penalty: 1.05, temperature: 0.7, top_p: 0.8, top_k: 20 });
  });

  test("is nothing where nothing is said, or nothing that a request could ask for", () => {
    expect(readGenerationAdvice(weightlessFile({ format: "safetensors" }))).toBeUndefined();
    expect(advice({ eos_token_id: 2, do_sample: false })).toBeUndefined();
    expect(advice({ temperature: null, top_p: "0.9", top_k: -1, min_p: 2, repetition_penalty: 0 })).toBeUndefined();
    expect(advice({ temperature: 3, top_p: 0.9 })).toEqual({ top_p: 0.9 });
  });

  test.each(["{", "3", "null"])("that is no object is an error: %s", (text) => {
    expect(() => advice(text)).toThrow("generation_config.json that is no");
  });

  test("is in a GGUF's metadata, in numbers of 32 bits that are not taken at their last digit", async () => {
    const plain = await importTiny("plain", {});
    const advised = await importTiny("advised", {
      "general.sampling.temp": { type: "float32", value: 0.6 },
      "general.sampling.top_p": { type: "float32", value: 0.95 },
      "general.sampling.top_k": { type: "int32", value: 20 },
      "general.sampling.penalty_repeat": { type: "float32", value: 1.1 },
    });
    const drawn = { temperature: 0.6, top_p: 0.95, top_k: 20, repetition_penalty: 1.1 };
    expect(readGenerationDefaults(advised.folder)).toEqual(drawn);
    expect(readGenerationDefaults(plain.folder)).toEqual({});
    // Answers that were drawn in another way are another model's.
    expect(modelDigest(advised.manifest)).not.toBe(modelDigest(plain.manifest));
    expect(advised.manifest.files["model.onnx.data"]).toEqual(plain.manifest.files["model.onnx.data"]);
  });

  test("is a preset's own where its files say nothing, in values that a request could ask for", () => {
    for (const name of ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "gemma-3-270m"]) {
      const { generation } = findPreset(name) ?? {};
      expect(advice(generation)).toEqual(generation);
    }
  });
});

async function importTiny(
  name: string,
  metadata: NonNullable<Parameters<typeof writeTinyCheckpoint>[1]>["metadata"] & object,
): Promise<ImportedModel> {
  const model = join(folder, `${name}.gguf`);
  writeTinyCheckpoint(model, { metadata });
  const config = readImportConfig({ COLDPATH_MODELS_DIR: join(folder, "models") });
  return ensureModel({ model, config, progress: silentProgress, fetch });
}

test("what lies damaged in an imported folder is no reason to draw in another way", () => {
  writeFileSync(join(folder, "generation_config.json"), '{"temperature":"warm"}');
  expect(() => readGenerationDefaults(folder)).toThrow("is damaged; import the model again");
  expect(readFileSync(join(folder, "generation_config.json"), "utf8")).toContain("warm");
});

describe("a request", () => {
  let engine: EngineClient;
  beforeAll(async () => {
    engine = await startFakeEngine();
  });
  afterAll(() => engine.stop());

  /** What the engine is asked for. */
  async function drawn(path: string, generation: GenerationDefaults, fields: object): Promise<Sampling | undefined> {
    let sampling: Sampling | undefined;
    const watched: Pick<EngineClient, "submit" | "occupancy" | "counters"> = {
      submit: (request, listen) => {
        ({ sampling } = request);
        return engine.submit(request, listen);
      },
      occupancy: engine.occupancy,
      counters: engine.counters,
    };
    const { ask } = await createOrigin({ engine: watched, model: { ...BYTE_MODEL, generation } });
    const asked = path.includes("chat") ? { messages: [{ role: "user", content: "hi" }] } : { prompt: "hi" };
    const response = await ask(path, { model: "bytes", max_tokens: 1, ...asked, ...fields });
    expect([response.status, await response.text()]).toEqual([200, expect.anything()]);
    return sampling;
  }

  const ADVICE = { temperature: 0.2, top_p: 0.9, top_k: 20, min_p: 0.05, repetition_penalty: 1.1 };

  test.each(["/v1/chat/completions", "/v1/completions"])(
    "to %s that says nothing is drawn as advised",
    async (path) => {
      const wanted = { temperature: 0.2, topP: 0.9, topK: 20, minP: 0.05, repetitionPenalty: 1.1 };
      expect(await drawn(path, ADVICE, {})).toMatchObject(wanted);
      expect(await drawn(path, ADVICE, { temperature: null, top_p: null })).toMatchObject(wanted);
    },
  );

  test("that says something is drawn as it says, field by field", async () => {
    const said = { temperature: 0, top_p: 0, top_k: 0, min_p: 0, repetition_penalty: 1 };
    const exactly = { temperature: 0, topP: 0, topK: 0, minP: 0, repetitionPenalty: 1 };
    expect(await drawn("/v1/chat/completions", ADVICE, said)).toMatchObject(exactly);
    expect(await drawn("/v1/chat/completions", ADVICE, { temperature: 1.5 })).toMatchObject({
      temperature: 1.5,
      topP: 0.9,
    });
  });

  test("to a model without advice is drawn as OpenAI's are", async () => {
    const plain = { temperature: 1, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1 };
    expect(await drawn("/v1/chat/completions", {}, {})).toMatchObject(plain);
  });
});
