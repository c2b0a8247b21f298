/**
 * A hub on the loopback, with files at paths and a handler that may do with a request what it likes: break off, lie, stall.
 * Speaks ranges as RFC 9110 has them. Notes what it was asked.
 */
import { createServer, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

export type Handler = (request: IncomingMessage, response: ServerResponse) => void;

interface SeenRequest {
  readonly path: string;
  readonly range: string | undefined;
  readonly headers: IncomingHttpHeaders;
}

export interface Hub extends AsyncDisposable {
  readonly origin: string;
  readonly port: number;
  readonly seen: SeenRequest[];
  /** What answers; default `serve` of the files. */
  handler: Handler;
  /** Contents by path; a path that is missing gets a 404. */
  readonly files: Map<string, FakeFile>;
}

export interface FakeFile {
  readonly bytes: Uint8Array;
  readonly etag?: string;
  readonly lastModified?: string;
}

export async function startHub(): Promise<Hub> {
  const files = new Map<string, FakeFile>();
  const seen: SeenRequest[] = [];
  const server = createServer((request, response) => {
    const path = request.url ?? "";
    seen.push({ path, range: request.headers.range, headers: request.headers });
    hub.handler(request, response);
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  const hub: Hub = {
    origin: `http://127.0.0.1:${port}`,
    port,
    seen,
    files,
    handler: (request, response) => serve(files.get(request.url ?? ""), request, response),
    [Symbol.asyncDispose]: () => {
      server.closeAllConnections();
      return new Promise((closed) => server.close(() => closed()));
    },
  };
  return hub;
}

/** Answers honestly: all of the file, the range that was asked for, or what RFC 9110 says where that can't be. */
export function serve(file: FakeFile | undefined, request: IncomingMessage, response: ServerResponse): void {
  if (file === undefined) {
    response.writeHead(404).end("there is nothing here");
    return;
  }
  const { bytes, etag, lastModified } = file;
  const headers = { ...(etag && { etag }), ...(lastModified && { "last-modified": lastModified }) };
  const range = parseRange(request, bytes.length, etag);
  if (range === undefined) {
    response.writeHead(200, { ...headers, "content-length": bytes.length }).end(bytes);
    return;
  }
  if (range.from >= bytes.length) {
    response.writeHead(416, { ...headers, "content-range": `bytes */${bytes.length}` }).end();
    return;
  }
  const { from, to } = range;
  const contentRange = { "content-range": `bytes ${from}-${to - 1}/${bytes.length}` };
  response.writeHead(206, { ...headers, ...contentRange, "content-length": to - from }).end(bytes.subarray(from, to));
}

/** @returns the range, `to` exclusive; `undefined` where all of the file is to be sent */
export function parseRange(
  { headers }: IncomingMessage,
  length: number,
  etag?: string,
): { readonly from: number; readonly to: number } | undefined {
  const [, from, last] = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? "") ?? [];
  const condition = headers["if-range"];
  if (from === undefined || (condition !== undefined && condition !== etag)) return undefined;
  return { from: Number(from), to: last ? Math.min(Number(last) + 1, length) : length };
}
