/** What is read of a checkpoint besides what `architectures.test.ts` computes with, and what is refused, by name. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readCheckpoint } from "../../../../origin/import/architectures/read-checkpoint.ts";
import type { DecoderConfig } from "../../../../origin/import/checkpoint/checkpoint.ts";
import { ImportError } from "../../../../origin/manifest/import-error.ts";
import { openGguf } from "../../../../origin/import/sources/gguf.ts";
import { publishedFile, type PublishedConfig, writePublishedGguf } from "../../../fakes/published-model.ts";
import { tinyTensor, type TinyTensor, type TinyValue, writeTinyCheckpoint } from "../../../fakes/tiny-checkpoint.ts";

let folder = "";
let path = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "coldpath-checkpoint-"));
  path = join(folder, "model.gguf");
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const SIZES = {
  vocab_size: 16,
  hidden_size: 32,
  intermediate_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  tie_word_embeddings: true,
};
const LLAMA: PublishedConfig = { ...SIZES, model_type: "llama" };
const MISTRAL: PublishedConfig = { ...SIZES, model_type: "mistral", sliding_window: 16 };
const QWEN2: PublishedConfig = { ...SIZES, model_type: "qwen2", use_sliding_window: false };
const QWEN3: PublishedConfig = { ...SIZES, model_type: "qwen3", head_dim: 32 };
const GEMMA3: PublishedConfig = {
  ...SIZES,
  model_type: "gemma3_text",
  head_dim: 32,
  num_hidden_layers: 7,
  sliding_window: 16,
  query_pre_attn_scalar: 32,
};

type Changes = Readonly<Record<string, unknown>>;

/** Reads a `config.json` with changes; `undefined` takes a key away. */
function read(config: PublishedConfig, changes: Changes = {}, tensors?: PublishedTensors): DecoderConfig {
  const metadata = Object.fromEntries(
    Object.entries({ ...config, ...changes }).filter(([, value]) => value !== undefined),
  );
  return readCheckpoint(publishedFile(config, { metadata, ...(tensors && { tensors }) })).config;
}

type PublishedTensors = Map<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;

/** The tensors that the fake publishes, to be changed. */
function tensorsOf(config: PublishedConfig): PublishedTensors {
  const file = publishedFile(config);
  return new Map([...file.shapes].map(([name, shape]) => [name, { shape, values: file.readTensor(name) }]));
}

const windowsOf = ({ attention }: DecoderConfig) => attention.map(({ window }) => window);

