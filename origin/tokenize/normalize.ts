/**
 * What `tokenizer.json` does to a text before it is cut. Only the steps that are known exactly: with one that is nearly
 * right, rare text would be read otherwise than the model was trained on. Knows nothing of tokens.
 *
 * Source: huggingface/tokenizers, tokenizers/src/normalizers.
 */
import { z } from "zod";
import { compilePattern, patternSchema } from "./pattern.ts";
import { PrecompiledCharsmap } from "./precompiled-charsmap.ts";

export interface Normalizer {
  normalize(text: string): string;
  /** So many times longer, in bytes, a text may be before than after at most. */
  readonly shrinkage: number;
}

const stepSchema = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("Sequence"), normalizers: z.array(z.unknown()) }),
  z.looseObject({ type: z.enum(["NFC", "NFD", "NFKC", "NFKD"]) }),
  z.looseObject({ type: z.literal("Lowercase") }),
  z.looseObject({ type: z.literal("StripAccents") }),
  z.looseObject({ type: z.literal("Strip"), strip_left: z.boolean(), strip_right: z.boolean() }),
  z.looseObject({ type: z.literal("Prepend"), prepend: z.string() }),
  z.looseObject({ type: z.literal("Replace"), pattern: patternSchema, content: z.string() }),
  z.looseObject({ type: z.literal("Precompiled"), precompiled_charsmap: z.string().nullable() }),
  z.looseObject({
    type: z.literal("BertNormalizer"),
    clean_text: z.boolean(),
    handle_chinese_chars: z.boolean(),
    /** `null`: where letters are made small, too. */
    strip_accents: z.boolean().nullish(),
    lowercase: z.boolean(),
  }),
]);
type Step = z.infer<typeof stepSchema>;

const NONE: Normalizer = { normalize: (text) => text, shrinkage: 1 };

/** Composing three letters of three bytes to one (Hangul) is the most that NFC does; NFKC makes one byte of four too. */
const COMPOSITION = 4;

/**
 * @param config - `normalizer` of `tokenizer.json`
 * @throws an Error that names a step which is not known exactly
 */
export function createNormalizer(config: unknown): Normalizer {
  if (config === null || config === undefined) return NONE;
  const parsed = stepSchema.safeParse(config);
  if (!parsed.success) throw new Error(`its normalizer ${describeStep(config)} is not known`, { cause: parsed.error });
  const step = parsed.data;
  switch (step.type) {
    case "Sequence":
      return step.normalizers.map(createNormalizer).reduce(chain, NONE);
    case "NFC":
    case "NFD":
    case "NFKC":
    case "NFKD":
      return { normalize: (text) => text.normalize(step.type), shrinkage: COMPOSITION };
    case "Lowercase":
      return { normalize: lowercase, shrinkage: 2 };
    case "StripAccents":
      return { normalize: (text) => text.replaceAll(/\p{M}/gu, ""), shrinkage: Infinity };
    case "Strip":
      return { normalize: (text) => strip(text, step), shrinkage: Infinity };
    case "Prepend":
      return { normalize: (text) => (text === "" ? text : step.prepend + text), shrinkage: 1 };
    case "Replace":
      return replacement(compilePattern(step.pattern), step.pattern, step.content);
    case "Precompiled":
      return precompiled(step.precompiled_charsmap);
    case "BertNormalizer":
      return { normalize: bertNormalizer(step), shrinkage: Infinity };
    default:
      return step satisfies never;
  }
}

/** What a step calls itself, for a sentence that names it. */
export function describeStep(config: unknown): string {
  const type: unknown = typeof config === "object" && config !== null && "type" in config ? config.type : config;
  return typeof type === "string" ? type : JSON.stringify(config).slice(0, 80);
}

function chain(first: Normalizer, then: Normalizer): Normalizer {
  return {
    normalize: (text) => then.normalize(first.normalize(text)),
    shrinkage: first.shrinkage * then.shrinkage,
  };
}

/** Letter by letter, as the reference does: JavaScript looks around a capital sigma. */
function lowercase(text: string): string {
  return Array.from(text, (letter) => letter.toLowerCase()).join("");
}

/** The blocks as the reference has them: it skips U+2B820 to U+2B91F, where BERT's own code does not. */
const CHINESE =
  /[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}\u{2b920}-\u{2ceaf}\u{2f800}-\u{2fa1f}]/gu;

/** Source: huggingface/tokenizers, tokenizers/src/normalizers/bert.rs, each class of letters tried over all of Unicode. */
function bertNormalizer(step: Extract<Step, { type: "BertNormalizer" }>): (text: string) => string {
  const stripsAccents = step.strip_accents ?? step.lowercase;
  return (text) => {
    let done = text;
    if (step.clean_text) done = done.replaceAll(/(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}\ufffd]/gu, "").replaceAll(/\s/gu, " ");
    if (step.handle_chinese_chars) done = done.replaceAll(CHINESE, " $& ");
    if (stripsAccents) done = done.normalize("NFD").replaceAll(/\p{Mn}/gu, "");
    return step.lowercase ? lowercase(done) : done;
  };
}

function strip(text: string, { strip_left, strip_right }: { strip_left: boolean; strip_right: boolean }): string {
  const left = strip_left ? text.replace(/^\p{White_Space}+/u, "") : text;
  return strip_right ? left.replace(/\p{White_Space}+$/u, "") : left;
}

function replacement(regex: RegExp, pattern: z.infer<typeof patternSchema>, content: string): Normalizer {
  const isLonger = "String" in pattern && Buffer.byteLength(content) >= Buffer.byteLength(pattern.String);
  // A function, because `$&` in a replacement text means the match.
  return { normalize: (text) => text.replaceAll(regex, () => content), shrinkage: isLonger ? 1 : Infinity };
}

function precompiled(base64: string | null): Normalizer {
  if (base64 === null || base64 === "") return NONE;
  const charsmap = new PrecompiledCharsmap(Buffer.from(base64, "base64"));
  return { normalize: (text) => charsmap.normalize(text), shrinkage: Infinity };
}
