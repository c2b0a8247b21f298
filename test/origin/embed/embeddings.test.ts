/** `POST /v1/embeddings` at the origin, with a real thread and a tiny encoder: what is answered, shared and refused. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ServedEncoder } from "../../../origin/request/answer-embeddings.ts";
import { Embedder, type EmbedderOptions } from "../../../origin/embed/embedder.ts";
import { NO_COUNTERS } from "../../../origin/engine/messages.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import type { EmbeddingList } from "../../../shared/embedding-request.ts";
import type { ErrorEnvelope } from "../../../shared/errors.ts";
import { createEncoder, createOrigin } from "../../fakes/origin.ts";
import { bertStates, cosine, meanOf, TINY_BERT, tinyBertTensors, writeTinyBert } from "../../fakes/tiny-bert.ts";

const PATH = "/v1/embeddings";
const ids = { "a cat!": [2, 5, 8, 14, 3], "the dogs": [2, 12, 9, 10, 3], 猫: [2, 13, 3] } as const;

let home: string;
let thread: EmbedderOptions["thread"];
const open: Embedder[] = [];
beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), "coldpath-embed-"));
  writeTinyBert(join(home, "tiny-bert"));
  const { folder } = await ensureModel({
    model: join(home, "tiny-bert"),
    format: "fp32",
    config: readImportConfig({ COLDPATH_MODELS_DIR: join(home, "models") }),
    progress: silentProgress,
    fetch,
  });
  const { hiddenSize, contextLength, vocabSize } = TINY_BERT;
  thread = { folder, pooling: "mean", hiddenSize, contextLength, vocabSize, threads: 1, batchTokensMax: 64 };
});
afterAll(async () => {
  await Promise.all(open.map((embedder) => embedder.stop()));
  rmSync(home, { recursive: true, force: true });
});

const MODEL: ServedEncoder = {
  id: "tiny-bert",
  digest: "e".repeat(64),
  created: 1_600_000_000,
  contextLength: TINY_BERT.contextLength,
  hiddenSize: TINY_BERT.hiddenSize,
  embedding: { pooling: "mean", normalized: true, dimensions: [16, 32] },
};

async function startEmbedder(changes: Partial<EmbedderOptions> = {}): Promise<Embedder> {
  const embedder = await Embedder.start({
    thread,
    textsMax: 100,
    crashesMax: 1,
    crashWindowMs: 60_000,
    pauseMs: 1,
    now: () => performance.now(),
    onCrash: () => {},
    onRestart: () => {},
    onGiveUp: () => {},
    ...changes,
  });
  open.push(embedder);
  return embedder;
}

/** Nobody asks it anything here. */
const engine = {
  submit: () => {
    throw new Error("an engine was asked for text");
  },
  occupancy: { running: 0, waiting: 0 },
  counters: NO_COUNTERS,
};

async function start(embedder: Embedder, model = MODEL) {
  return createOrigin({ services: [createEncoder(model, embedder)] });
}

async function errorOf(response: Response): Promise<ErrorEnvelope["error"]> {
  return ((await response.json()) as ErrorEnvelope).error;
}

function wanted(tokens: readonly number[]): number[] {
  return meanOf(bertStates(tinyBertTensors(), tokens));
}

