/**
 * BERT, and what is built like it (MiniLM, BGE, E5, GTE's first, Chinese ones too): learned positions, biases everywhere,
 * layer norms behind each part. Read from a safetensors checkpoint; `model_type` is the same for all of them.
 *
 * Source: Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers"; transformers, modeling_bert.py and
 * configuration_bert.py; names, llama.cpp, gguf-py/gguf/tensor_mapping.py.
 */
import type { EncoderCheckpoint, EncoderConfig, EncoderTensorName } from "../checkpoint/encoder-checkpoint.ts";
import { ImportError, shown } from "../../manifest/import-error.ts";
import type { TensorFile } from "../sources/tensor-file.ts";
import { Settings } from "./settings.ts";

const MODEL_TYPE = "bert";

const EMBEDDINGS: Readonly<Record<string, string>> = {
  token_embd: "embeddings.word_embeddings",
  position_embd: "embeddings.position_embeddings",
  token_types: "embeddings.token_type_embeddings",
  token_embd_norm: "embeddings.LayerNorm",
};

const LAYER: Readonly<Record<string, string>> = {
  attn_q: "attention.self.query",
  attn_k: "attention.self.key",
  attn_v: "attention.self.value",
  attn_output: "attention.output.dense",
  attn_output_norm: "attention.output.LayerNorm",
  ffn_up: "intermediate.dense",
  ffn_down: "output.dense",
  layer_output_norm: "output.LayerNorm",
};

const ACTIVATIONS: Readonly<Record<string, EncoderConfig["activation"]>> = {
  gelu: "gelu",
  gelu_new: "gelu_tanh",
  gelu_pytorch_tanh: "gelu_tanh",
};

/** What is not needed for the tokens' last states: heads of other tasks, and numbers from 0 upwards. */
const IGNORED = /^(bert\.)?(pooler\.|embeddings\.position_ids$)|^cls\./;

/** Whether a file is one of these, rather than a decoder. */
export function isBert({ format, metadata }: Pick<TensorFile, "format" | "metadata">): boolean {
  return format === "safetensors" && metadata["model_type"] === MODEL_TYPE;
}

/**
 * Reads an opened file as an encoder, which is usable as long as the file is open.
 *
 * @throws {ImportError} `unsupported-model` for an unknown variant, `invalid-file` for what is missing or contradicts itself
 */
export function readBert(file: TensorFile): EncoderCheckpoint {
  const config = readConfig(file);
  const prefix = file.shapes.has("bert.embeddings.word_embeddings.weight") ? "bert." : "";
  const of = (name: EncoderTensorName): string => `${prefix}${hubName(name)}`;
  checkTensors(file, expectedShapes(config), of);
  return {
    config,
    tensor: (name) => file.readTensor(of(name)),
    matrix: (name) => {
      const [rows = 0, columns = 1] = file.shapes.get(of(name)) ?? [];
      return { rows, columns, step: 1, read: (from, to) => file.readRows(of(name), from, to) };
    },
  };
}

function readConfig(file: TensorFile): EncoderConfig {
  const settings = new Settings(file, { prefix: "", config: file.metadata, defaults: { layerNormEpsilon: 1e-12 } });
  const refuse = (reason: string): never => settings.fail("unsupported-model", `${reason}, which coldpath can't run`);
  const layers = settings.count("layers");
  // Bounds the work below: a layer is several tensors, so a file can't have more layers than tensors.
  if (layers > file.shapes.size) settings.fail("invalid-file", `lacks most of its ${layers} layers`);
  const [hiddenSize, heads] = [settings.count("hiddenSize"), settings.count("queryHeads")];
  if (hiddenSize % heads !== 0) refuse(`divides ${hiddenSize} numbers among ${heads} heads unevenly`);
  if (settings.flag("isDecoder") === true) refuse("is a BERT that looks back only");
  const positions = settings.word("positions") ?? "absolute";
  if (positions !== "absolute") refuse(`has positions of the kind ${shown(positions)}`);
  const stated = settings.word("activation") ?? "gelu";
  const activation = Object.hasOwn(ACTIVATIONS, stated) ? ACTIVATIONS[stated] : undefined;
  return {
    layers,
    hiddenSize,
    heads,
    ffnSize: settings.count("ffnSize"),
    vocabSize: settings.count("vocabSize"),
    contextLength: settings.count("contextLength"),
    normEpsilon: settings.positive("layerNormEpsilon"),
    activation: activation ?? refuse(`has the activation ${shown(stated)}`),
  };
}

function hubName(name: EncoderTensorName): string {
  const [, layer, part = "", parameter] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(name) ?? [];
  return layer === undefined
    ? `${EMBEDDINGS[part]}.${parameter}`
    : `encoder.layer.${layer}.${LAYER[part]}.${parameter}`;
}

/** Token types may be any number: a text by itself is of the first. */
function expectedShapes(config: EncoderConfig): ReadonlyMap<EncoderTensorName, readonly (number | "any")[]> {
  const { layers, hiddenSize, ffnSize, vocabSize, contextLength } = config;
  const shapes = new Map<EncoderTensorName, readonly (number | "any")[]>([
    ["token_embd.weight", [vocabSize, hiddenSize]],
    ["position_embd.weight", [contextLength, hiddenSize]],
    ["token_types.weight", ["any", hiddenSize]],
    ["token_embd_norm.weight", [hiddenSize]],
    ["token_embd_norm.bias", [hiddenSize]],
  ]);
  for (let layer = 0; layer < layers; layer++) {
    for (const part of ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down"] as const) {
      const [rows, columns] = [part === "ffn_up" ? ffnSize : hiddenSize, part === "ffn_down" ? ffnSize : hiddenSize];
      shapes.set(`blk.${layer}.${part}.weight`, [rows, columns]);
      shapes.set(`blk.${layer}.${part}.bias`, [rows]);
    }
    for (const part of ["attn_output_norm", "layer_output_norm"] as const) {
      shapes.set(`blk.${layer}.${part}.weight`, [hiddenSize]);
      shapes.set(`blk.${layer}.${part}.bias`, [hiddenSize]);
    }
  }
  return shapes;
}

/** Every expected tensor is there with its shape, and nothing else is: an ignored one would be a wrong vector. */
function checkTensors(
  { path, shapes }: TensorFile,
  expected: ReturnType<typeof expectedShapes>,
  of: (name: EncoderTensorName) => string,
): void {
  const known = new Set<string>();
  for (const [name, shape] of expected) {
    const there = of(name);
    known.add(there);
    const actual = shapes.get(there);
    if (actual === undefined) throw new ImportError("invalid-file", `${path} lacks the tensor ${there}`);
    if (actual.length !== shape.length || shape.some((size, i) => size !== "any" && size !== actual[i])) {
      throw new ImportError(
        "invalid-file",
        `${path} has ${there} of shape [${actual.join(", ")}] where [${shape.join(", ")}] is needed`,
      );
    }
  }
  const stranger = [...shapes.keys()].find((name) => !known.has(name) && !IGNORED.test(name));
  if (stranger !== undefined) {
    throw new ImportError("unsupported-model", `${path} has the tensor ${stranger}, which coldpath has no place for`);
  }
}
