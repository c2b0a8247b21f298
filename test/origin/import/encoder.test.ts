/** An encoder's import, from a published folder to vectors: against a forward pass in plain loops, and what is refused. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { WeightFormatName } from "../../../origin/onnx/weight-formats.ts";
import { Encoder } from "../../../origin/embed/encoder.ts";
import { readImportConfig } from "../../../origin/import/config.ts";
import { ensureModel } from "../../../origin/import/import.ts";
import { silentProgress } from "../../../origin/import/progress/progress.ts";
import { readManifest } from "../../../origin/manifest/manifest.ts";
import {
  bertStates,
  cosine,
  meanOf,
  TINY_BERT,
  TINY_BERT_TOKENIZER,
  tinyBertTensors,
  type TinyBertOptions,
  type TinyTensors,
  writeTinyBert,
} from "../../fakes/tiny-bert.ts";

const TEXTS = [
  [2, 3],
  [2, 8, 3],
  [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 3],
  [2, 12, 12, 12, 3],
  Array.from({ length: 24 }, (_, i) => i + 2),
];

let home: string;
let folders = 0;
beforeAll(() => {
  home = mkdtempSync(join(tmpdir(), "coldpath-encoder-"));
});
afterAll(() => rmSync(home, { recursive: true, force: true }));

async function importTiny(options: TinyBertOptions, format?: WeightFormatName): Promise<string> {
  const source = join(home, `checkpoint-${folders++}`);
  writeTinyBert(source, options);
  const imported = await ensureModel({
    model: source,
    format,
    config: readImportConfig({ COLDPATH_MODELS_DIR: join(home, "models") }),
    progress: silentProgress,
    fetch,
  });
  return imported.folder;
}

async function vectorsOf(folder: string, texts: readonly (readonly number[])[]): Promise<readonly number[][]> {
  const { embedding, architecture } = readManifest(folder);
  const encoder = await Encoder.open({
    folder,
    pooling: embedding!.pooling,
    hiddenSize: architecture.hiddenSize,
    threads: 1,
  });
  return (await encoder.run(texts)).map((vector) => Array.from(vector));
}

const CLS_POOLING = { "1_Pooling/config.json": { pooling_mode_cls_token: true, pooling_mode_mean_tokens: false } };

describe("an imported encoder", () => {
  it("has the plain forward pass's vectors in fp32, texts of all lengths side by side", async () => {
    const vectors = await vectorsOf(await importTiny({}, "fp32"), TEXTS);
    for (const [i, ids] of TEXTS.entries()) {
      const wanted = meanOf(bertStates(tinyBertTensors(), ids));
      for (const [at, value] of wanted.entries()) expect(vectors[i]![at]).toBeCloseTo(value, 4);
    }
  });

  it("takes the first token's state where the publisher says so", async () => {
    const folder = await importTiny({ files: CLS_POOLING }, "fp32");
    const vectors = await vectorsOf(folder, TEXTS);
    for (const [i, ids] of TEXTS.entries()) {
      const [wanted = []] = bertStates(tinyBertTensors(), ids);
      for (const [at, value] of wanted.entries()) expect(vectors[i]![at]).toBeCloseTo(value, 4);
    }
  });

  it("keeps the direction of every vector in int8, by 0.99 and more", async () => {
    const folder = await importTiny({});
    expect(readManifest(folder).quantization.format).toBe("int8");
    const vectors = await vectorsOf(folder, TEXTS);
    for (const [i, ids] of TEXTS.entries()) {
      expect(cosine(vectors[i]!, meanOf(bertStates(tinyBertTensors(), ids)))).toBeGreaterThan(0.99);
    }
  });

  it("gives a text the same vector beside others as by itself", async () => {
    const folder = await importTiny({}, "fp32");
    const together = await vectorsOf(folder, TEXTS);
    for (const [i, ids] of TEXTS.entries()) {
      const [alone] = await vectorsOf(folder, [ids]);
      expect(cosine(together[i]!, alone!)).toBeGreaterThan(0.999_999);
    }
  });

  it("is read behind the prefix that a model for another task gives it, whose heads are left out", async () => {
    const tensors = new Map([...tinyBertTensors()].map(([name, tensor]) => [`bert.${name}`, tensor]));
    tensors.set("cls.predictions.bias", { shape: [40], values: new Float32Array(40) });
    const vectors = await vectorsOf(await importTiny({ tensors }, "fp32"), TEXTS);
    const wanted = meanOf(bertStates(tinyBertTensors(), TEXTS[2]!));
    expect(cosine(vectors[2]!, wanted)).toBeGreaterThan(0.999_999);
  });

  it("is the same bytes twice, and says what it is", async () => {
    const said = [
      { type: "sentence_transformers.models.Transformer" },
      { type: "sentence_transformers.models.Pooling" },
    ];
    const files = { ...CLS_POOLING, "modules.json": said, "sentence_bert_config.json": { max_seq_length: 16 } };
    const [first, second] = [await importTiny({ files }), await importTiny({ files })];
    expect(readManifest(first).files).toEqual(readManifest(second).files);
    const { embedding, architecture, tokens } = readManifest(first);
    expect(embedding).toEqual({ pooling: "cls", normalized: false, dimensions: [] });
    expect(architecture).toMatchObject({ contextLength: 16, hiddenSize: TINY_BERT.hiddenSize, layers: 2 });
    expect(tokens).toEqual({ bos: 2, ends: [3], addBos: true });
    expect(readFileSync(join(first, "tokenizer.json"), "utf8")).toBe(JSON.stringify(TINY_BERT_TOKENIZER));
  });
});

function without(name: string): TinyTensors {
  return new Map([...tinyBertTensors()].filter(([other]) => other !== name));
}

function withTensor(name: string, shape: readonly number[]): TinyTensors {
  const values = new Float32Array(shape.reduce((product, size) => product * size, 1));
  return new Map([...tinyBertTensors(), [name, { shape, values }]]);
}

describe("an encoder that can't be run as its publisher means it", () => {
  const refusals: readonly (readonly [string, TinyBertOptions, RegExp])[] = [
    ["with relative positions", { config: { position_embedding_type: "relative_key" } }, /positions of the kind/],
    ["that looks back only", { config: { is_decoder: true } }, /looks back only/],
    ["with another activation", { config: { hidden_act: "relu" } }, /the activation 'relu'/],
    ["with an activation that objects have", { config: { hidden_act: "constructor" } }, /activation 'constructor'/],
    ["with heads that do not fit", { config: { num_attention_heads: 5 } }, /unevenly/],
    ["with more layers than tensors", { config: { num_hidden_layers: 1e9 } }, /lacks most of its/],
    ["without a bias", { tensors: without("encoder.layer.1.output.dense.bias") }, /lacks the tensor encoder.layer.1/],
    ["with a tensor of no place", { tensors: withTensor("encoder.layer.0.adapter.weight", [2]) }, /has no place for/],
    ["with a lying shape", { tensors: withTensor("embeddings.LayerNorm.bias", [3]) }, /of shape \[3\] where \[64\]/],
    ["with a smaller table than tokens", { config: { vocab_size: 39 } }, /where \[39, 64\] is needed/],
    ["without a tokenizer", { files: { "tokenizer.json": undefined } }, /has no tokenizer.json/],
    [
      "with another tokenizer",
      { files: { "tokenizer.json": { ...TINY_BERT_TOKENIZER, model: { type: "BPE" } } } },
      /BPE/,
    ],
    ["pooled by the maximum", { files: { "1_Pooling/config.json": { pooling_mode_max_tokens: true } } }, /max_tokens/],
    [
      "pooled in two ways",
      { files: { "1_Pooling/config.json": { pooling_mode_cls_token: true, pooling_mode_mean_tokens: true } } },
      /cls_token, pooling_mode_mean/,
    ],
    ["pooled by nothing", { files: { "1_Pooling/config.json": {} } }, /pools its tokens by none/],
    [
      "with a module behind it",
      { files: { "modules.json": [{ type: "sentence_transformers.models.Dense" }] } },
      /a module Dense/,
    ],
    ["with modules that are none", { files: { "modules.json": { a: 1 } } }, /unexpected modules.json/],
  ];
  it.each(refusals)("%s is refused in a sentence", async (_, options, reason) => {
    await expect(importTiny(options)).rejects.toThrow(reason);
  });

  it("is not imported in a format that only decoders can have", async () => {
    await expect(importTiny({}, "int8-rotated")).rejects.toThrow(/an encoder can't be imported as int8-rotated/);
  });
});
