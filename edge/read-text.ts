/** Reads a request's body as text, bounded in size. Knows nothing of what is in it. */
import { ColdpathError } from "../shared/errors.ts";
import { readBody } from "../shared/read-body.ts";

/** Stateless between whole texts. */
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: false });

/**
 * Reads the whole body.
 *
 * @throws {ColdpathError} `body_too_large`, or `invalid_json` where it is not UTF-8
 */
export async function readText(request: Request, bytesMax: number): Promise<string> {
  const bytes = await readBytes(request, bytesMax);
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw new ColdpathError("invalid_json", "the body is not valid UTF-8", { cause });
  }
}

async function readBytes(request: Request, bytesMax: number): Promise<ArrayBuffer | Uint8Array> {
  const tooLarge = (): ColdpathError =>
    new ColdpathError("body_too_large", `the body is larger than ${bytesMax} bytes`);
  const length = request.headers.get("content-length");
  if (length !== null && Number(length) > bytesMax) throw tooLarge();
  // HTTP's framing holds a sender to the length it gave; only without one does the reading itself need the bound.
  const bytes = length === null ? await readBody(request.body, bytesMax) : await request.arrayBuffer();
  if (bytes === undefined || bytes.byteLength > bytesMax) throw tooLarge();
  return bytes;
}
