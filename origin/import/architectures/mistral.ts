/**
 * Mistral: Llama, but a token may see only the last few thousand. GGUF files of it say they are Llama.
 *
 * Source: Jiang et al. 2023, "Mistral 7B", section 2; transformers, modeling_mistral.py.
 */
import type { Architecture } from "./architecture.ts";
import { LLAMA } from "./llama.ts";

export const MISTRAL = {
  ...LLAMA,
  gguf: undefined,
  modelTypes: ["mistral"],
  local: (settings) => {
    const window = settings.optionalNumber("window");
    return window === undefined ? undefined : { window, isLocal: () => true };
  },
} as const satisfies Architecture;