describe("POST /v1/embeddings", () => {
  it("answers in OpenAI's format with vectors of length 1, in the order of the texts, and counts tokens", async () => {
    const { ask } = await start(await startEmbedder());
    const response = await ask(PATH, { model: "tiny-bert", input: Object.keys(ids) });
    expect(response.status).toBe(200);
    expect(response.headers.get("coldpath-model-digest")).toBe(MODEL.digest);
    const { data, ...rest } = (await response.json()) as EmbeddingList;
    expect(rest).toEqual({ object: "list", model: "tiny-bert", usage: { prompt_tokens: 13, total_tokens: 13 } });
    for (const [i, tokens] of Object.values(ids).entries()) {
      const { object, index, embedding } = data[i]!;
      expect([object, index]).toEqual(["embedding", i]);
      const vector = embedding as number[];
      expect(cosine(vector, wanted(tokens))).toBeGreaterThan(0.999_999);
      expect(Math.hypot(...vector)).toBeCloseTo(1, 5);
    }
  });

  it("takes token ids for a text, one or several, and writes base64 that says the same", async () => {
    const { ask } = await start(await startEmbedder());
    const vectorOf = async (body: object) =>
      ((await (await ask(PATH, { model: "tiny-bert", ...body })).json()) as EmbeddingList).data[0]!.embedding;
    const text = await vectorOf({ input: "a cat!" });
    expect(await vectorOf({ input: ids["a cat!"] })).toEqual(text);
    expect(await vectorOf({ input: [ids["a cat!"], ids["猫"]] })).toHaveLength(TINY_BERT.hiddenSize);
    const base64 = (await vectorOf({ input: "a cat!", encoding_format: "base64" })) as string;
    const bytes = Buffer.from(base64, "base64");
    const numbers = Array.from({ length: bytes.length / 4 }, (_, i) => bytes.readFloatLE(i * 4));
    expect(numbers).toEqual((text as number[]).map(Math.fround));
  });

  it("shortens vectors to what the model was trained for, and to nothing else", async () => {
    const { ask } = await start(await startEmbedder());
    const response = await ask(PATH, { model: "tiny-bert", input: "a cat!", dimensions: 16 });
    const [{ embedding } = { embedding: [] }] = ((await response.json()) as EmbeddingList).data;
    expect(cosine(embedding as number[], wanted(ids["a cat!"]).slice(0, 16))).toBeGreaterThan(0.999_999);
    expect(Math.hypot(...(embedding as number[]))).toBeCloseTo(1, 5);
    const other = await ask(PATH, { model: "tiny-bert", input: "a", dimensions: 17 });
    expect(await errorOf(other)).toMatchObject({ code: "unsupported_parameter", param: "dimensions" });
    const longer = await ask(PATH, { model: "tiny-bert", input: "a", dimensions: 65 });
    expect(await errorOf(longer)).toMatchObject({ code: "invalid_request", param: "dimensions" });
  });

  it("leaves vectors as they are where the publisher does not norm them", async () => {
    const { ask } = await start(await startEmbedder(), {
      ...MODEL,
      embedding: { ...MODEL.embedding, normalized: false },
    });
    const response = await ask(PATH, { model: "tiny-bert", input: "a cat!" });
    const [{ embedding } = { embedding: [] }] = ((await response.json()) as EmbeddingList).data;
    for (const [i, value] of wanted(ids["a cat!"]).entries()) expect((embedding as number[])[i]).toBeCloseTo(value, 4);
  });

  it("gives each of many concurrent requests its own vectors", async () => {
    const { ask } = await start(await startEmbedder());
    const texts = ["a", "a b", "cat dog the", "猫猫猫猫", "b c b c b c b c b c", "!"];
    const alone = new Map<string, unknown>();
    for (const text of texts) {
      alone.set(text, ((await (await ask(PATH, { model: "tiny-bert", input: text })).json()) as EmbeddingList).data[0]);
    }
    const asked = Array.from({ length: 40 }, (_, i) => [texts[i % 6]!, texts[(i * 5 + 1) % 6]!]);
    const answers = await Promise.all(asked.map((input) => ask(PATH, { model: "tiny-bert", input })));
    for (const [i, answer] of answers.entries()) {
      const { data } = (await answer.json()) as EmbeddingList;
      for (const [at, text] of asked[i]!.entries()) {
        const { embedding } = alone.get(text) as { embedding: number[] };
        expect(cosine(data[at]!.embedding as number[], embedding)).toBeGreaterThan(0.999_999);
      }
    }
  });

  const refusals: readonly (readonly [string, object, number, string, string | null])[] = [
    ["an empty list", { input: [] }, 400, "invalid_request", "input"],
    ["an empty text", { input: "" }, 400, "invalid_request", "input"],
    ["an empty text among others", { input: ["a", ""] }, 400, "invalid_request", "input.1"],
    ["texts and ids together", { input: ["a", 1] }, 400, "invalid_request", "input"],
    ["ids below 0", { input: [-1] }, 400, "invalid_request", "input.0"],
    ["ids that are no whole numbers", { input: [1.5] }, 400, "invalid_request", "input"],
    ["an id that the model does not have", { input: [2, 40, 3] }, 400, "invalid_request", "input"],
    [
      "more texts than OpenAI takes",
      { input: Array.from({ length: 2049 }, () => "a") },
      400,
      "invalid_request",
      "input",
    ],
    ["a text that is too long", { input: ["a", "a ".repeat(30)] }, 400, "context_length_exceeded", "input.1"],
    ["ids that are too many", { input: Array.from({ length: 25 }, () => 5) }, 400, "context_length_exceeded", "input"],
    ["another encoding", { input: "a", encoding_format: "hex" }, 400, "invalid_request", "encoding_format"],
    ["no dimensions at all", { input: "a", dimensions: 0 }, 400, "invalid_request", "dimensions"],
    ["a model that is not there", { input: "a", model: "other" }, 404, "model_not_found", "model"],
    ["no input", {}, 400, "invalid_request", "input"],
  ];
  it.each(refusals)("refuses %s, and goes on", async (_, body, status, code, param) => {
    const { ask } = await start(open[0] ?? (await startEmbedder()));
    const response = await ask(PATH, { model: "tiny-bert", ...body });
    expect(response.status).toBe(status);
    expect(await errorOf(response)).toMatchObject({ code, param });
    expect((await ask(PATH, { model: "tiny-bert", input: "a" })).status).toBe(200);
  });

  it("says of an encoder that it can't chat, of a decoder that it makes no vectors, and lists the encoder", async () => {
    const encoder = await start(open[0] ?? (await startEmbedder()));
    const chat = { model: "tiny-bert", messages: [{ role: "user", content: "hi" }] };
    const refused = await encoder.ask("/v1/chat/completions", chat);
    expect(refused.status).toBe(400);
    expect((await errorOf(refused)).message).toContain("POST /v1/embeddings");
    expect((await encoder.ask("/generate", { prompt: "hi" })).status).toBe(400);
    expect((await encoder.ask("/v1/chat/completions", { ...chat, model: "other" })).status).toBe(404);
    expect(await (await encoder.ask("/v1/models")).json()).toMatchObject({
      data: [{ id: "tiny-bert", digest: MODEL.digest, context_length: 24 }],
    });
    const decoder = await createOrigin({ engine });
    const vectors = await decoder.ask(PATH, { model: "bytes", input: "a" });
    expect(vectors.status).toBe(400);
    expect((await errorOf(vectors)).message).toContain("POST /v1/chat/completions");
  });
});

