/**
 * Tiny models in the forms that real ones are published in: Hugging Face's names and `config.json`, and the GGUF that
 * llama.cpp's converter makes of them. Weights follow from a tensor's name alone, so that another implementation can compute
 * the same model without a file (`transformers.fixture.py` does). Knows no tokenizer.
 *
 * Source: transformers, modeling_*.py (names and shapes); llama.cpp, gguf-py/gguf/tensor_mapping.py and constants.py,
 * conversion/llama.py (`permute`) and conversion/gemma.py (norms plus one).
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import type { TensorFile } from "../../origin/import/sources/tensor-file.ts";
import { mulberry32 } from "./mulberry32.ts";
import { fakeTensor, safetensorsFile } from "./safetensors-file.ts";
import { type TinyTensor, tinyTensor, type TinyValue, writeTinyCheckpoint } from "./tiny-checkpoint.ts";

/** What the makers below read of a `config.json`; the rest is passed on as it is. */
export interface PublishedConfig {
  readonly model_type: string;
  readonly vocab_size: number;
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_hidden_layers: number;
  readonly num_attention_heads: number;
  readonly num_key_value_heads: number;
  readonly max_position_embeddings: number;
  readonly rms_norm_eps: number;
  readonly tie_word_embeddings: boolean;
  readonly rope_theta: number;
  readonly head_dim?: number;
  readonly query_pre_attn_scalar?: number;
  readonly rope_scaling?: PublishedRopeScaling;
  readonly rope_local_base_freq?: number;
  readonly sliding_window?: number | null;
  readonly sliding_window_pattern?: number;
  readonly use_sliding_window?: boolean;
  readonly max_window_layers?: number;
}

interface PublishedRopeScaling {
  readonly type?: string;
  readonly rope_type?: string;
  readonly factor: number;
  readonly original_max_position_embeddings?: number;
  readonly low_freq_factor?: number;
  readonly high_freq_factor?: number;
  readonly attention_factor?: number;
  readonly beta_fast?: number;
  readonly beta_slow?: number;
}

interface PublishedTensor {
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

export function headDimOf({ head_dim, hidden_size, num_attention_heads }: PublishedConfig): number {
  return head_dim ?? hidden_size / num_attention_heads;
}

/** The tensors under Hugging Face's names. */
function publishedTensors(config: PublishedConfig): Map<string, PublishedTensor> {
  const { model_type, vocab_size, hidden_size, intermediate_size, num_attention_heads, num_key_value_heads } = config;
  const headDim = headDimOf(config);
  const [querySize, kvSize] = [num_attention_heads * headDim, num_key_value_heads * headDim];
  const isGemma = model_type.startsWith("gemma");
  const shapes: [string, number[]][] = [["model.embed_tokens.weight", [vocab_size, hidden_size]]];
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const add = (name: string, ...shape: number[]) => shapes.push([`model.layers.${layer}.${name}`, shape]);
    add("self_attn.q_proj.weight", querySize, hidden_size);
    add("self_attn.k_proj.weight", kvSize, hidden_size);
    add("self_attn.v_proj.weight", kvSize, hidden_size);
    add("self_attn.o_proj.weight", hidden_size, querySize);
    if (model_type === "qwen2") {
      add("self_attn.q_proj.bias", querySize);
      add("self_attn.k_proj.bias", kvSize);
      add("self_attn.v_proj.bias", kvSize);
    }
    if (model_type === "qwen3" || isGemma) {
      add("self_attn.q_norm.weight", headDim);
      add("self_attn.k_norm.weight", headDim);
    }
    add("mlp.gate_proj.weight", intermediate_size, hidden_size);
    add("mlp.up_proj.weight", intermediate_size, hidden_size);
    add("mlp.down_proj.weight", hidden_size, intermediate_size);
    add("input_layernorm.weight", hidden_size);
    add("post_attention_layernorm.weight", hidden_size);
    if (isGemma) {
      add("pre_feedforward_layernorm.weight", hidden_size);
      add("post_feedforward_layernorm.weight", hidden_size);
    }
  }
  shapes.push(["model.norm.weight", [hidden_size]]);
  if (!config.tie_word_embeddings) shapes.push(["lm_head.weight", [vocab_size, hidden_size]]);
  return new Map(shapes.map(([name, shape]) => [name, { shape, values: seededWeights(name, shape, isGemma) }]));
}

