/**
 * The open response to one streaming client, and how the edge learns that the client is gone.
 *
 * A closed connection is often only seen by writing to it: a client's FIN is also what half-closing looks like, and
 * workerd reports a disconnect by itself only after a reset (measured with workerd 1.20261102). So while the model is
 * silent a comment goes out, which every reader of event streams skips. Knows nothing of what is streamed.
 *
 * Source: WHATWG HTML, section 9.2.7 "Authoring notes" (comments as keep-alive).
 */
import { ClientGone } from "./forward.ts";

interface ClientStreamOptions {
  /** After this long without anything written a comment is. */
  readonly keepAliveMs: number;
  /** A client that takes nothing for this long counts as gone. */
  readonly stallMs: number;
  /** Called once when the client is found to be gone. */
  readonly onGone: () => void;
}

const KEEP_ALIVE = ": keep-alive\n\n";

export class ClientStream {
  /** The response's body. */
  readonly readable: ReadableStream<Uint8Array>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #encoder = new TextEncoder();
  readonly #stallMs: number;
  readonly #keepAlive: ReturnType<typeof setInterval>;
  /** Whether anything was written, or is waiting to be, since the last look. */
  #busy = false;

  constructor({ keepAliveMs, stallMs, onGone }: ClientStreamOptions) {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    this.readable = readable;
    this.#writer = writable.getWriter();
    this.#writer.closed.catch(onGone);
    this.#stallMs = stallMs;
    this.#keepAlive = setInterval(() => {
      // The failure reaches the one who waits for the model, through `closed`.
      if (!this.#busy) this.write(KEEP_ALIVE).catch(() => undefined);
      this.#busy = false;
    }, keepAliveMs);
  }

  /** @throws {ClientGone} when nobody takes it */
  async write(text: string): Promise<void> {
    this.#busy = true;
    const stalled = setTimeout(() => void this.#writer.abort(new ClientGone()), this.#stallMs);
    try {
      await this.#writer.write(this.#encoder.encode(text));
    } catch (cause) {
      throw new ClientGone("the client closed the connection", { cause });
    } finally {
      clearTimeout(stalled);
    }
  }

  /** Ends the body; a client that is gone can't be told even that. */
  async close(): Promise<void> {
    clearInterval(this.#keepAlive);
    await this.#writer.close().catch(() => undefined);
  }
}
