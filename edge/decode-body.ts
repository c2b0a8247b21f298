/** Reads a request's body as text, bounded in size. Knows nothing of what is in it. */
import { ColdpathError } from "../shared/errors.ts";
import type { Incoming } from "./incoming.ts";

/** Stateless between whole texts. */
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

/**
 * Reads the whole body.
 *
 * @throws {ColdpathError} `body_too_large`, or `invalid_json` where it is not UTF-8
 */
export async function readText(request: Incoming, bytesMax: number): Promise<string> {
  const bytes = await request.bytes(bytesMax);
  if (bytes === undefined) throw new ColdpathError("body_too_large", `the body is larger than ${bytesMax} bytes`);
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw new ColdpathError("invalid_json", "the body is not valid UTF-8", { cause });
  }
}
