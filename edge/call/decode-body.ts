/** A request's body as text, bounded in size. Knows nothing of what is in it. */
import { ColdpathError } from "../../shared/errors.ts";

/** Stateless between whole texts. */
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

/**
 * Decodes a whole body.
 *
 * @param bytes - `undefined` where there were too many to be read
 * @throws {ColdpathError} `body_too_large`, or `invalid_json` where it is not UTF-8
 */
export function decodeBody(bytes: ArrayBuffer | Uint8Array | undefined, bytesMax: number): string {
  if (bytes === undefined || bytes.byteLength > bytesMax) {
    throw new ColdpathError("body_too_large", `the body is larger than ${bytesMax} bytes`);
  }
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw new ColdpathError("invalid_json", "the body is not valid UTF-8", { cause });
  }
}
