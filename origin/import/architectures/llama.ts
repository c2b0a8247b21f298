/**
 * Llama 2 and 3, and what shares their form: SmolLM2, TinyLlama, and in GGUF Mistral too, whose window is then in a key.
 * (A `config.json` of this type may have that key as well; there the published model does not look at it.)
 *
 * Source: Touvron et al. 2023, "LLaMA"; transformers, modeling_llama.py; llama.cpp, conversion/llama.py (the order of q
 * and k) and src/llama-model.cpp (`LLM_ARCH_LLAMA`).
 */
import type { Architecture } from "./architecture.ts";

export const LLAMA = {
  gguf: "llama",
  modelTypes: ["llama"],
  layer: {
    "attn_norm.weight": "input_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
  },
  activation: "silu",
  normOffset: 0,
  interleavedInGguf: true,
  local: (settings) => {
    const window = settings.format === "gguf" ? settings.optionalNumber("window") : undefined;
    return window === undefined ? undefined : { window, isLocal: () => true };
  },
} as const satisfies Architecture;
