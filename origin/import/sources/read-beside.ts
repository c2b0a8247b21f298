/** Reads a JSON file that lies beside the weights, as its schema says it should be. */
import * as z from "zod";
import { ImportError } from "../../manifest/import-error.ts";
import type { TensorFile } from "./tensor-file.ts";

/**
 * @returns `undefined` where there is no such file
 * @throws {ImportError} `invalid-file` where it is no JSON or another than the schema says, and what `readText` throws
 */
export function readBeside<Schema extends z.ZodType>(
  file: TensorFile,
  name: string,
  schema: Schema,
): z.infer<Schema> | undefined {
  const text = file.readText(name);
  return text === undefined ? undefined : parseBeside({ file, name, text }, schema);
}

/** As `readBeside`, of a text that was read already. */
export function parseBeside<Schema extends z.ZodType>(
  { file, name, text }: { readonly file: TensorFile; readonly name: string; readonly text: string },
  schema: Schema,
): z.infer<Schema> {
  let body: unknown;
  try {
    body = JSON.parse(text);
  } catch (cause) {
    throw new ImportError("invalid-file", `${file.path} has a ${name} that is no JSON`, { cause });
  }
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const reason = z.prettifyError(parsed.error).split("\n").slice(0, 2).join("");
  throw new ImportError("invalid-file", `${file.path} has a ${name} that can't be read: ${reason}`, {
    cause: parsed.error,
  });
}