describe("reads of config.json", () => {
  test("what newer configurations leave empty", () => {
    const empty = { head_dim: null, rope_scaling: null, sliding_window: null, num_local_experts: null };
    expect(read(LLAMA, empty)).toEqual(read(LLAMA));
    expect(windowsOf(read(MISTRAL, empty))).toEqual([undefined, undefined]);
  });

  test("a window for every layer of Mistral, for none of Llama though it says one, and none as wide as the context", () => {
    expect(windowsOf(read(MISTRAL))).toEqual([16, 16]);
    expect(windowsOf(read(LLAMA, { sliding_window: 16 }))).toEqual([undefined, undefined]);
    expect(windowsOf(read(MISTRAL, { sliding_window: 128 }))).toEqual([undefined, undefined]);
    expect(windowsOf(read(MISTRAL, { sliding_window: 127 }))).toEqual([127, 127]);
  });

  test("Qwen's window only where it is used, and from the layer that is named", () => {
    const window = { sliding_window: 16, max_window_layers: 1 };
    expect(windowsOf(read(QWEN2, window))).toEqual([undefined, undefined]);
    expect(windowsOf(read(QWEN2, { ...window, use_sliding_window: true }))).toEqual([undefined, 16]);
  });

  test("Gemma's five windowed layers to one that is not, another pattern, or a list", () => {
    const [w, all] = [16, undefined];
    expect(windowsOf(read(GEMMA3))).toEqual([w, w, w, w, w, all, w]);
    expect(windowsOf(read(GEMMA3, { sliding_window_pattern: 2 }))).toEqual([w, all, w, all, w, all, w]);
    const types = ["full_attention", ...Array.from({ length: 6 }, () => "sliding_attention")];
    expect(windowsOf(read(GEMMA3, { layer_types: types }))).toEqual([all, w, w, w, w, w, w]);
  });

  test("one RoPE for all layers that rotate alike", () => {
    const { attention } = read(GEMMA3);
    expect(new Set(attention.map(({ rope }) => rope)).size).toBe(2);
    expect(new Set(read(MISTRAL).attention.map(({ rope }) => rope)).size).toBe(1);
  });

  test("the context that YaRN stretches, and no other scaling does", () => {
    const scaling = { factor: 4, original_max_position_embeddings: 100 };
    expect(read(QWEN2, { rope_scaling: { ...scaling, type: "yarn" } }).contextLength).toBe(400);
    expect(read(QWEN2, { rope_scaling: { ...scaling, type: "linear" } }).contextLength).toBe(128);
    expect(read(QWEN2, { rope_scaling: { factor: 4, type: "yarn" } }).contextLength).toBe(128);
    const mscale = { ...scaling, type: "yarn", mscale: 1, mscale_all_dim: 0.5 };
    const magnitude = (0.1 * Math.log(4) + 1) / (0.05 * Math.log(4) + 1);
    expect(read(QWEN2, { rope_scaling: mscale }).attention[0]?.rope.magnitude).toBeCloseTo(magnitude, 12);
  });

  test("a tied head that is there all the same, an untied one, and what is said nothing of", () => {
    const tensors = tensorsOf({ ...LLAMA, tie_word_embeddings: false });
    expect(read(LLAMA, { tie_word_embeddings: true }, tensors).tiedEmbeddings).toBe(true);
    expect(read(LLAMA, { tie_word_embeddings: undefined }, tensors).tiedEmbeddings).toBe(false);
    expect(read(LLAMA, { tie_word_embeddings: undefined }).tiedEmbeddings).toBe(true);
  });

  test("past what early Llama checkpoints carry though it follows from their configuration", () => {
    const tensors = tensorsOf(LLAMA);
    const frequencies = { shape: [8], values: new Float32Array(8) };
    tensors.set("model.layers.0.self_attn.rotary_emb.inv_freq", frequencies);
    expect(read(LLAMA, {}, tensors)).toEqual(read(LLAMA));
  });

  test.each(["language_model.model.", "model.language_model."])(
    "the decoder of a Gemma 3 that sees, under %s, with the defaults that it leaves out",
    (prefix) => {
      const text: PublishedConfig = {
        ...GEMMA3,
        num_attention_heads: 8,
        num_key_value_heads: 4,
        head_dim: 256,
        rope_theta: 1_000_000,
        query_pre_attn_scalar: 256,
        sliding_window: 4096,
        max_position_embeddings: 131_072,
      };
      const { hidden_size, intermediate_size, num_hidden_layers } = text;
      const stated = { model_type: "gemma3_text", hidden_size, intermediate_size, num_hidden_layers };
      const tensors = new Map(
        [...tensorsOf(text)].map(([name, tensor]) => [name.replace(/^model\./, prefix), tensor] as const),
      );
      tensors.set("vision_tower.vision_model.embeddings.patch_embedding.bias", {
        shape: [1],
        values: new Float32Array(1),
      });
      const metadata = { model_type: "gemma3", text_config: stated, vision_config: { hidden_size: 1 } };
      const { config } = readCheckpoint(publishedFile(text, { metadata, tensors }));
      expect(config).toEqual(read(text));
    },
  );

  test("Gemma's norms with the one that their publisher leaves out", () => {
    const file = publishedFile(GEMMA3);
    const published = file.readTensor("model.layers.0.post_feedforward_layernorm.weight");
    expect(readCheckpoint(file).tensor("blk.0.post_ffw_norm.weight")).toEqual(published.map((gain) => gain + 1));
  });
});

