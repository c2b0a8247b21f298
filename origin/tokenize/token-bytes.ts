/**
 * What each token stands for, in bytes, as `tokenizer.json`'s decoder has it. Bytes and not text, because a character
 * may be spread over tokens.
 *
 * Source: huggingface/tokenizers, tokenizers/src/decoders.
 */
import { z } from "zod";
import { fromByteLevel } from "./byte-level.ts";
import { describeStep } from "./normalize.ts";

export interface TokenSpelling {
  readonly bytesOf: (token: string) => Uint8Array;
  /** What is left of a text's first bytes: some decoders drop the space that the encoder had put there. */
  readonly begin: (bytes: Uint8Array) => Uint8Array;
}

const stepSchema = z.discriminatedUnion("type", [
  z.looseObject({ type: z.literal("ByteLevel") }),
  z.looseObject({ type: z.literal("ByteFallback") }),
  z.looseObject({ type: z.literal("Fuse") }),
  z.looseObject({
    type: z.literal("Replace"),
    pattern: z.strictObject({ String: z.string().min(1) }),
    content: z.string(),
  }),
  z.looseObject({
    type: z.literal("Strip"),
    content: z.literal(" "),
    start: z.union([z.literal(0), z.literal(1)]),
    stop: z.literal(0),
  }),
  z.looseObject({
    type: z.literal("Metaspace"),
    replacement: z.string().min(1),
    prepend_scheme: z.enum(["always", "first", "never"]).optional(),
    add_prefix_space: z.boolean().default(true),
  }),
]);

const SPACE = 0x20;
const BYTE_TOKEN = /^<0x([0-9A-Fa-f]{2})>$/;

/** The byte that a token like `<0x0A>` stands for. */
export function byteOfToken(token: string): number | undefined {
  const hex = BYTE_TOKEN.exec(token)?.[1];
  return hex === undefined ? undefined : Number.parseInt(hex, 16);
}

/**
 * @param config - `decoder` of `tokenizer.json`
 * @throws an Error that names a step which is not known exactly
 */
export function createSpelling(config: unknown): TokenSpelling {
  const steps = listSteps(config);
  const encoder = new TextEncoder();
  if (steps.some(({ type }) => type === "ByteLevel")) return { bytesOf: fromByteLevel, begin: (bytes) => bytes };

  const hasBytes = steps.some(({ type }) => type === "ByteFallback");
  const replacements = steps.flatMap((step): readonly (readonly [from: string, to: string])[] => {
    if (step.type === "Replace") return [[step.pattern.String, step.content]];
    return step.type === "Metaspace" ? [[step.replacement, " "]] : [];
  });
  const respell = (token: string) => replacements.reduce((text, [from, to]) => text.replaceAll(from, () => to), token);
  return {
    bytesOf: (token) => {
      const byte = hasBytes ? byteOfToken(token) : undefined;
      return byte === undefined ? encoder.encode(respell(token)) : Uint8Array.of(byte);
    },
    begin: (bytes) => (steps.some(dropsSpace) && bytes[0] === SPACE ? bytes.subarray(1) : bytes),
  };
}

function listSteps(config: unknown): readonly z.infer<typeof stepSchema>[] {
  const isSequence = z.looseObject({ type: z.literal("Sequence"), decoders: z.array(z.unknown()) }).safeParse(config);
  const configs = isSequence.success ? isSequence.data.decoders : [config];
  return configs.map((each) => {
    const parsed = stepSchema.safeParse(each);
    if (parsed.success) return parsed.data;
    throw new Error(`its decoder ${describeStep(each)} is not known`, { cause: parsed.error });
  });
}

function dropsSpace(step: z.infer<typeof stepSchema>): boolean {
  if (step.type === "Strip") return step.start > 0;
  if (step.type !== "Metaspace") return false;
  return step.prepend_scheme === undefined ? step.add_prefix_space : step.prepend_scheme !== "never";
}
