/**
 * The way to the origin by Node's own HTTP client: half a millisecond less a miss than its `fetch`, which makes the Web's
 * request, response and streams around the same bytes. Connections are kept, and used again before others are opened.
 */
import { Agent as HttpAgent, type IncomingMessage, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import type { AskOrigin, OriginResponse } from "../platform.ts";

/**
 * How a connection that was kept ends when the origin closed it at the very moment of being asked. The question goes out once
 * more then, each time on another connection; an origin that had read it already refuses the second, which has the same id.
 */
const LOST: ReadonlySet<string> = new Set(["ECONNRESET", "EPIPE"]);

/** @param originUrl - `http:` or `https:`; its path goes before every request's */
export function openNodeOrigin(originUrl: string): AskOrigin {
  const { protocol, hostname, port, pathname } = new URL(originUrl);
  const isSecure = protocol === "https:";
  const agent = isSecure ? new HttpsAgent({ keepAlive: true }) : new HttpAgent({ keepAlive: true });
  const send = isSecure ? httpsRequest : httpRequest;
  const prefix = pathname.replace(/\/$/, "");
  // An IPv6 address stands in brackets in a URL only.
  const host = hostname.replace(/^\[|\]$/g, "");
  const ask: AskOrigin = (question) =>
    new Promise((resolve, reject) => {
      const { method, path, headers, body, signal } = question;
      const length = body === undefined ? {} : { "content-length": body.length };
      const options = { agent, host, port, method, path: prefix + path, headers: { ...headers, ...length }, signal };
      let answered = false;
      const asking = send(options, (message) => {
        answered = true;
        resolve(responseOf(message));
      });
      // Also after the response: a connection that breaks then is its reader's to tell.
      asking.on("error", (error: NodeJS.ErrnoException) => {
        const lost = !answered && asking.reusedSocket && LOST.has(error.code ?? "");
        if (lost) resolve(ask(question));
        else reject(error);
      });
      asking.end(body);
    });
  return ask;
}

function responseOf(message: IncomingMessage): OriginResponse {
  const chunks: AsyncIterator<Buffer> = message[Symbol.asyncIterator]();
  return {
    status: message.statusCode ?? 0,
    header: (name) => {
      const value = message.headers[name];
      return typeof value === "string" ? value : null;
    },
    body: {
      read: async () => {
        const { done, value } = await chunks.next();
        return done === true ? { done } : { done: false, value };
      },
      cancel: async () => void message.destroy(),
    },
  };
}
