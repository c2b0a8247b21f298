/**
 * The settings of a checkpoint under one set of names, whether a GGUF file's metadata or a `config.json` has them. Says
 * where each is found and that it is a number, a count or a word; what it means is for others.
 *
 * Source: llama.cpp, gguf-py/gguf/constants.py; Hugging Face transformers, the configuration_*.py of each model, and
 * modeling_rope_utils.py for RoPE's three forms: `rope_scaling`, since version 5 `rope_parameters`, and that by layer type.
 */
import { ImportError, type ImportErrorCode, shown } from "../../manifest/import-error.ts";
import type { TensorFile } from "../sources/tensor-file.ts";

interface Places {
  /** Keys behind the architecture's name and a dot. The first that has a value counts. */
  readonly gguf?: readonly string[];
  /** Paths into `config.json`. */
  readonly config?: readonly string[];
}

const SETTINGS = {
  layers: { gguf: ["block_count"], config: ["num_hidden_layers"] },
  hiddenSize: { gguf: ["embedding_length"], config: ["hidden_size"] },
  ffnSize: { gguf: ["feed_forward_length"], config: ["intermediate_size"] },
  queryHeads: { gguf: ["attention.head_count"], config: ["num_attention_heads"] },
  kvHeads: { gguf: ["attention.head_count_kv"], config: ["num_key_value_heads"] },
  headDim: { gguf: ["attention.key_length"], config: ["head_dim"] },
  valueDim: { gguf: ["attention.value_length"] },
  contextLength: { gguf: ["context_length"], config: ["max_position_embeddings"] },
  vocabSize: { config: ["vocab_size"] },
  layerNormEpsilon: { config: ["layer_norm_eps"] },
  isDecoder: { config: ["is_decoder"] },
  positions: { config: ["position_embedding_type"] },
  normEpsilon: { gguf: ["attention.layer_norm_rms_epsilon"], config: ["rms_norm_eps"] },
  activation: { config: ["hidden_activation", "hidden_act"] },
  tiedEmbeddings: { config: ["tie_word_embeddings"] },
  experts: { gguf: ["expert_count"], config: ["num_local_experts", "num_experts", "n_routed_experts"] },
  quantizedBy: { config: ["quantization_config.quant_method"] },

  attentionDivisor: { config: ["query_pre_attn_scalar"] },
  attentionSoftcap: { gguf: ["attn_logit_softcapping"], config: ["attn_logit_softcapping"] },
  finalSoftcap: { gguf: ["final_logit_softcapping"], config: ["final_logit_softcapping"] },
  bidirectional: { config: ["use_bidirectional_attention"] },
  usesWindow: { config: ["use_sliding_window"] },
  window: { gguf: ["attention.sliding_window"], config: ["sliding_window"] },
  windowPattern: {
    gguf: ["attention.sliding_window_pattern"],
    config: ["sliding_window_pattern", "_sliding_window_pattern"],
  },
  firstWindowedLayer: { config: ["max_window_layers"] },
  layerTypes: { config: ["layer_types"] },

  ropeBase: { gguf: ["rope.freq_base"], config: ["rope_theta", ...ofRope("rope_theta")] },
  localRopeBase: {
    gguf: ["rope.freq_base_swa"],
    config: ["rope_local_base_freq", "rope_parameters.sliding_attention.rope_theta"],
  },
  localRopeType: { config: ["rope_parameters.sliding_attention.rope_type"] },
  rotatedSize: { gguf: ["rope.dimension_count"] },
  rotatedShare: { config: ["partial_rotary_factor", ...ofRope("partial_rotary_factor")] },
  ropeType: { gguf: ["rope.scaling.type"], config: [...ofRope("rope_type"), ...ofRope("type")] },
  ropeFactor: { gguf: ["rope.scaling.factor", "rope.scale_linear"], config: ofRope("factor") },
  ropeContext: { gguf: ["rope.scaling.original_context_length"], config: ofRope("original_max_position_embeddings") },
  llama3LowFactor: { config: ofRope("low_freq_factor") },
  llama3HighFactor: { config: ofRope("high_freq_factor") },
  yarnFast: { gguf: ["rope.scaling.yarn_beta_fast"], config: ofRope("beta_fast") },
  yarnSlow: { gguf: ["rope.scaling.yarn_beta_slow"], config: ofRope("beta_slow") },
  yarnMagnitude: { config: ofRope("attention_factor") },
  yarnExtrapolation: { gguf: ["rope.scaling.yarn_ext_factor"] },
  yarnLogMultiplier: { gguf: ["rope.scaling.yarn_log_multiplier"] },
  yarnMagnitudeScale: { gguf: ["rope.scaling.attn_factor"] },
  yarnTruncates: { config: ofRope("truncate") },
  yarnMscale: { config: ofRope("mscale") },
  yarnMscaleAll: { config: ofRope("mscale_all_dim") },
} as const satisfies Record<string, Places>;

