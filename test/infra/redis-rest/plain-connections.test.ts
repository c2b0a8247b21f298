/**
 * Requests that `node:http` does not see, beside a server where it sees all of them: whatever bytes come, in whatever
 * pieces, both say the same.
 */
import { once } from "node:events";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import * as fc from "fast-check";
import { expect, it, onTestFinished, vi } from "vitest";
import { PlainConnections, type PlainOptions } from "../../../infra/redis-rest/plain-connections.ts";

const BODY_BYTES_MAX = 200_000;

/** How often each way was taken. */
interface Taken {
  plain: number;
  left: number;
}

interface Echoing {
  readonly port: number;
  readonly taken: Taken;
  readonly connections: PlainConnections | undefined;
}

/** What a request was understood as, as the answer's body. */
function echo(path: string, authorization = "", encoding = "", body: Buffer = Buffer.of()): string {
  return JSON.stringify({ path, authorization, encoding, body: body.toString("base64") });
}

async function echoByNode(taken: Taken, request: IncomingMessage, response: ServerResponse): Promise<void> {
  taken.left += 1;
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const encoding = request.headers["upstash-encoding"] as string | undefined;
  const body = echo(request.url ?? "", request.headers.authorization, encoding, Buffer.concat(chunks));
  response.writeHead(200, { "content-type": "text/echo", "content-length": Buffer.byteLength(body) }).end(body);
}

async function start(options: Partial<PlainOptions> | "by node alone" = {}): Promise<Echoing> {
  const taken: Taken = { plain: 0, left: 0 };
  const server: Server = createServer((request, response) => {
    echoByNode(taken, request, response).catch(() => response.destroy());
  });
  const connections =
    options === "by node alone"
      ? undefined
      : new PlainConnections(server, {
          answer: async ({ path, authorization, encoding, body }) => {
            taken.plain += 1;
            return { status: 200, contentType: "text/echo", body: echo(path, authorization, encoding, body) };
          },
          bodyBytesMax: BODY_BYTES_MAX,
          requestTimeoutMs: 60_000,
          keepAliveMs: 60_000,
          ...options,
        });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    server.close();
    server.closeAllConnections();
    connections?.close();
    await once(server, "close");
  });
  return { port: (server.address() as AddressInfo).port, taken, connections };
}

/** A client that keeps all that it is told. */
class Client {
  readonly socket: Socket;
  heard = "";
  closed = false;

  constructor(port: number) {
    this.socket = connect({ port, host: "127.0.0.1", noDelay: true });
    this.socket.setEncoding("latin1").on("data", (text: string) => (this.heard += text));
    this.socket.on("error", () => {}).on("close", () => (this.closed = true));
    onTestFinished(() => void this.socket.destroy());
  }

