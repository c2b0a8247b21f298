/**
 * Text as OpenAI's routes without messages take it: one text, its token ids, or a list of either. Knows no model, so not
 * which ids there are.
 *
 * Source: OpenAI API reference, `prompt` of "Create completion" and `input` of "Create embeddings".
 */
import * as z from "zod";

const text = z.string().min(1);
const tokenIds = z.array(z.int().min(0).max(2_147_483_647)).min(1);

/** @param textsMax - how many texts a list may hold */
export function textInput(textsMax: number) {
  return z.union([text, z.array(text).min(1).max(textsMax), tokenIds, z.array(tokenIds).min(1).max(textsMax)], {
    error: `must be a text, token ids, or a list of up to ${textsMax} of either, and nothing empty`,
  });
}

export type TextInput = string | string[] | number[] | number[][];

/** Whichever way they were sent: one text is a list of one. */
export function listTexts(input: TextInput): string[] | number[][] {
  if (typeof input === "string") return [input];
  return typeof input[0] === "number" ? [input as number[]] : (input as string[] | number[][]);
}

/** The same input with other texts; token ids stay. */
export function mapTexts<Input extends TextInput>(input: Input, change: (text: string) => string): Input {
  if (typeof input === "string") return change(input) as Input;
  const items: readonly (string | number | number[])[] = input;
  return items.map((item) => (typeof item === "string" ? change(item) : item)) as Input;
}
