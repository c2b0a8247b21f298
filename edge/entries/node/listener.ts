/**
 * Node's requests as the edge's. A question goes to the chain as it is, and a reply of text is written in one piece: so a
 * hit makes none of the Web's objects, which cost half of it. Everything else, streams and errors too, is left to
 * `@hono/node-server`, which brings the Web's Request and Response.
 */
import type { IncomingMessage, RequestListener, ServerResponse } from "node:http";
import { getRequestListener } from "@hono/node-server";
import type { WaitUntil } from "../../call/call.ts";
import { ClientGone } from "../../call/client-gone.ts";
import { type Asking, type Incoming, isAsking } from "../../call/incoming.ts";
import { TextReply } from "../../call/reply.ts";
import type { Edge } from "../../worker.ts";

export function createListener(edge: Edge, waitUntil: WaitUntil): RequestListener {
  const web = getRequestListener((request) => edge.fetch(request, waitUntil));
  return (message, response) => {
    const request = new NodeIncoming(message, response);
    if (!isAsking(request)) {
      void web(message, response);
      return;
    }
    void answer(edge, waitUntil, request, { message, response });
  };
}

async function answer(
  edge: Edge,
  waitUntil: WaitUntil,
  request: Asking,
  { message, response }: { readonly message: IncomingMessage; readonly response: ServerResponse },
): Promise<void> {
  const reply = await edge.ask(request, waitUntil);
  if (reply instanceof TextReply) write(response, reply);
  else await getRequestListener(() => reply)(message, response);
}

function write(response: ServerResponse, { status, headers, body }: TextReply): void {
  headers["content-length"] = String(Buffer.byteLength(body));
  response.writeHead(status, headers).end(body);
}

class NodeIncoming implements Incoming {
  readonly method: string;
  readonly path: string;
  readonly #message: IncomingMessage;
  readonly #response: ServerResponse;
  #signal: AbortSignal | undefined;

  constructor(message: IncomingMessage, response: ServerResponse) {
    const { method = "", url = "" } = message;
    const query = url.indexOf("?");
    this.method = method;
    this.path = query === -1 ? url : url.slice(0, query);
    this.#message = message;
    this.#response = response;
  }

  get url(): string {
    return new URL(this.#message.url ?? "/", "http://localhost").href;
  }

  get signal(): AbortSignal {
    this.#signal ??= signalOf(this.#response);
    return this.#signal;
  }

  header(name: string): string | null {
    const value = this.#message.headers[name];
    return typeof value === "string" ? value : null;
  }

  bytes(bytesMax: number): Promise<Uint8Array | undefined> {
    const message = this.#message;
    if (Number(message.headers["content-length"] ?? 0) > bytesMax) return Promise.resolve(undefined);
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let length = 0;
      const onData = (chunk: Buffer): void => {
        length += chunk.length;
        chunks.push(chunk);
        if (length <= bytesMax) return;
        // What is left is dropped by who writes the refusal.
        message.off("data", onData).pause();
        resolve(undefined);
      };
      message.on("data", onData);
      message.once("end", () => resolve(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks)));
      // Comes after every body, too, and an error with its stack would be a seventh of a hit.
      message.once("close", () => {
        if (!message.complete) reject(new ClientGone("the client closed the connection"));
      });
    });
  }
}

/** Made when somebody wants it: few requests are ever waited for. */
function signalOf(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  const abort = (): void => {
    if (!response.writableFinished) gone.abort();
  };
  if (response.closed) abort();
  else response.once("close", abort);
  return gone.signal;
}
