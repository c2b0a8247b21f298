/** Reads a JSON file beside the weights and checks it against a schema. */
import * as z from "zod";
import { ImportError } from "../../manifest/import-error.ts";
import type { TensorFile } from "./tensor-file.ts";

/**
 * @returns `undefined` if the file does not exist
 * @throws {ImportError} `invalid-file` if the file is not JSON or does not match the schema; errors of `readText`
 */
export function readBeside<Schema extends z.ZodType>(
  file: TensorFile,
  name: string,
  schema: Schema,
): z.infer<Schema> | undefined {
  const text = file.readText(name);
  return text === undefined ? undefined : parseBeside({ file, name, text }, schema);
}

/** Like `readBeside`, for a text that was already read. */
export function parseBeside<Schema extends z.ZodType>(
  { file, name, text }: { readonly file: TensorFile; readonly name: string; readonly text: string },
  schema: Schema,
): z.infer<Schema> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (cause) {
    throw new ImportError("invalid-file", `${file.path} has a ${name} that is not JSON`, { cause });
  }
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const reason = z.prettifyError(parsed.error).split("\n").slice(0, 2).join("");
  throw new ImportError("invalid-file", `${file.path} has an unexpected ${name}: ${reason}`, {
    cause: parsed.error,
  });
}
