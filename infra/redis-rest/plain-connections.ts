/**
 * Connections whose requests are as usual, answered without `node:http`: its objects, streams and events took two thirds
 * of the time of a request. A connection that brings anything else (plain-head.ts says what), or brings it in another
 * way, is left to `node:http` with all that has come, and stays there. Knows no commands.
 *
 * Considered: `http-parser-js`, under which the other objects stay; uWebSockets.js, which is not on npm; more processes,
 * of which each would take as long.
 */
import { STATUS_CODES, type Server } from "node:http";
import type { Socket } from "node:net";
import { Deadlines, type Waiting } from "../../shared/deadlines.ts";
import { type PlainHead, readPlainHead } from "./plain-head.ts";

interface PlainRequest extends PlainHead {
  readonly body: Buffer;
}

interface PlainAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

export interface PlainOptions {
  /** Must not reject. */
  readonly answer: (request: PlainRequest) => Promise<PlainAnswer>;
  /** Larger ones are left to `node:http`. */
  readonly bodyBytesMax: number;
  /** A request that is not whole after this long is left to `node:http`, which waits as long again. */
  readonly requestTimeoutMs: number;
  /** A connection on which nothing came or went for this long is closed. */
  readonly keepAliveMs: number;
}

const END_OF_HEAD = "\r\n\r\n";

/** Takes a server's connections before it does, from before it listens on. */
export class PlainConnections {
  readonly options: PlainOptions;
  /** Of requests that are not whole. */
  readonly requests: Deadlines;
  /** Of connections that nothing comes from. One timer for all: a socket's own timeout is set anew by each read and write. */
  readonly silences: Deadlines;
  readonly open = new Set<PlainConnection>();
  readonly #server: Server;
  readonly #listeners: readonly ((socket: Socket) => void)[];
  readonly #keepAlive: string;
  #second = 0;
  #date = "";

  constructor(server: Server, options: PlainOptions) {
    this.options = options;
    this.requests = new Deadlines(options.requestTimeoutMs);
    this.silences = new Deadlines(options.keepAliveMs);
    this.#keepAlive = `connection: keep-alive\r\nkeep-alive: timeout=${Math.floor(options.keepAliveMs / 1000)}`;
    this.#server = server;
    this.#listeners = server.listeners("connection") as ((socket: Socket) => void)[];
    server.removeAllListeners("connection").on("connection", (socket) => {
      this.open.add(new PlainConnection(socket, this));
    });
  }

  /** Gives a connection to `node:http`. */
  leave(socket: Socket): void {
    for (const listener of this.#listeners) listener.call(this.#server, socket);
  }

  /** An answer in one piece. */
  write({ status, contentType, body }: PlainAnswer): string {
    return (
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\ncontent-type: ${contentType}\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\ndate: ${this.#now()}\r\n${this.#keepAlive}\r\n\r\n${body}`
    );
  }

  /** Ends those that were not left. */
  close(): void {
    this.requests.close();
    this.silences.close();
    for (const connection of this.open) connection.destroy();
  }

  #now(): string {
    const nowMs = Date.now();
    const second = Math.floor(nowMs / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#date = new Date(nowMs).toUTCString();
    }
    return this.#date;
  }
}

/** One connection, one request at a time. */
class PlainConnection {
  readonly #socket: Socket;
  readonly #all: PlainConnections;
  /** What has come of the next request. */
  #chunks: Buffer[] = [];
  #bytes = 0;
  /** Of the request that comes, once its head has; with where its body begins. */
  #head: (PlainHead & { readonly bodyAt: number }) | undefined;
  /** What the client is being waited for with: a whole request, or any sign of life. Neither while it waits for us. */
  #waiting: { readonly among: Deadlines; readonly place: Waiting } | undefined;
  /** From a request's last byte until its answer is on its way. */
  #answering = false;
  /** Nothing more comes. */
  #ended = false;

  constructor(socket: Socket, all: PlainConnections) {
    this.#socket = socket;
    this.#all = all;
    socket.on("data", this.#read).on("end", this.#end).on("close", this.#forget).on("error", ignore);
    this.#wait(all.requests, this.#leave);
  }

  readonly destroy = (): void => {
    this.#socket.destroy();
  };

  readonly #read = (chunk: Buffer): void => {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    // A second request before the first one's answer is looked at after it; more is not taken meanwhile.
    if (this.#answering) this.#socket.pause();
    else this.#next(chunk);
  };

  readonly #end = (): void => {
    this.#ended = true;
    if (!this.#answering) this.#socket.end();
  };

  #next(chunk: Buffer): void {
    const isFirst = this.#head === undefined;
    // Whoever writes a head in several pieces is not in a hurry.
    const head = (this.#head ??= this.#readHead(chunk));
    if (head === undefined) return this.#leave();
    const bytes = head.bodyAt + head.bodyBytes;
    if (this.#bytes > bytes) return this.#leave();
    if (this.#bytes < bytes) {
      if (isFirst) this.#wait(this.#all.requests, this.#leave);
      return;
    }
    const whole = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks);
    this.#startAnew();
    void this.#answer({ ...head, body: whole.subarray(head.bodyAt) });
  }

  /** @returns `undefined` where it is not as usual, or its body too large */
  #readHead(chunk: Buffer): (PlainHead & { readonly bodyAt: number }) | undefined {
    const end = chunk.indexOf(END_OF_HEAD, 0, "latin1");
    const head = end === -1 ? undefined : readPlainHead(chunk.toString("latin1", 0, end));
    if (head === undefined || head.bodyBytes > this.#all.options.bodyBytesMax) return undefined;
    return { ...head, bodyAt: end + END_OF_HEAD.length };
  }

  async #answer(request: PlainRequest): Promise<void> {
    this.#answering = true;
    const answer = await this.#all.options.answer(request);
    if (this.#socket.destroyed) return;
    const isTaken = this.#socket.write(this.#all.write(answer));
    this.#wait(this.#all.silences, this.destroy);
    if (isTaken) this.#answered();
    else this.#socket.once("drain", this.#answered);
  }

  readonly #answered = (): void => {
    this.#answering = false;
    if (this.#bytes > 0) this.#leave();
    else if (this.#ended) this.#socket.end();
  };

  /** To `node:http`, with what has come and is not answered. */
  readonly #leave = (): void => {
    const socket = this.#socket;
    const received = Buffer.concat(this.#chunks);
    this.#startAnew();
    this.#forget();
    socket.off("data", this.#read).off("end", this.#end).off("close", this.#forget).off("error", ignore);
    socket.pause();
    if (received.length > 0) socket.unshift(received);
    this.#all.leave(socket);
    socket.resume();
  };

  #startAnew(): void {
    this.#chunks = [];
    this.#bytes = 0;
    this.#head = undefined;
    this.#stopWaiting();
  }

  readonly #forget = (): void => {
    this.#stopWaiting();
    this.#all.open.delete(this);
  };

  #wait(among: Deadlines, giveUp: () => void): void {
    this.#stopWaiting();
    this.#waiting = { among, place: among.add(giveUp) };
  }

  #stopWaiting(): void {
    this.#waiting?.among.delete(this.#waiting.place);
    this.#waiting = undefined;
  }
}

function ignore(): void {}
