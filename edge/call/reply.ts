/**
 * What the chain answers with: a whole text, which a platform can write in one piece, or the Web's `Response` for
 * everything else. Knows no wire format.
 */

/** A whole text with status 200. */
export class TextReply {
  readonly status = 200;
  readonly body: string;
  readonly headers: Record<string, string>;

  constructor(body: string, headers: Record<string, string>) {
    this.body = body;
    this.headers = headers;
  }
}

export type Reply = TextReply | Response;

export function setHeader(reply: Reply, name: string, value: string): void {
  if (reply instanceof TextReply) reply.headers[name] = value;
  else reply.headers.set(name, value);
}

export function toResponse(reply: Reply): Response {
  return reply instanceof TextReply ? new Response(reply.body, { headers: reply.headers }) : reply;
}
