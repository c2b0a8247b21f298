/**
 * Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and where a file asks for it a window in later layers.
 *
 * Source: Yang et al. 2024, "Qwen2 Technical Report", section 2.2; transformers, modeling_qwen2.py and
 * configuration_qwen2.py; llama.cpp, src/llama-model.cpp (`LLM_ARCH_QWEN2`).
 */
import type { Architecture } from "./architecture.ts";
import { LLAMA } from "./llama.ts";

export const QWEN2 = {
  ...LLAMA,
  gguf: "qwen2",
  modelTypes: ["qwen2"],
  layer: {
    ...LLAMA.layer,
    "attn_q.bias": "self_attn.q_proj.bias",
    "attn_k.bias": "self_attn.k_proj.bias",
    "attn_v.bias": "self_attn.v_proj.bias",
  },
  interleavedInGguf: false,
  local: (settings) => {
    if (settings.flag("usesWindow") !== true) return undefined;
    const first = settings.number("firstWindowedLayer");
    return { window: settings.count("window"), isLocal: (layer) => layer >= first };
  },
} as const satisfies Architecture;
