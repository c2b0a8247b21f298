/**
 * Gemma 3, its text part: norms before and behind each part, normed queries and keys, a GELU for a gate, embeddings as long
 * as the hidden size is wide, and five layers with a window and a RoPE of their own to each that sees everything.
 *
 * Source: Gemma Team 2025, "Gemma 3 Technical Report", section 2; transformers, modeling_gemma3.py and
 * configuration_gemma3.py (whose defaults the published configurations leave out); llama.cpp, src/llama-model.cpp
 * (`LLM_ARCH_GEMMA3`), which knows the 27B model, the one with another divisor, by its layers.
 */
import type { Architecture } from "./architecture.ts";

const LAYERS_OF_27B = 62;

export const GEMMA3 = {
  gguf: "gemma3",
  modelTypes: ["gemma3_text", "gemma3"],
  layer: {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
  },
  activation: "gelu_tanh",
  normOffset: 1,
  interleavedInGguf: false,
  embeddingScale: (hiddenSize) => Math.sqrt(hiddenSize),
  attentionDivisor: (settings) => {
    if (settings.format === "safetensors") return settings.positive("attentionDivisor", 256);
    const is27B = settings.count("layers") === LAYERS_OF_27B;
    return is27B ? settings.count("hiddenSize") / settings.count("queryHeads") : undefined;
  },
  local: (settings) => {
    const pattern = settings.count("windowPattern", 6);
    return {
      window: settings.count("window"),
      isLocal: (layer) => (layer + 1) % pattern !== 0,
      ropeBase: settings.positive("localRopeBase", 10_000),
    };
  },
  defaults: {
    queryHeads: 8,
    kvHeads: 4,
    headDim: 256,
    contextLength: 131_072,
    normEpsilon: 1e-6,
    window: 4096,
    ropeBase: 1_000_000,
  },
} as const satisfies Architecture;
