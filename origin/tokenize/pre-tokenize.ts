/**
 * How `tokenizer.json` cuts a text into the pieces that become tokens one by one. Only the ways that are known exactly.
 *
 * Source: huggingface/tokenizers, tokenizers/src/pre_tokenizers.
 */
import { z } from "zod";
import { toByteLevel } from "./byte-level.ts";
import { describeStep } from "./normalize.ts";
import { type Behavior, behaviorSchema, compilePattern, patternSchema, splitText } from "./pattern.ts";

interface Cut {
  readonly pieces: readonly string[];
  /** Whether the first of the pieces is what the whole text begins with. */
  readonly isStart: boolean;
}

export type PreTokenizer = (cut: Cut) => Cut;

const stepSchema = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("Sequence"), pretokenizers: z.array(z.unknown()) }),
  z.looseObject({
    type: z.literal("Split"),
    pattern: patternSchema,
    behavior: behaviorSchema,
    invert: z.boolean().default(false),
  }),
  z.looseObject({
    type: z.literal("ByteLevel"),
    add_prefix_space: z.boolean().default(true),
    use_regex: z.boolean().default(true),
  }),
  z.looseObject({ type: z.literal("Digits"), individual_digits: z.boolean().default(false) }),
  z.looseObject({ type: z.literal("Punctuation"), behavior: behaviorSchema.default("Isolated") }),
  z.looseObject({ type: z.literal("WhitespaceSplit") }),
  z.looseObject({ type: z.literal("BertPreTokenizer") }),
  z.looseObject({
    type: z.literal("Metaspace"),
    replacement: z.string().min(1),
    prepend_scheme: z.enum(["always", "first", "never"]).optional(),
    /** The older name: `true` is `always`, `false` is `never`. */
    add_prefix_space: z.boolean().default(true),
    split: z.boolean().default(true),
  }),
]);

type Step = z.infer<typeof stepSchema>;

/** GPT-2's words. Source: openai/gpt-2, encoder.py. */
const GPT2_WORDS = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;

/** Unicode's, and what ASCII has besides. */
const PUNCTUATION = /[\p{P}!-/:-@[-`{-~]/gu;

/**
 * @param config - `pre_tokenizer` of `tokenizer.json`
 * @throws an Error that names a step which is not known exactly
 */
export function createPreTokenizer(config: unknown): PreTokenizer {
  if (config === null || config === undefined) return (cut) => cut;
  const parsed = stepSchema.safeParse(config);
  if (!parsed.success) {
    throw new Error(`its pre-tokenizer ${describeStep(config)} is not known`, { cause: parsed.error });
  }
  const step = parsed.data;
  switch (step.type) {
    case "Sequence": {
      const steps = step.pretokenizers.map(createPreTokenizer);
      return (cut) => steps.reduce((done, each) => each(done), cut);
    }
    case "Split": {
      const regex = compilePattern(step.pattern);
      return splitter(regex, step.behavior, step.invert);
    }
    case "ByteLevel":
      return byteLevel(step);
    case "Digits":
      return splitter(/\p{N}/gu, step.individual_digits ? "Isolated" : "Contiguous");
    case "Punctuation":
      return splitter(PUNCTUATION, step.behavior);
    case "WhitespaceSplit":
      return splitter(/\p{White_Space}/gu, "Removed");
    case "BertPreTokenizer": {
      const [words, marks] = [splitter(/\p{White_Space}/gu, "Removed"), splitter(PUNCTUATION, "Isolated")];
      return (cut) => marks(words(cut));
    }
    case "Metaspace":
      return metaspace(step);
    default:
      return step satisfies never;
  }
}

function splitter(regex: RegExp, behavior: Behavior, invert = false): PreTokenizer {
  return ({ pieces, isStart }) => {
    const cut = pieces.map((piece) => splitText(piece, regex, behavior, invert));
    const dropsStart = behavior === "Removed" && cut[0]?.[0] !== undefined && !pieces[0]?.startsWith(cut[0][0]);
    return { pieces: cut.flat(), isStart: isStart && cut[0]?.length !== 0 && !dropsStart };
  };
}

function byteLevel({ add_prefix_space, use_regex }: Extract<Step, { type: "ByteLevel" }>): PreTokenizer {
  const words = compilePattern({ Regex: GPT2_WORDS });
  const encoder = new TextEncoder();
  return ({ pieces, isStart }) => {
    const prefixed = pieces.map((piece) => (add_prefix_space && !piece.startsWith(" ") ? ` ${piece}` : piece));
    const cut = use_regex ? prefixed.flatMap((piece) => splitText(piece, words, "Isolated")) : prefixed;
    return { pieces: cut.map((piece) => toByteLevel(encoder.encode(piece))), isStart };
  };
}

function metaspace(step: Extract<Step, { type: "Metaspace" }>): PreTokenizer {
  const { replacement } = step;
  const scheme = step.prepend_scheme ?? (step.add_prefix_space ? "always" : "never");
  const marks = compilePattern({ String: replacement });
  return ({ pieces, isStart }) => {
    const marked = pieces.map((piece, i) => {
      const text = piece.replaceAll(" ", () => replacement);
      const wanted = scheme === "always" || (scheme === "first" && isStart && i === 0);
      return wanted && !text.startsWith(replacement) ? replacement + text : text;
    });
    return {
      pieces: step.split ? marked.flatMap((text) => splitText(text, marks, "MergedWithNext")) : marked,
      isStart,
    };
  };
}
