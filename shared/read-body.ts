/** Reads a body of bounded size. Knows nothing of what is in it. */

/** What reads a body chunk by chunk: the Web's reader, as far as anybody needs it. */
export interface BodyReader {
  read(): Promise<{ readonly done: boolean; readonly value?: Uint8Array | undefined }>;
  /** Nothing more is wanted. */
  cancel(): Promise<void>;
}

/**
 * Reads a whole body, stopping at the limit: a sender that gives no length, or a false one, costs no more memory.
 *
 * @returns the bytes, or `undefined` when there are more than `bytesMax`; the rest is then cancelled
 */
export async function readBody(
  body: ReadableStream<Uint8Array> | null,
  bytesMax: number,
): Promise<Uint8Array<ArrayBuffer> | undefined> {
  return body === null ? new Uint8Array() : readAll(body.getReader(), bytesMax);
}

/** As `readBody`, of a body that is being read already. */
export async function readAll(reader: BodyReader, bytesMax: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done || value === undefined) return join(chunks, length);
    length += value.byteLength;
    if (length > bytesMax) {
      await reader.cancel();
      return undefined;
    }
    chunks.push(value);
  }
}

function join(chunks: readonly Uint8Array[], length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return bytes;
}
