/**
 * Where each of the decoder's tensors is in a file: under its own name in GGUF, under Hugging Face's elsewhere. Knows names,
 * no values.
 */
import type { LayerTensor, TensorName } from "../checkpoint/checkpoint.ts";
import type { TensorFile } from "../sources/tensor-file.ts";
import type { Architecture } from "./architecture.ts";

/** Llama 3's divisors of each pair's rotation: in GGUF a tensor, though not a weight. */
export const ROPE_DIVISORS = "rope_freqs.weight";

export interface TensorNames {
  /** What the file calls a tensor. */
  readonly of: (name: TensorName) => string;
  /** Whether the file may have a tensor besides those that have a name here. */
  readonly isIgnored: (name: string) => boolean;
}

export function nameTensors({ format, shapes }: TensorFile, { layer }: Architecture): TensorNames {
  if (format === "gguf") return { of: (name) => name, isIgnored: (name) => name === ROPE_DIVISORS };
  const prefix = decoderPrefix(shapes);
  const of = (name: TensorName): string => {
    switch (name) {
      case "token_embd.weight":
        return `${prefix}embed_tokens.weight`;
      case "output_norm.weight":
        return `${prefix}norm.weight`;
      case "output.weight":
        return headName(shapes);
      default: {
        const [, index = "", part = ""] = /^blk\.(\d+)\.(.+)$/.exec(name) ?? [];
        return `${prefix}layers.${index}.${layer[part as LayerTensor] ?? part}`;
      }
    }
  };
  return { of, isIgnored: isBesideDecoder };
}

/** `model.`, or behind it or before it `language_model.` where a model also sees images. */
function decoderPrefix(shapes: TensorFile["shapes"]): string {
  const prefixes = ["model.", "language_model.model.", "model.language_model."];
  return prefixes.find((prefix) => shapes.has(`${prefix}embed_tokens.weight`)) ?? "model.";
}

function headName(shapes: TensorFile["shapes"]): string {
  const names = ["lm_head.weight", "language_model.lm_head.weight"];
  return names.find((name) => shapes.has(name)) ?? "lm_head.weight";
}

/** What sees images, and what early Llama checkpoints carry though it follows from their configuration. */
function isBesideDecoder(name: string): boolean {
  return /^(model\.)?(vision_tower|multi_modal_projector)\./.test(name) || name.endsWith(".rotary_emb.inv_freq");
}
