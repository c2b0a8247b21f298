/**
 * The tiny checkpoint of tiny-checkpoint.ts as Hugging Face would publish it: a folder of safetensors, configuration and
 * tokenizer, the same numbers under other names. Written after llama.cpp's converter read backwards, independent of the
 * readers it tests.
 *
 * Source: llama.cpp, conversion/llama.py (`permute`), gguf-py/gguf/tensor_mapping.py.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type FakeTensor, safetensorsFile } from "./safetensors-file.ts";
import { tinyCheckpoint, type TinyTensor, tinyVocabulary } from "./tiny-checkpoint.ts";

const SIZES = { layers: 2, hiddenSize: 128, queryHeads: 4, kvHeads: 2, headDim: 32, ffnSize: 192, contextLength: 256 };

const LAYER_NAMES: Readonly<Record<string, string>> = {
  attn_norm: "input_layernorm",
  attn_q: "self_attn.q_proj",
  attn_k: "self_attn.k_proj",
  attn_v: "self_attn.v_proj",
  attn_output: "self_attn.o_proj",
  ffn_norm: "post_attention_layernorm",
  ffn_gate: "mlp.gate_proj",
  ffn_up: "mlp.up_proj",
  ffn_down: "mlp.down_proj",
};

export interface HubCheckpointOptions {
  /** The text of `tokenizer.json`; without it there is no such file. */
  readonly tokenizer?: string;
  readonly chatTemplate: string;
  /** Files of weights; with several there is an index. Default 1. */
  readonly shards?: number;
}

/** Writes the checkpoint's folder. */
export function writeHubCheckpoint(
  folder: string,
  { tokenizer, chatTemplate, shards = 1 }: HubCheckpointOptions,
): void {
  mkdirSync(folder, { recursive: true });
  const write = (name: string, body: unknown) => writeFileSync(join(folder, name), JSON.stringify(body));
  write("config.json", {
    model_type: "llama",
    hidden_size: SIZES.hiddenSize,
    intermediate_size: SIZES.ffnSize,
    num_hidden_layers: SIZES.layers,
    num_attention_heads: SIZES.queryHeads,
    num_key_value_heads: SIZES.kvHeads,
    head_dim: SIZES.headDim,
    vocab_size: tinyVocabulary().length,
    max_position_embeddings: SIZES.contextLength,
    rms_norm_eps: Math.fround(1e-5),
    rope_theta: 10_000,
    hidden_act: "silu",
    tie_word_embeddings: true,
    eos_token_id: 0,
  });
  write("generation_config.json", { bos_token_id: 1, eos_token_id: [2] });
  write("tokenizer_config.json", { bos_token: "<|im_start|>", eos_token: "<|im_end|>", add_bos_token: false });
  writeFileSync(join(folder, "chat_template.jinja"), chatTemplate);
  if (tokenizer !== undefined) writeFileSync(join(folder, "tokenizer.json"), tokenizer);
  writeWeights(folder, hubTensors(), shards);
}

function writeWeights(folder: string, tensors: readonly FakeTensor[], shards: number): void {
  if (shards === 1) {
    writeFileSync(join(folder, "model.safetensors"), safetensorsFile(tensors));
    return;
  }
  const fileOf = (index: number) => `model-${digits((index % shards) + 1)}-of-${digits(shards)}.safetensors`;
  const map = Object.fromEntries(tensors.map(({ name }, index) => [name, fileOf(index)]));
  for (const file of new Set(Object.values(map))) {
    writeFileSync(join(folder, file), safetensorsFile(tensors.filter(({ name }) => map[name] === file)));
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: map }));
}

function digits(count: number): string {
  return String(count).padStart(5, "0");
}

function hubTensors(): readonly FakeTensor[] {
  let tensors: readonly TinyTensor[] = [];
  tinyCheckpoint({
    ...SIZES,
    editTensors: (all) => {
      tensors = all;
      return all;
    },
  });
  return tensors.map(({ name, shape, data }) => {
    const rotated = /attn_[qk]\.weight$/.test(name);
    return {
      name: hubName(name),
      dtype: "F32",
      shape: shape.toReversed(),
      data: rotated ? unpermuted(data, SIZES.hiddenSize * 4) : data,
    };
  });
}

function hubName(name: string): string {
  if (name === "token_embd.weight") return "model.embed_tokens.weight";
  if (name === "output_norm.weight") return "model.norm.weight";
  const [, layer, part = ""] = /^blk\.(\d+)\.(.+)\.weight$/.exec(name) ?? [];
  return `model.layers.${layer}.${LAYER_NAMES[part]}.weight`;
}

/** The converter puts row `half * headDim / 2 + i` of each head at `2i + half`. */
function unpermuted(data: Uint8Array, rowBytes: number): Uint8Array {
  const { headDim } = SIZES;
  const rows = Array.from({ length: data.length / rowBytes }, (_, row) => {
    const [head, inHead] = [Math.floor(row / headDim), row % headDim];
    const [half, i] = [Math.floor(inHead / (headDim / 2)), inHead % (headDim / 2)];
    const from = (head * headDim + 2 * i + half) * rowBytes;
    return data.subarray(from, from + rowBytes);
  });
  return Uint8Array.from(Buffer.concat(rows));
}