/** The other half of `weights` in transformers.fixture.py. */
function seededWeights(name: string, shape: readonly number[], isGemma: boolean): Float32Array {
  const next = mulberry32(crc32(name));
  const isNorm = name.includes("norm");
  const step = isNorm || shape.length === 2 ? 8192 : 4096;
  // Gemma's norms are published less one.
  const middle = isNorm && !isGemma ? 1 : 0;
  const count = shape.reduce((product, size) => product * size, 1);
  return Float32Array.from({ length: count }, () => (Math.floor(next() * 4096) - 2047.5) / step + middle);
}

/** An opened file of such a model, in memory. */
export function publishedFile(
  config: PublishedConfig,
  {
    metadata = { ...config },
    tensors = publishedTensors(config),
  }: { readonly metadata?: Readonly<Record<string, unknown>>; readonly tensors?: Map<string, PublishedTensor> } = {},
): TensorFile {
  const values = (name: string): Float32Array => {
    const tensor = tensors.get(name);
    if (tensor === undefined) throw new Error(`no tensor ${name}`);
    return tensor.values;
  };
  return {
    format: "safetensors",
    path: "published",
    metadata,
    shapes: new Map([...tensors].map(([name, { shape }]) => [name, shape])),
    readTensor: (name) => values(name).slice(),
    readRows: (name, from, to) => {
      const columns = tensors.get(name)?.shape.at(-1) ?? 0;
      return values(name).slice(from * columns, to * columns);
    },
    readText: () => undefined,
    [Symbol.dispose]: () => undefined,
  };
}

/** Writes the folder that such a model is published as, but for its tokenizer. */
export function writePublishedFolder(folder: string, config: PublishedConfig): void {
  const tensors = [...publishedTensors(config)].map(([name, { shape, values }]) => fakeTensor(name, shape, values));
  writeFileSync(join(folder, "model.safetensors"), safetensorsFile(tensors));
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
}

/** Writes the GGUF file that llama.cpp's converter would make of such a model, but for its tokenizer. */
export function writePublishedGguf(path: string, config: PublishedConfig): void {
  writeTinyCheckpoint(path, { metadata: ggufMetadata(config), editTensors: () => ggufTensors(config) });
}

/** Whether GGUF can say of such a model all that its `config.json` does. */
export function isConvertible(config: PublishedConfig): boolean {
  const isWindowedQwen = config.model_type === "qwen2" && config.use_sliding_window === true;
  return !isWindowedQwen && (config.query_pre_attn_scalar ?? headDimOf(config)) === headDimOf(config);
}

