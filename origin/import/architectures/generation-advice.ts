/**
 * What a checkpoint says of how its answers are best drawn: `generation_config.json` beside safetensors, or the keys that
 * llama.cpp's converter makes of it. Knows no preset and no request.
 *
 * `do_sample` is not looked at, as vLLM does not: a file without a temperature says `false` there by default, and its
 * makers did not mean that answers are never to be drawn.
 *
 * Source: transformers, GenerationConfig; llama.cpp, gguf-py/gguf/constants.py (`general.sampling.*`).
 */
import { z } from "zod";
import { type GenerationDefaults, generationSchema } from "../../manifest/generation-defaults.ts";
import { ImportError } from "../../manifest/import-error.ts";
import { readBeside } from "../sources/read-beside.ts";
import type { TensorFile } from "../sources/tensor-file.ts";

type Field = keyof GenerationDefaults;

const HUB_FILE = "generation_config.json";
/** What GGUF calls the fields. */
const GGUF_KEYS: Readonly<Record<Field, string>> = {
  temperature: "general.sampling.temp",
  top_p: "general.sampling.top_p",
  top_k: "general.sampling.top_k",
  min_p: "general.sampling.min_p",
  repetition_penalty: "general.sampling.penalty_repeat",
};
const FIELDS = Object.keys(GGUF_KEYS) as Field[];

/** A 32-bit float has seven decimal digits; the rest of 0.949999988079071 is its own. */
const FLOAT_DIGITS = 7;

/**
 * What is said, without what no request could ask for either, such as a `top_k` of −1 for all.
 *
 * @returns `undefined` where nothing is said
 * @throws {ImportError} `invalid-file` for a file that is no JSON object
 */
export function readGenerationAdvice(file: TensorFile): GenerationDefaults | undefined {
  const said = file.format === "gguf" ? readKeys(file) : readHubFile(file);
  const usable = FIELDS.filter((field) => generationSchema.shape[field].safeParse(said[field]).success);
  const advice = Object.fromEntries(usable.map((field) => [field, said[field]]).filter(([, value]) => value != null));
  return Object.keys(advice).length === 0 ? undefined : generationSchema.parse(advice);
}

type Said = Readonly<Partial<Record<Field, unknown>>>;

function readKeys({ metadata }: TensorFile): Said {
  return Object.fromEntries(
    FIELDS.map((field) => {
      const value = metadata[GGUF_KEYS[field]];
      return [field, typeof value === "number" ? Number(value.toPrecision(FLOAT_DIGITS)) : value];
    }),
  );
}

function readHubFile(file: TensorFile): Said {
  const body = readBeside(file, HUB_FILE, z.unknown());
  if (body === undefined) return {};
  if (typeof body === "object" && body !== null) return body;
  throw new ImportError("invalid-file", `${file.path} has a ${HUB_FILE} that is no object`);
}
