/**
 * A request as the chain reads it, whatever the platform holds it in: on Node a question never becomes the Web's
 * `Request`, whose headers and body cost as much as the rest of a hit.
 */
import { getPath } from "hono/utils/url";
import { type CompletionPath, isCompletionPath } from "../../shared/completion-request.ts";
import { readBody } from "../../shared/read-body.ts";

export interface Incoming {
  readonly method: string;
  /** Absolute. */
  readonly url: string;
  /** Of the URL, without its query. */
  readonly path: string;
  /** Aborts when the client closes its connection. */
  readonly signal: AbortSignal;
  /** @param name - in lower case */
  header(name: string): string | null;
  /**
   * The body's bytes, not read where they are said to be too many; to be called once.
   *
   * @returns `undefined` where there are more; those of a sender that lied about their number may be more all the same
   */
  bytes(bytesMax: number): Promise<ArrayBuffer | Uint8Array | undefined>;
}

/** What nearly all requests are: routing them takes 10 µs on workerd, so they are told apart before. */
export type Asking = Incoming & { readonly path: CompletionPath };

export function isAsking(request: Incoming): request is Asking {
  return request.method === "POST" && isCompletionPath(request.path);
}

/** The Web's `Request`. Each of its properties is a call out of JavaScript on workerd, so each is read once. */
export class WebIncoming implements Incoming {
  readonly method: string;
  readonly url: string;
  readonly path: string;
  readonly #request: Request;
  readonly #headers: Headers;

  constructor(request: Request) {
    this.#request = request;
    this.#headers = request.headers;
    this.method = request.method;
    this.url = request.url;
    this.path = getPath(request);
  }

  get signal(): AbortSignal {
    return this.#request.signal;
  }

  header(name: string): string | null {
    return this.#headers.get(name);
  }

  bytes(bytesMax: number): Promise<ArrayBuffer | Uint8Array | undefined> {
    const length = this.header("content-length");
    if (length === null) return readBody(this.#request.body, bytesMax);
    // HTTP's framing holds a sender to the length it gave.
    return Number(length) > bytesMax ? Promise.resolve(undefined) : this.#request.arrayBuffer();
  }
}
