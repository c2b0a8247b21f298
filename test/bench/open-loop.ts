/**
 * Open-loop load: requests leave at a fixed rate whether or not the last ones were answered, and a request's time counts
 * from when it was due. So a server that stalls is charged for every request that would have come meanwhile, which a
 * closed loop leaves out ("coordinated omission", G. Tene). autocannon's own fixed rate corrects its histogram
 * afterwards, in whole milliseconds; a hit takes less.
 *
 * The generator must not stall itself, or its pauses count as the server's: it writes ready-made bytes on sockets that are
 * open before the first request is due, and makes next to no garbage. With `node:http`, 128 new connections and objects
 * for each request, it took as much CPU time as a server on Node. How late it was itself is part of the figures.
 */
import { connect, type Socket } from "node:net";
import { once } from "node:events";
import type { LoadTarget } from "./load.ts";
import { quantile } from "./report.ts";

export interface OpenLoopOptions {
  readonly perSecond: number;
  readonly seconds: number;
  /** Enough that no request waits for one, unless the server stalls. */
  readonly connections: number;
}

export type OpenLoopFigures = {
  readonly "requests/s": number;
  readonly "p50 ms": number;
  readonly "p99 ms": number;
  /** From when a request was due to when the generator came to it; part of the times above. */
  readonly "sent late, p99 ms": number;
};

/** Asked at the rate and left out of the figures: the generator's and the server's code is compiled in it. */
const WARM_UP_SECONDS = 1;
/** How often the generator looks what is due. */
const TICK_MS = 1;

/** Fails when any answer is not 200, or a connection is lost. */
export async function openLoop(target: LoadTarget, options: OpenLoopOptions): Promise<OpenLoopFigures> {
  const { perSecond, seconds, connections } = options;
  const warmUp = perSecond * WARM_UP_SECONDS;
  const total = warmUp + perSecond * seconds;
  // By a request's number; it is due that many steps after the first.
  const times = new Float64Array(total);
  const late = new Float64Array(total);
  const ended = Promise.withResolvers<void>();
  let due = 0;
  let sent = 0;
  let answered = 0;

  await using clients = new AsyncDisposableStack();
  const free: Client[] = [];
  for (let opened = 0; opened < connections; opened++) {
    const client = await Client.open(target, {
      onAnswer: (number) => {
        times[number] = performance.now() - dueMs(number);
        if (sent < due) client.send(sent++);
        else free.push(client);
        if (++answered === total) ended.resolve();
      },
      onFailure: ended.reject,
    });
    clients.defer(() => client.close());
    free.push(client);
  }

  const startMs = performance.now();
  const dueMs = (number: number): number => startMs + (number * 1000) / perSecond;
  const timer = setInterval(() => {
    const nowMs = performance.now();
    for (; due < total && dueMs(due) <= nowMs; due++) late[due] = nowMs - dueMs(due);
    for (let client = free.pop(); client !== undefined; client = free.pop()) {
      if (sent === due) {
        free.push(client);
        break;
      }
      client.send(sent++);
    }
  }, TICK_MS);
  clients.defer(() => clearInterval(timer));
  await ended.promise;
  const tookSeconds = (performance.now() - dueMs(warmUp)) / 1000;
  const counted = [...times.subarray(warmUp)];
  return {
    "requests/s": counted.length / tookSeconds,
    "p50 ms": quantile(counted, 0.5),
    "p99 ms": quantile(counted, 0.99),
    "sent late, p99 ms": quantile([...late.subarray(warmUp)], 0.99),
  };
}

interface ClientEvents {
  /** @param number - the request's */
  readonly onAnswer: (number: number) => void;
  readonly onFailure: (error: Error) => void;
}

/** One connection that asks the same again and again, one at a time. Reads HTTP/1.1 answers of a stated length. */
class Client {
  readonly #socket: Socket;
  readonly #bytes: Buffer;
  readonly #events: ClientEvents;
  #number = 0;
  #head = "";
  /** Of the body, once the head is complete. */
  #missing: number | undefined;
  #closed = false;

  static async open({ url, headers, body }: LoadTarget, events: ClientEvents): Promise<Client> {
    const { hostname, port, host, pathname } = new URL(url);
    const fields = { host, ...headers, "content-length": Buffer.byteLength(body) };
    const lines = Object.entries(fields).map(([name, value]) => `${name}: ${value}\r\n`);
    const socket = connect({ host: hostname, port: Number(port), noDelay: true });
    await once(socket, "connect");
    return new Client(socket, Buffer.from(`POST ${pathname} HTTP/1.1\r\n${lines.join("")}\r\n${body}`), events);
  }

  constructor(socket: Socket, bytes: Buffer, events: ClientEvents) {
    this.#socket = socket;
    this.#bytes = bytes;
    this.#events = events;
    socket.on("data", (chunk: Buffer) => this.#read(chunk));
    socket.once("error", events.onFailure);
    socket.once("close", () => {
      if (!this.#closed) events.onFailure(new Error("the server closed a connection"));
    });
  }

  send(number: number): void {
    this.#number = number;
    this.#socket.write(this.#bytes);
  }

  close(): void {
    this.#closed = true;
    this.#socket.destroy();
  }

  #read(chunk: Buffer): void {
    let bodyBytes = chunk.length;
    if (this.#missing === undefined) {
      this.#head += chunk.toString("latin1");
      const end = this.#head.indexOf("\r\n\r\n");
      if (end === -1) return;
      const status = this.#head.slice(9, 12);
      const length = /\r\ncontent-length: (\d+)/i.exec(this.#head)?.[1];
      if (status !== "200" || length === undefined) {
        this.#events.onFailure(new Error(`the server answered ${status}, length ${length}`));
        return;
      }
      bodyBytes = this.#head.length - end - 4;
      this.#missing = Number(length);
      this.#head = "";
    }
    this.#missing -= bodyBytes;
    if (this.#missing > 0) return;
    this.#missing = undefined;
    this.#events.onAnswer(this.#number);
  }
}