  /** Each piece once the one before has gone out. */
  async send(...pieces: readonly (string | Buffer)[]): Promise<void> {
    for (const piece of pieces) {
      await new Promise((resolve) => this.socket.write(piece, resolve));
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
  }

  /** Status and body of each whole answer so far. */
  get answers(): readonly string[] {
    const answers: string[] = [];
    for (let rest = this.heard; ;) {
      const [, status = "", head = ""] = /^HTTP\/1\.1 (\d+) [^\r]*\r\n(.*?)\r\n\r\n/s.exec(rest) ?? [];
      if (status === "") return answers;
      const length = Number(/^content-length: (\d+)$/im.exec(head)?.[1] ?? 0);
      const bodyAt = rest.indexOf("\r\n\r\n") + 4;
      if (rest.length < bodyAt + length) return answers;
      answers.push(`${status} ${rest.slice(bodyAt, bodyAt + length)}`);
      rest = rest.slice(bodyAt + length);
    }
  }

  async until(count: number): Promise<readonly string[]> {
    await vi.waitFor(() => expect(this.answers.length).toBe(count));
    return this.answers;
  }
}

function post(body: string, { path = "/", fields = "" } = {}): string {
  return `POST ${path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer b\r\n${fields}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;
}

const ECHOED = (body: string, path = "/") => `200 ${echo(path, "Bearer b", "", Buffer.from(body))}`;

it("answers one request after the other on one connection", async () => {
  const { port, taken } = await start();
  const client = new Client(port);
  await client.send(post(`["GET","a"]`));
  await client.until(1);
  await client.send(post(`[["GET","ä"]]`, { path: "/pipeline" }));
  expect(await client.until(2)).toEqual([ECHOED(`["GET","a"]`), ECHOED(`[["GET","ä"]]`, "/pipeline")]);
  expect(taken).toEqual({ plain: 2, left: 0 });
});

/** Of one answer, what differs from one to the next left out. */
async function answerFields(options?: "by node alone"): Promise<readonly string[]> {
  const client = new Client((await start(options)).port);
  await client.send(post("a"));
  await client.until(1);
  const [head = ""] = client.heard.split("\r\n\r\n");
  return head
    .toLowerCase()
    .replace(/date: [a-z]{3}, \d\d [a-z]{3} \d{4} \d\d:\d\d:\d\d gmt/, "date: well formed")
    .replace(/timeout=\d+/, "timeout=some")
    .split("\r\n")
    .toSorted();
}

it("says what node:http says of an answer", async () => {
  expect(await answerFields()).toEqual(await answerFields("by node alone"));
});

it("takes a body in pieces, and a large one", async () => {
  const { port, taken } = await start();
  const client = new Client(port);
  const head = post("abcdef").slice(0, -6);
  await client.send(head, "ab", "cde", "f");
  await client.until(1);
  const large = "x".repeat(BODY_BYTES_MAX);
  await client.send(post(large));
  expect(await client.until(2)).toEqual([ECHOED("abcdef"), ECHOED(large)]);
  expect(taken).toEqual({ plain: 2, left: 0 });
});

it.each([
  ["a head in pieces", [post("abc").slice(0, 20), post("abc").slice(20)]],
  ["a body over the limit", [post("x".repeat(BODY_BYTES_MAX + 1))]],
  ["a chunked body", ["POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]],
  ["another method", ["GET / HTTP/1.1\r\nhost: a\r\n\r\n"]],
  ["a query", [post("abc", { path: "/?_token=a" })]],
  ["another path", [post("abc", { path: "/set/a" })]],
  ["an older HTTP", [post("abc").replace("HTTP/1.1", "HTTP/1.0")]],
  ["an expectation", [post("abc", { fields: "expect: 100-continue\r\n" })]],
  ["a last request", [post("abc", { fields: "connection: close\r\n" })]],
  ["two lengths", [post("abc", { fields: "content-length: 3\r\n" })]],
  ["two hosts", [post("abc", { fields: "host: b\r\n" })]],
  ["no host", [post("abc").replace("host: a\r\n", "")]],
  ["a folded field", [post("abc", { fields: "x: a\r\n b\r\n" })]],
  ["a space before the colon", [post("abc", { fields: "x : a\r\n" })]],
  ["lines that end in LF", [post("abc").replaceAll("\r\n", "\n")]],
  ["a length that is none", [post("abc").replace("content-length: 3", "content-length: +3")]],
  ["nonsense", ["\0\u0001<html>\r\n\r\n"]],
])("leaves %s to node:http, which says what it always says", async (_, pieces) => {
  const asked = async (options?: "by node alone"): Promise<readonly [string, Taken]> => {
    const { port, taken } = await start(options);
    const client = new Client(port);
    await client.send(...pieces);
    await vi.waitFor(() => expect(client.answers.filter((answer) => answer !== "100 ").length).toBe(1));
    return [client.heard.replace(/\r\ndate: .*/i, "").replace(/timeout=\d+/, ""), taken];
  };
  const [[heard, taken], [byNode]] = [await asked(), await asked("by node alone")];
  expect(heard).toBe(byNode);
  expect(taken.plain).toBe(0);
});

it("answers requests sent before the first one's answer, in their order", async () => {
  const { port, taken } = await start();
  const client = new Client(port);
  await client.send(post("a") + post("b") + post("c"));
  await client.until(3);
  await client.send(post("d"));
  expect(await client.until(4)).toEqual(["a", "b", "c", "d"].map((body) => ECHOED(body)));
  expect(taken).toEqual({ plain: 0, left: 4 });
});

it("answers a second request that comes while the first one is being answered", async () => {
  const release = Promise.withResolvers<void>();
  const { port, taken } = await start({
    answer: async ({ body }) => {
      await release.promise;
      return { status: 200, contentType: "text/echo", body: body.toString() };
    },
  });
  const client = new Client(port);
  await client.send(post("a"), post("b"), post("c"));
  release.resolve();
  expect(await client.until(3)).toEqual(["200 a", ECHOED("b"), ECHOED("c")]);
  expect(taken.left).toBe(2);
});

/** Starts one whose answers wait for the release. */
async function startLate() {
  const release = Promise.withResolvers<void>();
  const started = await start({
    answer: async () => {
      await release.promise;
      return { status: 200, contentType: "text/echo", body: "late" };
    },
  });
  return { ...started, release };
}

it("answers a client that has closed its side", async () => {
  const { port, connections, release } = await startLate();
  const client = new Client(port);
  client.socket.end(post("a"));
  await vi.waitFor(() => expect(connections?.open.size).toBe(1));
  await new Promise((resolve) => setTimeout(resolve, 20));
  release.resolve();
  await vi.waitFor(() => expect(client.closed).toBe(true));
  expect(client.answers).toEqual(["200 late"]);
});

it("forgets a connection that is closed, also in the middle of a body and of an answer", async () => {
  const { port, connections, release } = await startLate();
  const clients = [new Client(port), new Client(port), new Client(port)] as const;
  await clients[0].send(post("abc").slice(0, -1));
  await clients[1].send(post("abc"));
  await clients[2].send("");
  await vi.waitFor(() => expect(connections?.open.size).toBe(3));
  clients[0].socket.destroy();
  clients[1].socket.resetAndDestroy();
  clients[2].socket.end();
  await vi.waitFor(() => expect(connections?.open.size).toBe(0));
  release.resolve();
  const next = new Client(port);
  await next.send(post("abc"));
  expect(await next.until(1)).toEqual(["200 late"]);
});

it("leaves a request that does not become whole to node:http", async () => {
  const { port, taken, connections } = await start({ requestTimeoutMs: 30 });
  const clients = [new Client(port), new Client(port)] as const;
  await clients[0].send(post("abc").slice(0, -1));
  await vi.waitFor(() => expect(connections?.open.size).toBe(0));
  // Neither the one that is late nor the one that has said nothing is closed for it.
  await clients[0].send("c");
  await clients[1].send(post("d"));
  expect(await clients[0].until(1)).toEqual([ECHOED("abc")]);
  expect(await clients[1].until(1)).toEqual([ECHOED("d")]);
  expect(taken).toEqual({ plain: 0, left: 2 });
});

it("closes a connection on which nothing comes any more", async () => {
  const { port } = await start({ keepAliveMs: 30 });
  const client = new Client(port);
  await client.send(post("a"));
  await client.until(1);
  await vi.waitFor(() => expect(client.closed).toBe(true));
});

it("closes a connection whose client does not take its answer", async () => {
  const { port, connections } = await start({
    keepAliveMs: 30,
    answer: async () => ({ status: 200, contentType: "text/echo", body: "x".repeat(50_000_000) }),
  });
  const socket = connect({ port, host: "127.0.0.1" }).on("error", () => {});
  onTestFinished(() => void socket.destroy());
  socket.write(post("a"));
  socket.pause();
  await vi.waitFor(() => expect(connections?.open.size).toBe(1));
  await vi.waitFor(() => expect(connections?.open.size).toBe(0));
});

function seldom<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | null> {
  return fc.oneof({ weight: 3, arbitrary: fc.constant(null) }, { weight: 1, arbitrary });
}

it("says of any bytes, in any pieces, what node:http says of them", async () => {
  const [ours, byNode] = [await start(), await start("by node alone")];
  const usual = fc.constantFrom(
    "x-a: b\r\n",
    "upstash-encoding: base64\r\n",
    "Connection: keep-alive\r\n",
    "accept: */*\r\n",
    "x-empty:\r\n",
    "x-padded: \t b \t \r\n",
  );
  const unusual = fc.constantFrom(
    "content-length: 1\r\n",
    "transfer-encoding: chunked\r\n",
    "connection: close\r\n",
    "host: b\r\n",
    "te: trailers\r\n",
    "x-latin: \u00e4\r\n",
  );
  const path = fc.constantFrom("/", "/", "/pipeline", "/multi-exec", "/get/a", "/?a");
  const request = fc
    .tuple(fc.string({ maxLength: 40 }), path, fc.array(usual, { maxLength: 3 }), seldom(unusual))
    .map(([body, at, fields, last]) => post(body, { path: at, fields: fields.join("") + (last ?? "") }));
  const damage = fc.record({
    at: fc.nat(400),
    bytes: fc.constantFrom("", "\r", "\n", "\0", " ", ":", "x", "\r\n\r\n"),
  });
  const arbitrary = fc.tuple(request, seldom(damage), fc.option(fc.nat(400), { freq: 2 }));
  await fc.assert(
    fc.asyncProperty(arbitrary, async ([text, damaged, at]) => {
      const bytes = damaged === null ? text : text.slice(0, damaged.at) + damaged.bytes + text.slice(damaged.at + 1);
      const pieces = at === null ? [bytes] : [bytes.slice(0, at), bytes.slice(at)].filter((piece) => piece !== "");
      const heard = async (port: number): Promise<readonly string[]> => {
        const client = new Client(port);
        await client.send(...pieces.map((piece) => Buffer.from(piece)));
        // Nothing more can follow that: both sides are done with all that came.
        client.socket.end();
        await vi.waitFor(() => expect(client.closed).toBe(true), { interval: 2, timeout: 5_000 });
        return client.answers;
      };
      expect(await heard(ours.port)).toEqual(await heard(byNode.port));
    }),
    { numRuns: 300 },
  );
  // Or the property would compare node:http with itself.
  expect(ours.taken.plain).toBeGreaterThan(50);
  expect(ours.taken.left).toBeGreaterThan(50);
});