describe("reads of GGUF", () => {
  test("q and k with llama.cpp's permutation undone, everything else as it is", () => {
    const names = ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"];
    const rows = [64, 32, 32];
    writeTinyCheckpoint(path, {
      layers: 1,
      hiddenSize: 64,
      queryHeads: 4,
      kvHeads: 2,
      headDim: 16,
      editTensors: (tensors) =>
        tensors.map((tensor) => {
          const at = names.indexOf(tensor.name);
          return at < 0 ? tensor : numbered(tensor.name, 64, rows[at]!);
        }),
    });
    using file = openGguf(path);
    const checkpoint = readCheckpoint(file);
    const firstColumn = (name: "attn_q" | "attn_k" | "attn_v") =>
      [...checkpoint.tensor(`blk.0.${name}.weight`)].filter((_, i) => i % 64 === 0);
    const evenThenOdd = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15];
    const heads = (count: number) =>
      Array.from({ length: count }, (_, head) => evenThenOdd.map((row) => head * 16 + row)).flat();
    expect(firstColumn("attn_q")).toEqual(heads(4));
    expect(firstColumn("attn_k")).toEqual(heads(2));
    expect(firstColumn("attn_v")).toEqual(Array.from({ length: 32 }, (_, row) => row));
  });

  test("matrices by rows as it reads them whole, whatever their order in the file", () => {
    writeTinyCheckpoint(path, { tied: false });
    using file = openGguf(path);
    const checkpoint = readCheckpoint(file);
    for (const name of ["blk.0.attn_q.weight", "blk.1.attn_k.weight", "output.weight"] as const) {
      const matrix = checkpoint.matrix(name);
      const half = Math.floor(matrix.rows / 2 / matrix.step) * matrix.step;
      const halves = [...matrix.read(0, half), ...matrix.read(half, matrix.rows)];
      expect(halves, name).toEqual([...checkpoint.tensor(name)]);
    }
  });

  test("a factor without a type as linear, under its new and its old key", () => {
    const expected = Array.from({ length: 16 }, (_, pair) => 10_000 ** (-pair / 16) / 4);
    for (const key of ["llama.rope.scaling.factor", "llama.rope.scale_linear"]) {
      writeTinyCheckpoint(path, { metadata: { [key]: { type: "float32", value: 4 } } });
      using file = openGguf(path);
      const frequencies = readCheckpoint(file).config.attention[0]?.rope.frequencies ?? [];
      for (const [pair, frequency] of frequencies.entries()) expect(frequency).toBeCloseTo(expected[pair]!, 12);
    }
  });

  test("the 27B Gemma by its layers: its scores have a divisor of their own", () => {
    const sizes = { ...GEMMA3, hidden_size: 96, num_attention_heads: 2, head_dim: 16, intermediate_size: 16 };
    for (const [layers, divisor] of [
      [61, 16],
      [62, 48],
    ] as const) {
      writePublishedGguf(path, { ...sizes, num_hidden_layers: layers });
      using file = openGguf(path);
      expect(readCheckpoint(file).config.attentionScale).toBe(divisor ** -0.5);
    }
  });
});

