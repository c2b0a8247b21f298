/**
 * How a model's makers advise to draw its answers, for requests that do not say it themselves: a small model at OpenAI's
 * temperature of 1 talks nonsense. It lies in the imported model's folder as the file that Hugging Face's transformers and
 * vLLM read too, so the model's digest covers it, and an answer that was drawn in another way is none of its answers.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { GENERATION_FILE } from "./manifest.ts";

/** In the names of a request's own fields, within what a request may ask for. */
export const generationSchema = z.object({
  temperature: z.number().min(0).max(2).optional(),
  top_p: z.number().min(0).max(1).optional(),
  top_k: z.int().min(0).optional(),
  min_p: z.number().min(0).max(1).optional(),
  repetition_penalty: z.number().gt(0).max(2).optional(),
});

export type GenerationDefaults = Readonly<z.infer<typeof generationSchema>>;

/**
 * Reads an imported model's.
 *
 * @returns nothing said, where there is no such file
 * @throws an Error whose message is for the operator
 */
export function readGenerationDefaults(folder: string): GenerationDefaults {
  const path = join(folder, GENERATION_FILE);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return {};
    throw cause;
  }
  try {
    return generationSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new Error(`${path} is damaged; import the model again`, { cause });
  }
}
