/**
 * Published configurations as the reference decoder takes them: what each architecture's definition says, and RoPE's scalings
 * as its authors wrote them down, from wavelengths.
 *
 * Source: transformers, configuration_*.py and modeling_rope_utils.py; Peng et al. 2023, "YaRN", section 3.
 */
import { headDimOf, type PublishedConfig } from "../../fakes/published-model.ts";
import type { ReferenceModel } from "./reference-decoder.ts";

type Definition = Omit<ReferenceModel, "tensor">;

/** @throws a RangeError for a type of model that has no definition here */
export function defineModel(config: PublishedConfig): Definition {
  switch (config.model_type) {
    case "llama":
      return common(config);
    case "mistral":
      return { ...common(config), ...windowed(config, () => true) };
    case "qwen2":
      return { ...common(config), qkvBias: true, ...qwenWindows(config) };
    case "qwen3":
      return { ...common(config), qkNorm: true, ...qwenWindows(config) };
    case "gemma3_text":
      return gemma3(config);
    default:
      throw new RangeError(`no definition of ${config.model_type}`);
  }
}

function common(config: PublishedConfig): Definition {
  return {
    layers: config.num_hidden_layers,
    queryHeads: config.num_attention_heads,
    kvHeads: config.num_key_value_heads,
    headDim: headDimOf(config),
    ropeBase: config.rope_theta,
    normEpsilon: config.rms_norm_eps,
    tied: config.tie_word_embeddings,
    ...scaledRope(config),
  };
}

function gemma3(config: PublishedConfig): Definition {
  const { sliding_window_pattern = 6, rope_local_base_freq = 10_000, query_pre_attn_scalar = 256 } = config;
  const { local } = windowed(config, (layer) => (layer + 1) % sliding_window_pattern !== 0);
  return {
    ...common(config),
    qkNorm: true,
    postNorms: true,
    activation: "gelu_tanh",
    embeddingScale: Math.sqrt(config.hidden_size),
    scoreDivisor: query_pre_attn_scalar,
    ...(local && { local: { ...local, ropeBase: rope_local_base_freq } }),
  };
}

function qwenWindows(config: PublishedConfig): Pick<Definition, "local"> {
  const { use_sliding_window = false, max_window_layers = 0 } = config;
  return use_sliding_window ? windowed(config, (layer) => layer >= max_window_layers) : {};
}

function windowed(
  { sliding_window, num_hidden_layers }: PublishedConfig,
  isLocal: (layer: number) => boolean,
): Pick<Definition, "local"> {
  if (sliding_window == null) return {};
  const layers = Array.from({ length: num_hidden_layers }, (_, layer) => layer).filter(isLocal);
  return { local: { layers, window: sliding_window } };
}

function scaledRope(config: PublishedConfig): Pick<Definition, "ropeFactors" | "ropeMagnitude"> {
  const { rope_scaling: scaling, rope_theta: base } = config;
  if (scaling === undefined) return {};
  const headDim = headDimOf(config);
  const pairs = Array.from({ length: headDim / 2 }, (_, pair) => pair);
  const { factor, original_max_position_embeddings: trained = config.max_position_embeddings } = scaling;
  const wavelength = (pair: number) => 2 * Math.PI * base ** ((2 * pair) / headDim);
  switch (scaling.rope_type ?? scaling.type ?? "none") {
    case "linear":
      return { ropeFactors: pairs.map(() => factor) };
    case "llama3": {
      const { low_freq_factor: low = 1, high_freq_factor: high = 4 } = scaling;
      const factors = pairs.map((pair) => {
        if (wavelength(pair) < trained / high) return 1;
        if (wavelength(pair) > trained / low) return factor;
        const smooth = (trained / wavelength(pair) - low) / (high - low);
        return 1 / ((1 - smooth) / factor + smooth);
      });
      return { ropeFactors: factors };
    }
    case "yarn": {
      const { beta_fast = 32, beta_slow = 1, attention_factor = 0.1 * Math.log(factor) + 1 } = scaling;
      // The pair of a given number of turns within the trained context, solved from trained / wavelength = turns.
      const pairOf = (turns: number) => (headDim * Math.log(trained / (turns * 2 * Math.PI))) / (2 * Math.log(base));
      const low = Math.max(Math.floor(pairOf(beta_fast)), 0);
      const high = Math.min(Math.ceil(pairOf(beta_slow)), headDim - 1);
      const factors = pairs.map((pair) => {
        const ramp = Math.min(Math.max((pair - low) / (high - low), 0), 1);
        return 1 / (ramp / factor + (1 - ramp));
      });
      return { ropeFactors: factors, ropeMagnitude: attention_factor };
    }
    default:
      throw new RangeError("no definition of this scaling");
  }
}
