/**
 * The head of a request as HTTP libraries write one that posts a command. Exactly that is read here, and of everything
 * else it is only said that it is something else: `node:http` reads, or refuses, whatever is unusual, old or wrong.
 * Nothing is guessed, so no proxy in front can see other requests in the same bytes. Knows no commands.
 *
 * Source: RFC 9112, sections 3 (request line), 5 (fields) and 6.3 (length of the body); RFC 9110, section 5.6.2 (token).
 */

export interface PlainHead {
  /** Without a query: a target that has one is something else. */
  readonly path: string;
  readonly authorization: string | undefined;
  /** `Upstash-Encoding` */
  readonly encoding: string | undefined;
  readonly bodyBytes: number;
}

const REQUEST_LINE = /POST (\/(?:pipeline|multi-exec)?) HTTP\/1\.1/y;
/** Name and value. Sticky, because cutting the head into lines first takes as long again. */
const FIELD = /\r\n([!#$%&'*+.^_`|~\w-]+):[ \t]*([\t\x20-\x7e]*)/y;
const LENGTH = /^\d{1,15}$/;

/**
 * Reads a head.
 *
 * @param head - as Latin-1, from the request line to before the empty line
 * @returns `undefined` for what is not exactly as usual
 */
export function readPlainHead(head: string): PlainHead | undefined {
  REQUEST_LINE.lastIndex = 0;
  const path = REQUEST_LINE.exec(head)?.[1];
  if (path === undefined) return undefined;
  let host: string | undefined;
  let length: string | undefined;
  let authorization: string | undefined;
  let encoding: string | undefined;
  FIELD.lastIndex = REQUEST_LINE.lastIndex;
  while (FIELD.lastIndex < head.length) {
    const field = FIELD.exec(head);
    if (field === null) return undefined;
    const [, name = "", padded = ""] = field;
    const value = padded.trimEnd();
    switch (name.toLowerCase()) {
      // Those that decide anything may come once only.
      case "host":
        if (host !== undefined) return undefined;
        host = value;
        break;
      case "content-length":
        if (length !== undefined) return undefined;
        length = value;
        break;
      case "authorization":
        if (authorization !== undefined) return undefined;
        authorization = value;
        break;
      case "upstash-encoding":
        if (encoding !== undefined) return undefined;
        encoding = value;
        break;
      case "connection":
        if (value.toLowerCase() !== "keep-alive") return undefined;
        break;
      // Those that make the message, or the connection after it, another than one with a body of stated length.
      case "transfer-encoding":
      case "te":
      case "trailer":
      case "expect":
      case "upgrade":
        return undefined;
      default:
    }
  }
  if (host === undefined || length === undefined || !LENGTH.test(length)) return undefined;
  return { path, authorization, encoding, bodyBytes: Number(length) };
}
