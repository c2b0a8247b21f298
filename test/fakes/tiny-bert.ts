/**
 * A tiny BERT as Hugging Face would publish it, with seeded weights, and its forward pass in plain loops and 64-bit
 * numbers, written after the paper and not after the graph it tests.
 *
 * Source: Vaswani et al. 2017, sections 3.1 and 3.2; Devlin et al. 2018, section 3; Hendrycks and Gimpel 2016 (GELU).
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { mulberry32 } from "./mulberry32.ts";
import { fakeTensor, safetensorsFile } from "./safetensors-file.ts";

export const TINY_BERT = { layers: 2, hiddenSize: 64, heads: 4, ffnSize: 96, vocabSize: 40, contextLength: 24 };

const WORDS = [
  "[PAD]",
  "[UNK]",
  "[CLS]",
  "[SEP]",
  "[MASK]",
  "a",
  "b",
  "c",
  "cat",
  "dog",
  "##s",
  "##a",
  "the",
  "猫",
  "!",
];
const [CLS, SEP] = [2, 3];

export type TinyTensors = ReadonlyMap<string, { readonly shape: readonly number[]; readonly values: Float32Array }>;

/** Weights large enough that attention is no mere mean, and that a wrong bias or norm shows. */
export function tinyBertTensors(seed = 1): TinyTensors {
  const random = mulberry32(seed);
  const { layers, hiddenSize, ffnSize, vocabSize, contextLength } = TINY_BERT;
  const tensors = new Map<string, { shape: readonly number[]; values: Float32Array }>();
  const add = (name: string, shape: readonly number[], { around = 0, spread = 1 } = {}): void => {
    const length = shape.reduce((product, size) => product * size, 1);
    tensors.set(name, { shape, values: Float32Array.from({ length }, () => around + (random() * 2 - 1) * spread) });
  };
  const norm = (name: string): void => {
    add(`${name}.weight`, [hiddenSize], { around: 1, spread: 0.5 });
    add(`${name}.bias`, [hiddenSize], { spread: 0.3 });
  };
  const dense = (name: string, rows: number, columns: number): void => {
    add(`${name}.weight`, [rows, columns], { spread: 2 / Math.sqrt(columns) });
    add(`${name}.bias`, [rows], { spread: 0.3 });
  };
  add("embeddings.word_embeddings.weight", [vocabSize, hiddenSize]);
  add("embeddings.position_embeddings.weight", [contextLength, hiddenSize], { spread: 0.5 });
  add("embeddings.token_type_embeddings.weight", [2, hiddenSize], { spread: 0.5 });
  norm("embeddings.LayerNorm");
  for (let layer = 0; layer < layers; layer++) {
    const at = `encoder.layer.${layer}`;
    for (const part of ["query", "key", "value"]) dense(`${at}.attention.self.${part}`, hiddenSize, hiddenSize);
    dense(`${at}.attention.output.dense`, hiddenSize, hiddenSize);
    norm(`${at}.attention.output.LayerNorm`);
    dense(`${at}.intermediate.dense`, ffnSize, hiddenSize);
    dense(`${at}.output.dense`, hiddenSize, ffnSize);
    norm(`${at}.output.LayerNorm`);
  }
  dense("pooler.dense", hiddenSize, hiddenSize);
  return tensors;
}

export const TINY_BERT_TOKENIZER = {
  added_tokens: WORDS.slice(0, 5).map((content, id) => ({ id, content, special: true, normalized: false })),
  normalizer: {
    type: "BertNormalizer",
    clean_text: true,
    handle_chinese_chars: true,
    strip_accents: null,
    lowercase: true,
  },
  pre_tokenizer: { type: "BertPreTokenizer" },
  post_processor: { type: "BertProcessing", sep: ["[SEP]", SEP], cls: ["[CLS]", CLS] },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordPiece",
    unk_token: "[UNK]",
    continuing_subword_prefix: "##",
    max_input_chars_per_word: 100,
    vocab: Object.fromEntries(WORDS.map((word, id) => [word, id])),
  },
};

export interface TinyBertOptions {
  readonly tensors?: TinyTensors;
  /** In place of, or beside, the usual fields of `config.json`. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** Further files by name, as JSON; `undefined` leaves one out. */
  readonly files?: Readonly<Record<string, unknown>>;
}

/** Writes the checkpoint's folder. Without other files it is pooled by mean and normalised. */
export function writeTinyBert(
  folder: string,
  { tensors = tinyBertTensors(), config, files }: TinyBertOptions = {},
): void {
  mkdirSync(folder, { recursive: true });
  const { layers, hiddenSize, heads, ffnSize, vocabSize, contextLength } = TINY_BERT;
  const all = {
    "config.json": {
      model_type: "bert",
      hidden_size: hiddenSize,
      intermediate_size: ffnSize,
      num_hidden_layers: layers,
      num_attention_heads: heads,
      vocab_size: vocabSize,
      max_position_embeddings: contextLength,
      layer_norm_eps: 1e-12,
      hidden_act: "gelu",
      position_embedding_type: "absolute",
      ...config,
    },
    "tokenizer.json": TINY_BERT_TOKENIZER,
    ...files,
  };
  for (const [name, body] of Object.entries(all)) {
    if (body === undefined) continue;
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), JSON.stringify(body));
  }
  const written = [...tensors].map(([name, { shape, values }]) => fakeTensor(name, shape, values));
  writeFileSync(join(folder, "model.safetensors"), safetensorsFile(written));
}

