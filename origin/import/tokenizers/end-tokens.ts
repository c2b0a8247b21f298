/** Control tokens that end an answer in some model or other, whichever of them a checkpoint calls EOS. */
export const END_TOKENS: ReadonlySet<string> = new Set([
  "<|im_end|>",
  "<|endoftext|>",
  "<|eot_id|>",
  "<|eom_id|>",
  "<|end_of_text|>",
  "<|end|>",
  "<end_of_turn>",
]);
