/**
 * Qwen3, the dense ones: Qwen2 without its biases, each head's query and key normed before they are rotated.
 *
 * Source: Yang et al. 2025, "Qwen3 Technical Report", section 2; transformers, modeling_qwen3.py and
 * configuration_qwen3.py; llama.cpp, src/llama-model.cpp (`LLM_ARCH_QWEN3`).
 */
import type { Architecture } from "./architecture.ts";
import { LLAMA } from "./llama.ts";
import { QWEN2 } from "./qwen2.ts";

export const QWEN3 = {
  ...QWEN2,
  gguf: "qwen3",
  modelTypes: ["qwen3"],
  layer: {
    ...LLAMA.layer,
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
  },
  defaults: { headDim: 128 },
} as const satisfies Architecture;