interface ReferenceSizes {
  readonly layers: number;
  readonly hiddenSize: number;
  readonly heads: number;
}

/** The tokens' last states. */
export function bertStates(
  tensors: TinyTensors,
  ids: readonly number[],
  { layers, hiddenSize, heads }: ReferenceSizes = TINY_BERT,
): number[][] {
  const values = (name: string): Float32Array => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`there is no ${name}`);
    return tensor.values;
  };
  const dense = (name: string, input: readonly number[]): number[] => {
    const [weight, bias] = [values(`${name}.weight`), values(`${name}.bias`)];
    return Array.from(bias, (start, row) =>
      input.reduce((all, value, column) => all + value * weight[row * input.length + column]!, start),
    );
  };
  const norm = (name: string, input: readonly number[]): number[] => {
    const [gain, bias] = [values(`${name}.weight`), values(`${name}.bias`)];
    const mean = input.reduce((all, value) => all + value, 0) / input.length;
    const variance = input.reduce((all, value) => all + (value - mean) ** 2, 0) / input.length;
    return input.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-12)) * gain[i]! + bias[i]!);
  };
  const row = (name: string, index: number): Float32Array =>
    values(name).subarray(index * hiddenSize, (index + 1) * hiddenSize);

  const [places, type] = ["embeddings.position_embeddings.weight", row("embeddings.token_type_embeddings.weight", 0)];
  let states = ids.map((id, position) => {
    const [word, place] = [row("embeddings.word_embeddings.weight", id), row(places, position)];
    return norm(
      "embeddings.LayerNorm",
      Array.from(word, (value, i) => value + place[i]! + type[i]!),
    );
  });
  for (let layer = 0; layer < layers; layer++) {
    const at = `encoder.layer.${layer}`;
    const project = (part: string) => states.map((state) => dense(`${at}.attention.self.${part}`, state));
    const attended = attention(project("query"), project("key"), project("value"), heads);
    states = states.map((state, i) => {
      const output = dense(`${at}.attention.output.dense`, attended[i]!);
      const inner = norm(`${at}.attention.output.LayerNorm`, sum(state, output));
      const up = dense(`${at}.intermediate.dense`, inner).map(gelu);
      return norm(`${at}.output.LayerNorm`, sum(inner, dense(`${at}.output.dense`, up)));
    });
  }
  return states;
}

function attention(queries: number[][], keys: number[][], values: number[][], heads: number): number[][] {
  const size = queries[0]!.length / heads;
  return queries.map((query) =>
    Array.from({ length: heads }, (_, head) => {
      const [from, to] = [head * size, (head + 1) * size];
      const scores = keys.map((key) => dot(query.slice(from, to), key.slice(from, to)) / Math.sqrt(size));
      const largest = Math.max(...scores);
      const weights = scores.map((score) => Math.exp(score - largest));
      const total = weights.reduce((all, weight) => all + weight, 0);
      return Array.from({ length: size }, (__, i) =>
        values.reduce((all, value, k) => all + (weights[k]! / total) * value[from + i]!, 0),
      );
    }).flat(),
  );
}

/** `x Φ(x)`, the normal distribution by Simpson's rule: slow, and no series to get wrong. */
function gelu(x: number): number {
  const steps = 400;
  const width = x / steps;
  let area = density(0) + density(x);
  for (let i = 1; i < steps; i++) area += density(i * width) * (i % 2 === 0 ? 2 : 4);
  return x * (0.5 + (area * width) / 3);
}

function sum(a: readonly number[], b: readonly number[]): number[] {
  return a.map((value, i) => value + b[i]!);
}

function dot(a: readonly number[], b: readonly number[]): number {
  return a.reduce((all, value, i) => all + value * b[i]!, 0);
}

export function meanOf(states: readonly (readonly number[])[]): number[] {
  return states
    .reduce<number[]>(
      (all, state) => sum(all, state),
      states[0]!.map(() => 0),
    )
    .map((v) => v / states.length);
}

function unit(vector: readonly number[]): number[] {
  const length = Math.sqrt(dot(vector, vector));
  return vector.map((value) => value / length);
}

export function cosine(a: readonly number[], b: readonly number[]): number {
  return dot(unit(a), unit(b));
}

/** Of the normal distribution. */
function density(at: number): number {
  return Math.exp((-at * at) / 2) / Math.sqrt(2 * Math.PI);
}
