/**
 * The open response to one streaming client, and how the edge learns that the client is gone.
 *
 * A closed connection is often only seen by writing to it: a client's FIN is also what half-closing looks like, and
 * workerd reports a disconnect by itself only after a reset (measured with workerd 1.20261102). So while the model is
 * silent a comment goes out, which every reader of event streams skips. Knows nothing of what is streamed.
 *
 * Source: WHATWG HTML, section 9.2.7 "Authoring notes" (comments as keep-alive).
 */
import { ClientGone } from "../call/client-gone.ts";

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
  /** Whether anything was written since the last look. */
  #spoke = false;
  /** Whether a write waits for the client to read: then no comment need wait behind it. */
  #waiting = false;
  #gone = false;

  constructor({ keepAliveMs, stallMs, onGone }: ClientStreamOptions) {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    this.readable = readable;
    this.#writer = writable.getWriter();
    this.#writer.closed.catch(onGone);
    this.#stallMs = stallMs;
    this.#keepAlive = setInterval(() => {
      // A failure reaches the one who waits for the model, through `closed`.
      if (!this.#spoke && !this.#waiting) this.write(KEEP_ALIVE).catch(() => undefined);
      this.#spoke = false;
    }, keepAliveMs);
  }

  /** @throws {ClientGone} when nobody takes it */
  async write(text: string): Promise<void> {
    this.#spoke = true;
    this.#waiting = true;
    const stalled = Promise.withResolvers<never>();
    const timer = setTimeout(() => stalled.reject(new Error("the client takes nothing")), this.#stallMs);
    try {
      // A write that waits for a reader can't be aborted (Streams, section 5.5.4), only left behind.
      await Promise.race([this.#writer.write(this.#encoder.encode(text)), stalled.promise]);
    } catch (cause) {
      this.#gone = true;
      throw new ClientGone("the client closed the connection", { cause });
    } finally {
      clearTimeout(timer);
      this.#waiting = false;
    }
  }

  /** Ends the body; one that nobody takes is broken off, so that it can't pass for a complete one. */
  async close(): Promise<void> {
    clearInterval(this.#keepAlive);
    const ending = this.#gone ? this.#writer.abort(new ClientGone()) : this.#writer.close();
    // A client that is gone can't be told even that, and waiting for it would be for ever.
    const told = ending.catch(() => undefined);
    if (!this.#gone) await told;
  }
}