describe("the encoder's thread", () => {
  it("takes only so many texts at once, and more when they are done", async () => {
    const embedder = await startEmbedder({ textsMax: 3 });
    const { signal } = new AbortController();
    const first = embedder.embed(["a", "b"], signal);
    await expect(embedder.embed(["a", "b"], signal)).rejects.toMatchObject({ code: "queue_full" });
    await first;
    expect((await embedder.embed(["a", "b", "c"], signal)).vectors).toHaveLength(3);
  });

  it("forgets the texts of a client that left, who hears its own reason", async () => {
    const embedder = await startEmbedder({ textsMax: 60 });
    const leaving = new AbortController();
    const left = embedder.embed(
      Array.from({ length: 60 }, () => "a b c"),
      leaving.signal,
    );
    leaving.abort(new Error("gone"));
    await expect(left).rejects.toThrow("gone");
    expect(embedder.occupancy.running).toBe(0);
    expect((await embedder.embed(["cat"], new AbortController().signal)).tokens).toBe(3);
    await expect(embedder.embed(["cat"], leaving.signal)).rejects.toThrow("gone");
  });

  it("ends what is open when it is stopped, and takes nothing more", async () => {
    const embedder = await startEmbedder();
    const { signal } = new AbortController();
    const under = expect(embedder.embed(["a"], signal)).rejects.toMatchObject({ code: "not_ready" });
    await embedder.stop();
    await under;
    await expect(embedder.embed(["a"], signal)).rejects.toMatchObject({ code: "not_ready" });
  });

  it("does not start on a damaged folder", async () => {
    await expect(startEmbedder({ thread: { ...thread, folder: home } })).rejects.toThrow();
  });
});