export type Setting = keyof typeof SETTINGS;

/** The three places of one key of a RoPE's description. */
function ofRope(key: string): readonly string[] {
  return [`rope_scaling.${key}`, `rope_parameters.${key}`, `rope_parameters.full_attention.${key}`];
}

export interface SettingsOptions {
  /** What keys begin with, in GGUF. */
  readonly prefix: string;
  /** `config.json`, or the part of it that describes the decoder. */
  readonly config: unknown;
  /** Numbers for what a file does not say. */
  readonly defaults: Readonly<Partial<Record<Setting, number>>>;
}

export class Settings {
  readonly #file: TensorFile;
  readonly #options: SettingsOptions;

  constructor(file: TensorFile, options: SettingsOptions) {
    this.#file = file;
    this.#options = options;
  }

  get format(): TensorFile["format"] {
    return this.#file.format;
  }

  /** @throws {ImportError} where there is neither a number nor a default */
  number(setting: Setting, fallback?: number): number {
    const number = this.optionalNumber(setting) ?? fallback;
    if (number === undefined) this.fail("invalid-file", `lacks the metadata ${this.#key(setting)}`);
    return number;
  }

  /** @throws {ImportError} where there is neither a number above 0 nor a default */
  positive(setting: Setting, fallback?: number): number {
    const number = this.number(setting, fallback);
    if (number > 0) return number;
    return this.fail("invalid-file", `says ${this.#key(setting)} is ${number}, which is not positive`);
  }

  /** @throws {ImportError} where there is neither a whole number of at least 1 nor a default */
  count(setting: Setting, fallback?: number): number {
    const count = this.number(setting, fallback);
    if (Number.isSafeInteger(count) && count > 0) return count;
    return this.fail("invalid-file", `says ${this.#key(setting)} is ${count}, which is no count`);
  }

  /** @throws {ImportError} where there is something that is no number */
  optionalNumber(setting: Setting): number | undefined {
    const value = this.#find(setting) ?? this.#options.defaults[setting];
    if (value === undefined) return undefined;
    const number = typeof value === "bigint" ? Number(value) : value;
    if (typeof number === "number" && Number.isFinite(number)) return number;
    return this.fail("unsupported-model", `gives ${this.#key(setting)} something other than one number`);
  }

  /** @throws {ImportError} where there is something that is neither true nor false */
  flag(setting: Setting): boolean | undefined {
    const value = this.#find(setting);
    if (value === undefined || typeof value === "boolean") return value;
    return this.fail("invalid-file", `says ${this.#key(setting)} is ${shown(value)}, not true or false`);
  }

  /** @throws {ImportError} where there is something that is no word */
  word(setting: Setting): string | undefined {
    const value = this.#find(setting);
    if (value === undefined || typeof value === "string") return value;
    return this.fail("invalid-file", `says ${this.#key(setting)} is ${shown(value)}, which is no word`);
  }

  /** @throws {ImportError} where there is something that is no list of words */
  words(setting: Setting): readonly string[] | undefined {
    const value = this.#find(setting);
    if (value === undefined) return undefined;
    if (Array.isArray(value) && value.every((item): item is string => typeof item === "string")) return value;
    return this.fail("invalid-file", `says ${this.#key(setting)} is ${shown(value)}, which is no list of words`);
  }

  /** @throws {ImportError} always, in one sentence that begins with the file's name */
  fail(code: ImportErrorCode, what: string): never {
    throw new ImportError(code, `${this.#file.path} ${what}`);
  }

  #find(setting: Setting): unknown {
    const { gguf = [], config = [] }: Places = SETTINGS[setting];
    const values =
      this.#file.format === "gguf"
        ? gguf.map((key) => this.#file.metadata[`${this.#options.prefix}.${key}`])
        : config.map((path) => lookUp(this.#options.config, path));
    return values.find((value) => value !== undefined);
  }

  /** What the file's format calls a setting, for messages. */
  #key(setting: Setting): string {
    const { gguf = [], config = [] }: Places = SETTINGS[setting];
    return this.#file.format === "gguf" ? `${this.#options.prefix}.${gguf[0] ?? setting}` : (config[0] ?? setting);
  }
}

/** What a path of keys leads to; `null` is nothing, as in Python's configurations. */
function lookUp(value: unknown, path: string): unknown {
  for (const key of path.split(".")) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, key)) return undefined;
    value = (value as Readonly<Record<string, unknown>>)[key];
  }
  return value ?? undefined;
}