describe("refuses of config.json", () => {
  const scaled = (scaling: Changes) => ({ rope_scaling: scaling });
  const unsupported: readonly (readonly [string, PublishedConfig, Changes, RegExp])[] = [
    ["another architecture", LLAMA, { model_type: "mamba" }, /architecture 'mamba'.* can run llama, mistral, qwen2/],
    ["no architecture", LLAMA, { model_type: undefined }, /architecture undefined/],
    ["an architecture that is no word", LLAMA, { model_type: ["llama"] }, /architecture \[ 'llama' \]/],
    ["a mixture of experts", LLAMA, { num_local_experts: 8 }, /mixture of experts/],
    ["Qwen's experts", QWEN3, { num_experts: 128 }, /mixture of experts/],
    ["weights that are quantized already", LLAMA, { quantization_config: { quant_method: "gptq" } }, /by 'gptq'/],
    ["partly rotated heads", LLAMA, { partial_rotary_factor: 0.5 }, /only a part/],
    ["another activation", LLAMA, { hidden_act: "relu" }, /activation 'relu'/],
    ["Llama's activation in Gemma", GEMMA3, { hidden_activation: "silu" }, /activation 'silu'/],
    ["softly capped scores", GEMMA3, { attn_logit_softcapping: 50 }, /scores softly/],
    ["softly capped logits", GEMMA3, { final_logit_softcapping: 30 }, /logits softly/],
    ["attention to what comes later", GEMMA3, { use_bidirectional_attention: true }, /comes after/],
    ["RoPE that changes as it goes", LLAMA, scaled({ type: "dynamic", factor: 2 }), /RoPE by 'dynamic'/],
    ["LongRoPE", LLAMA, scaled({ rope_type: "longrope", factor: 2 }), /RoPE by 'longrope'/],
    ["a factor that is no number", LLAMA, scaled({ type: "linear", factor: "two" }), /other than one number/],
    [
      "a scaled RoPE in windowed layers",
      GEMMA3,
      { rope_parameters: { sliding_attention: { rope_type: "linear", factor: 2 } } },
      /windowed layers by 'linear'/,
    ],
    ["layers of a type of their own", MISTRAL, { layer_types: ["chunked_attention", "full_attention"] }, /'chunked/],
    ["a context beyond all models", LLAMA, { max_position_embeddings: 2 ** 40 }, /context of 1099511627776/],
  ];
  const invalid: readonly (readonly [string, PublishedConfig, Changes, RegExp])[] = [
    ["no layers", LLAMA, { num_hidden_layers: 0 }, /num_hidden_layers is 0, which is no count/],
    ["half a layer", LLAMA, { num_hidden_layers: 1.5 }, /is no count/],
    ["more layers than tensors", LLAMA, { num_hidden_layers: 4_000_000_000 }, /lacks most/],
    ["a missing size", LLAMA, { intermediate_size: undefined }, /lacks the metadata intermediate_size/],
    ["a rotation to nowhere", LLAMA, { rope_theta: 0 }, /positive numbers/],
    ["a rotation slowed by nothing", LLAMA, scaled({ type: "linear", factor: 0 }), /positive numbers/],
    ["an epsilon of nothing", LLAMA, { rms_norm_eps: 0 }, /not positive/],
    ["scores divided by nothing", GEMMA3, { query_pre_attn_scalar: 0 }, /not positive/],
    ["a tie that is neither", LLAMA, { tie_word_embeddings: "yes" }, /'yes', not true or false/],
    ["a head that is not there", LLAMA, { tie_word_embeddings: false }, /lacks the tensor lm_head\.weight/],
    ["a window of nothing", MISTRAL, { sliding_window: 0 }, /window of 0/],
    ["a window of a part", MISTRAL, { sliding_window: 2.5 }, /window of 2\.5/],
    ["fewer types than layers", MISTRAL, { layer_types: ["full_attention"] }, /1 types for 2 layers/],
    ["types that are no words", MISTRAL, { layer_types: [1, 2] }, /no list of words/],
    ["heads that don't fit its matrices", LLAMA, { num_attention_heads: 4, head_dim: 16 }, /of shape \[32, 32\] where/],
    ["another vocabulary than its head's", LLAMA, { hidden_size: 64 }, /embed_tokens\.weight of shape/],
    ["RoPE described by a number", LLAMA, { rope_scaling: 4, rope_theta: "big" }, /other than one number/],
  ];
  test.each(unsupported)("%s", (_, config, changes, message) => {
    expectFailure(() => read(config, changes), "unsupported-model", message);
  });
  test.each(invalid)("%s", (name, config, changes, message) => {
    const code = name === "RoPE described by a number" ? "unsupported-model" : "invalid-file";
    expectFailure(() => read(config, changes), code, message);
  });

  test("heads that the attention kernels can't rotate", () => {
    const config = { ...LLAMA, head_dim: 24 };
    expectFailure(() => read(config), "unsupported-model", /heads of size 24/);
  });

  test("keys that don't go round evenly", () => {
    const config = { ...LLAMA, num_attention_heads: 3, num_key_value_heads: 2, head_dim: 16 };
    expectFailure(() => read(config), "unsupported-model", /unevenly/);
  });

  test("a bias that it has no place for, and the lack of one that it needs", () => {
    expectFailure(() => read(QWEN2, { model_type: "llama" }), "unsupported-model", /q_proj\.bias, which/);
    expectFailure(() => read(LLAMA, { model_type: "qwen2" }), "invalid-file", /lacks the tensor .*q_proj\.bias/);
    const tensors = tensorsOf(LLAMA).set("model.layers.0.self_attn.o_proj.bias", {
      shape: [32],
      values: new Float32Array(32),
    });
    expectFailure(() => read(LLAMA, {}, tensors), "unsupported-model", /o_proj\.bias, which/);
  });

  test("names from an object's prototype", () => {
    for (const name of ["__proto__", "constructor", "toString"]) {
      expectFailure(() => read(LLAMA, { model_type: name }), "unsupported-model", /is of the architecture/);
    }
    expectFailure(() => read(LLAMA, { hidden_size: undefined, __proto__: 1 }), "invalid-file", /lacks the metadata/);
  });
});

describe("refuses of GGUF", () => {
  const cases: readonly (readonly [string, Record<string, TinyValue | undefined>, string, RegExp])[] = [
    [
      "another architecture",
      { "general.architecture": { type: "string", value: "mamba" } },
      "unsupported-model",
      /architecture 'mamba'/,
    ],
    ["no architecture", { "general.architecture": undefined }, "unsupported-model", /architecture undefined/],
    ["a mixture of experts", { "llama.expert_count": number(8) }, "unsupported-model", /mixture of experts/],
    ["partly rotated heads", { "llama.rope.dimension_count": number(16) }, "unsupported-model", /only a part/],
    ["values of another size", { "llama.attention.value_length": number(16) }, "unsupported-model", /different sizes/],
    [
      "LongRoPE",
      { "llama.rope.scaling.type": { type: "string", value: "longrope" } },
      "unsupported-model",
      /RoPE by 'longrope'/,
    ],
    ["unevenly shared heads", { "llama.attention.head_count_kv": number(3) }, "unsupported-model", /unevenly/],
    [
      "heads counted per layer",
      { "llama.attention.head_count_kv": { type: "int32s", value: [2, 2] } },
      "unsupported-model",
      /other than one number/,
    ],
    ["no layers", { "llama.block_count": number(0) }, "invalid-file", /is no count/],
    ["more layers than tensors", { "llama.block_count": number(4_000_000_000) }, "invalid-file", /lacks most/],
    [
      "no context length",
      { "llama.context_length": undefined },
      "invalid-file",
      /lacks the metadata llama\.context_length/,
    ],
    [
      "an epsilon that is no number",
      { "llama.attention.layer_norm_rms_epsilon": { type: "float32", value: Number.NaN } },
      "unsupported-model",
      /one number/,
    ],
    [
      "a rotation to nowhere",
      { "llama.rope.freq_base": { type: "float32", value: 0 } },
      "invalid-file",
      /positive numbers/,
    ],
  ];
  test.each(cases)("%s", (_, metadata, code, message) => {
    writeTinyCheckpoint(path, { metadata });
    using file = openGguf(path);
    expectFailure(() => readCheckpoint(file), code, message);
  });

  test("a YaRN of its own kind", () => {
    const yarn: Record<string, TinyValue> = {
      "llama.rope.scaling.type": { type: "string", value: "yarn" },
      "llama.rope.scaling.factor": { type: "float32", value: 4 },
    };
    for (const key of ["yarn_log_multiplier", "yarn_ext_factor"]) {
      const metadata = { ...yarn, [`llama.rope.scaling.${key}`]: { type: "float32", value: 0.5 } } as const;
      writeTinyCheckpoint(path, { metadata });
      using file = openGguf(path);
      expectFailure(() => readCheckpoint(file), "unsupported-model", /YaRN of its own kind/);
    }
  });
});

function expectFailure(act: () => unknown, code: string, message: RegExp): void {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(ImportError);
    expect((error as ImportError).message).toMatch(message);
    expect((error as ImportError).message).not.toContain("\n");
    expect((error as ImportError).code).toBe(code);
    return;
  }
  expect.fail("nothing was refused");
}

/** A matrix with a row's number in every element of the row: it shows where the row went. */
function numbered(name: string, columns: number, rows: number): TinyTensor {
  const values = Float32Array.from({ length: rows * columns }, (_, i) => Math.floor(i / columns));
  return tinyTensor(name, [columns, rows], values);
}

function number(value: number): TinyValue {
  return { type: "uint32", value };
}
