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
  /** The disk is full, or a quota used up. */
  | "disk-full"
  /** A file of ours can't be written for another reason. */
  | "unwritable"
  /** Another process holds the folder and does not let go. */
  | "busy";

/** Longer ones quote something that is no name. */
const MESSAGE_LENGTH_MAX = 2_000;

/**
 * An import that can't be done; the message is one sentence for the operator. It may quote names that a damaged file has,
 * so it is cut and freed of control characters: it is one line, and moves no cursor.
 */
export class ImportError extends Error {
  override readonly name = "ImportError";
  readonly code: ImportErrorCode;

  constructor(code: ImportErrorCode, message: string, options?: ErrorOptions) {
    super(oneLine(message), options);
    this.code = code;
  }
}

function oneLine(message: string): string {
  const line = message.replaceAll(/[\p{Cc}\p{Zl}\p{Zp}]+/gu, " ");
  return line.length <= MESSAGE_LENGTH_MAX ? line : `${line.slice(0, MESSAGE_LENGTH_MAX)}…`;
}

/** Something a file says, for a message: on one line and short, whatever it is. */
export function shown(value: unknown): string {
  return inspect(value, { depth: 0, maxArrayLength: 8, maxStringLength: 80, breakLength: Number.POSITIVE_INFINITY });
}
