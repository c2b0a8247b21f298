/** The one class of expected failures on the way from a name or a file to an imported model. */
import { inspect } from "node:util";

export type ImportErrorCode =
  /** The file is missing, is a folder, or may not be read. */
  | "unreadable-file"
  /** Not a file of its format, or one whose structure contradicts itself. */
  | "invalid-file"
  /** The file ends before its own header says it should. */
  | "truncated-file"
  /** A sound file of a model that the decoder graph can't express. */
  | "unsupported-model"
  /** A sound file whose tokenizer can't be rebuilt exactly. */
  | "unsupported-tokenizer"
  /** No model, preset or file of that name. */
  | "unknown-model"
  /** No source had the file, or what they had was not it. */
  | "download-failed"
  /** Another process holds the folder and does not let go. */
  | "busy";

/** An import that can't be done; the message is one sentence for the operator. */
export class ImportError extends Error {
  override readonly name = "ImportError";
  readonly code: ImportErrorCode;

  constructor(code: ImportErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** Something a file says, for a message: on one line and short, whatever it is. */
export function shown(value: unknown): string {
  return inspect(value, { depth: 0, maxArrayLength: 8, maxStringLength: 80, breakLength: Number.POSITIVE_INFINITY });
}