const GGUF_NAMES: Readonly<Record<string, string>> = {
  input_layernorm: "attn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "self_attn.q_norm": "attn_q_norm",
  "self_attn.k_norm": "attn_k_norm",
  post_attention_layernorm: "ffn_norm",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

const GEMMA_NAMES: Readonly<Record<string, string>> = {
  ...GGUF_NAMES,
  post_attention_layernorm: "post_attention_norm",
  pre_feedforward_layernorm: "ffn_norm",
  post_feedforward_layernorm: "post_ffw_norm",
};

const OUTER_NAMES: Readonly<Record<string, string>> = {
  "model.embed_tokens.weight": "token_embd.weight",
  "model.norm.weight": "output_norm.weight",
  "lm_head.weight": "output.weight",
};

function ggufTensors(config: PublishedConfig): TinyTensor[] {
  const isGemma = config.model_type.startsWith("gemma");
  const names = isGemma ? GEMMA_NAMES : GGUF_NAMES;
  const tensors = [...publishedTensors(config)].map(([name, { shape, values }]) => {
    const [, layer = "", module = "", kind = ""] = /^model\.layers\.(\d+)\.(.+)\.(\w+)$/.exec(name) ?? [];
    const converted = OUTER_NAMES[name] ?? `blk.${layer}.${names[module] ?? "?"}.${kind}`;
    const whole = isGemma && name.endsWith("norm.weight") ? values.map((gain) => gain + 1) : values;
    return tinyTensor(converted, shape.toReversed(), permuted(config, module, whole));
  });
  const divisors = llama3Divisors(config);
  return divisors === undefined ? tensors : [...tensors, tinyTensor("rope_freqs.weight", [divisors.length], divisors)];
}

/** `weights.reshape(heads, 2, headDim / 2, columns).swapaxes(1, 2)`, for what is llama to llama.cpp. */
function permuted(config: PublishedConfig, module: string, values: Float32Array): Float32Array {
  const heads = { "self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads }[
    module
  ];
  if (heads === undefined || ggufArchitecture(config) !== "llama") return values;
  const half = headDimOf(config) / 2;
  const columns = config.hidden_size;
  const out = new Float32Array(values.length);
  for (let head = 0; head < heads; head++) {
    for (let pair = 0; pair < half; pair++) {
      for (const side of [0, 1]) {
        const from = ((head * 2 + side) * half + pair) * columns;
        out.set(values.subarray(from, from + columns), ((head * half + pair) * 2 + side) * columns);
      }
    }
  }
  return out;
}

function ggufArchitecture({ model_type }: PublishedConfig): string {
  return { mistral: "llama", gemma3_text: "gemma3" }[model_type] ?? model_type;
}

function ggufMetadata(config: PublishedConfig): Record<string, TinyValue | undefined> {
  const architecture = ggufArchitecture(config);
  const headDim = headDimOf(config);
  const { rope_scaling: scaling, sliding_window: window } = config;
  const values: Record<string, TinyValue | undefined> = {
    block_count: uint32(config.num_hidden_layers),
    context_length: uint32(config.max_position_embeddings),
    embedding_length: uint32(config.hidden_size),
    feed_forward_length: uint32(config.intermediate_size),
    "attention.head_count": uint32(config.num_attention_heads),
    "attention.head_count_kv": uint32(config.num_key_value_heads),
    "attention.key_length": uint32(headDim),
    "attention.value_length": uint32(headDim),
    "attention.layer_norm_rms_epsilon": float32(config.rms_norm_eps),
    "rope.freq_base": float32(config.rope_theta),
    "rope.dimension_count": architecture === "llama" ? uint32(headDim) : undefined,
    ...(window != null && config.use_sliding_window !== false && { "attention.sliding_window": uint32(window) }),
    ...(config.sliding_window_pattern !== undefined && {
      "attention.sliding_window_pattern": uint32(config.sliding_window_pattern),
    }),
    ...(scaling !== undefined && ggufRopeScaling(scaling)),
  };
  return {
    "general.architecture": { type: "string", value: architecture },
    ...Object.fromEntries(Object.entries(values).map(([key, value]) => [`${architecture}.${key}`, value])),
  };
}

function ggufRopeScaling(scaling: PublishedRopeScaling): Record<string, TinyValue> {
  const type = scaling.rope_type ?? scaling.type;
  // It is in the tensors.
  if (type === "llama3") return {};
  const { factor, attention_factor, beta_fast, beta_slow, original_max_position_embeddings: trained } = scaling;
  return {
    "rope.scaling.type": { type: "string", value: type ?? "" },
    "rope.scaling.factor": float32(factor),
    ...optional("original_context_length", trained, uint32),
    ...optional("yarn_beta_fast", beta_fast, float32),
    ...optional("yarn_beta_slow", beta_slow, float32),
    // llama.cpp multiplies YaRN's own factor by this one.
    ...optional("attn_factor", attention_factor && attention_factor / (1 + 0.1 * Math.log(factor)), float32),
  };
}

function optional(
  key: string,
  value: number | undefined,
  as: (value: number) => TinyValue,
): Readonly<Record<string, TinyValue>> {
  return value === undefined ? {} : { [`rope.scaling.${key}`]: as(value) };
}

/** `rope_freqs.weight`, as the converter computes it from wavelengths. */
function llama3Divisors(config: PublishedConfig): Float32Array | undefined {
  const { rope_scaling: scaling, rope_theta } = config;
  if (scaling?.rope_type !== "llama3") return undefined;
  const {
    factor,
    low_freq_factor = 1,
    high_freq_factor = 4,
    original_max_position_embeddings: trained = 8192,
  } = scaling;
  const headDim = headDimOf(config);
  return Float32Array.from({ length: headDim / 2 }, (_, pair) => {
    const wavelength = 2 * Math.PI * rope_theta ** ((2 * pair) / headDim);
    if (wavelength < trained / high_freq_factor) return 1;
    if (wavelength > trained / low_freq_factor) return factor;
    const smooth = (trained / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
    return 1 / ((1 - smooth) / factor + smooth);
  });
}

function uint32(value: number): TinyValue {
  return { type: "uint32", value };
}

function float32(value: number): TinyValue {
  return { type: "float32", value };
}
