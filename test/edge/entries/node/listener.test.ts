/** Node's own requests as the edge sees them, over real sockets, with an edge that says what it saw. */
import { once } from "node:events";
import { createServer, request as send } from "node:http";
import { type AddressInfo, connect } from "node:net";
import { afterEach, expect, test } from "vitest";
import { createListener } from "../../../../edge/entries/node/listener.ts";
import { TextReply } from "../../../../edge/call/reply.ts";
import type { Edge } from "../../../../edge/worker.ts";

const BYTES_MAX = 1_000;
const PATH = "/v1/chat/completions";
let cleanup = new AsyncDisposableStack();
afterEach(async () => {
  await cleanup.disposeAsync();
  cleanup = new AsyncDisposableStack();
});

/** Says a body's size and what it read of the headers; everything that asks nothing is answered by path. */
const echo: Edge = {
  ask: async (asked) => {
    const bytes = await asked.bytes(BYTES_MAX);
    if (bytes === undefined) return Response.json({ error: "too large" }, { status: 413 });
    const text = new TextDecoder().decode(bytes);
    return new TextReply(`${asked.path} ${asked.header("x-name")} ${text}`, { "content-type": "text/plain" });
  },
  fetch: async (asked) => new Response(`web ${asked.method} ${new URL(asked.url).pathname}`),
};

async function serve(edge: Edge = echo): Promise<string> {
  const server = createServer(createListener(edge, () => {})).listen(0, "127.0.0.1");
  await once(server, "listening");
  cleanup.defer(() => server.close().closeAllConnections());
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

test("a question is answered with its body, headers and path, its query left out", async () => {
  const url = await serve();
  const response = await fetch(`${url}${PATH}?a=b`, { method: "POST", headers: { "x-name": "n" }, body: "héllo" });
  expect([response.status, await response.text()]).toEqual([200, `${PATH} n héllo`]);
  // In bytes, not in characters.
  expect(response.headers.get("content-length")).toBe(String(Buffer.byteLength(`${PATH} n héllo`)));
});

test("a missing header is null, and a missing body empty", async () => {
  const response = await fetch((await serve()) + PATH, { method: "POST" });
  expect(await response.text()).toBe(`${PATH} null `);
});

test.each([
  ["GET", PATH],
  ["POST", "/healthz"],
  ["POST", "/v1/chat%2Fcompletions"],
])("%s %s is left to the Web's objects", async (method, path) => {
  const response = await fetch((await serve()) + path, { method });
  expect(await response.text()).toBe(`web ${method} ${path}`);
});

test.each([BYTES_MAX, BYTES_MAX + 1])("a body of %i bytes, with and without its length", async (length) => {
  const url = (await serve()) + PATH;
  const body = Buffer.alloc(length, "x");
  const expected = length > BYTES_MAX ? 413 : 200;
  expect((await fetch(url, { method: "POST", body })).status).toBe(expected);
  const stream = new Blob([body]).stream();
  expect((await fetch(url, { method: "POST", body: stream, duplex: "half" })).status).toBe(expected);
});

test("a body in many small pieces arrives whole, and the connection serves the next question", async () => {
  const url = new URL((await serve()) + PATH);
  const socket = connect(Number(url.port), url.hostname);
  let got = "";
  socket.setEncoding("utf8").on("data", (text: string) => (got += text));
  const head = `POST ${PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\n`;
  for (let asked = 0; asked < 2; asked++) {
    socket.write(head);
    for (const letter of "abcdef") {
      await new Promise((resolve) => setTimeout(resolve, 2));
      socket.write(letter);
    }
  }
  await expect.poll(() => got.split(`${PATH} null abcdef`).length).toBe(3);
  socket.destroy();
});

test("a client that leaves in the middle of its body rejects the reading, and takes nothing else with it", async () => {
  const failed = Promise.withResolvers<unknown>();
  const url = await serve({
    ...echo,
    ask: async (asked, waitUntil) => {
      if (asked.header("x-name") !== "leaves") return echo.ask(asked, waitUntil);
      await asked.bytes(BYTES_MAX).catch(failed.resolve);
      return new Response(null, { status: 499 });
    },
  });
  const { port } = new URL(url);
  const socket = connect(Number(port), "127.0.0.1");
  socket.write(`POST ${PATH} HTTP/1.1\r\nhost: x\r\nx-name: leaves\r\ncontent-length: 100\r\n\r\nhalf`, () => {
    setTimeout(() => socket.destroy(), 20);
  });
  expect(await failed.promise).toMatchObject({ name: "ClientGone" });
  expect((await fetch(url + PATH, { method: "POST", body: "next" })).status).toBe(200);
});

test("the signal aborts when the client leaves, and not when it was answered", async () => {
  const signals: AbortSignal[] = [];
  const arrived = Promise.withResolvers<void>();
  const url = await serve({
    ...echo,
    ask: async (asked, waitUntil) => {
      signals.push(asked.signal);
      if (asked.header("x-name") !== "waits") return echo.ask(asked, waitUntil);
      arrived.resolve();
      return new Promise<never>(() => {});
    },
  });
  await (await fetch(url + PATH, { method: "POST", body: "answered" })).text();
  const waiting = send(url + PATH, { method: "POST", headers: { "x-name": "waits" } }).on("error", () => {});
  waiting.end("waits");
  await arrived.promise;
  expect(signals.map(({ aborted }) => aborted)).toEqual([false, false]);
  waiting.destroy();
  await expect.poll(() => signals.map(({ aborted }) => aborted)).toEqual([false, true]);
});

test("a stream is passed on piece by piece, and cancelled when its client leaves", async () => {
  const cancelled = Promise.withResolvers<void>();
  const stream = new ReadableStream<Uint8Array>({
    start: (controller) => controller.enqueue(new TextEncoder().encode("first")),
    cancel: () => cancelled.resolve(),
  });
  const url = await serve({ ...echo, ask: async () => new Response(stream) });
  const leaving = new AbortController();
  const response = await fetch(url + PATH, { method: "POST", body: "x", signal: leaving.signal });
  const reader = response.body?.getReader();
  expect(new TextDecoder().decode((await reader?.read())?.value)).toBe("first");
  leaving.abort();
  await cancelled.promise;
});
