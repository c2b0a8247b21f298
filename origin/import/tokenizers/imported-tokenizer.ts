/** What an import keeps of a tokenizer, wherever it was read. */
import type { Manifest } from "../../manifest/manifest.ts";

export interface ImportedTokenizer {
  /** The text of `tokenizer.json`. */
  readonly json: string;
  /** A Jinja template over `messages`, `tools` and `add_generation_prompt`. A base model has none. */
  readonly chatTemplate: string | undefined;
  readonly tokens: Manifest["tokens"];
}

/** Control tokens that end an answer in at least one family of models, whichever of them a checkpoint calls EOS. */
export const END_TOKENS: ReadonlySet<string> = new Set([
  "<|im_end|>",
  "<|endoftext|>",
  "<|eot_id|>",
  "<|eom_id|>",
  "<|end_of_text|>",
  "<|end|>",
  "<end_of_turn>",
]);
