/**
 * A tokenizer with one token per byte and ChatML's two control tokens, in the files' own formats, so that it goes
 * through the real tokenizer's code. Token ids below 256 are bytes: tests can read prompts and write answers by hand.
 */
import { type TokenizerSource, Tokenizer } from "../../origin/tokenize/tokenizer.ts";

export const IM_START = 256;
export const IM_END = 257;
export const BYTE_VOCAB_SIZE = 258;

const CHATML_TEMPLATE =
  "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}" +
  "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/** GPT-2's letters for the bytes 0 to 255, written out here a second time on purpose. */
function byteLetters(): string[] {
  const letters: string[] = [];
  let next = 0x100;
  for (let byte = 0; byte < 256; byte++) {
    const isPrintable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    letters.push(String.fromCodePoint(isPrintable ? byte : next++));
  }
  return letters;
}

export function byteTokenizerSource(overrides: Partial<TokenizerSource> = {}): TokenizerSource {
  const vocab = Object.fromEntries(byteLetters().map((letter, byte) => [letter, byte]));
  const control = { special: true, normalized: false, single_word: false, lstrip: false, rstrip: false };
  return {
    tokenizerJson: {
      version: "1.0",
      added_tokens: [
        { id: IM_START, content: "<|im_start|>", ...control },
        { id: IM_END, content: "<|im_end|>", ...control },
      ],
      normalizer: null,
      pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      post_processor: null,
      decoder: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
      model: { type: "BPE", vocab, merges: [], dropout: null, unk_token: null, fuse_unk: false },
    },
    chatTemplate: CHATML_TEMPLATE,
    tokens: { bos: null, addBos: false },
    ...overrides,
  };
}

export function createByteTokenizer(overrides: Partial<TokenizerSource> = {}): Tokenizer {
  return new Tokenizer(byteTokenizerSource(overrides));
}
