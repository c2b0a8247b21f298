/** Bytes that no client of ours would send, over real sockets: each gets its status, and nobody else notices. */
import { once } from "node:events";
import { type AddressInfo, connect } from "node:net";
import { createAdaptorServer } from "@hono/node-server";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { EngineClient } from "../../../origin/engine/client.ts";
import { startFakeEngine } from "../../fakes/engine.ts";
import { createOrigin } from "../../fakes/origin.ts";

const BODY = JSON.stringify({ model: "bytes", prompt: "x", max_tokens: 2 });

let engine: EngineClient;
let origin: Awaited<ReturnType<typeof createOrigin>>;
let server: ReturnType<typeof createAdaptorServer>;
let port: number;

beforeAll(async () => {
  engine = await startFakeEngine();
  origin = await createOrigin({ engine });
  server = createAdaptorServer({ fetch: origin.app.fetch }).listen(0, "127.0.0.1");
  await once(server, "listening");
  ({ port } = server.address() as AddressInfo);
});
afterAll(async () => {
  server.close();
  await engine.stop();
});

/** Sends bytes as they are; the status of the first answer, or `closed` where the connection just ends. */
async function send(bytes: string): Promise<number | "closed"> {
  const socket = connect(port, "127.0.0.1");
  let text = "";
  socket.on("data", (data: Buffer) => (text += data.toString("latin1")));
  // The rest of what is sent may meet a closed connection.
  socket.on("error", () => undefined);
  socket.write(bytes, "latin1");
  setTimeout(() => socket.end(), 300).unref();
  await new Promise((resolve) => socket.on("close", resolve));
  const status = /^HTTP\/1\.1 (\d{3})/.exec(text)?.[1];
  return status === undefined ? "closed" : Number(status);
}

function post(headers: readonly string[], body = BODY): string {
  const length = `content-length: ${Buffer.byteLength(body)}`;
  const lines = ["POST /v1/completions HTTP/1.1", "host: origin", "content-type: application/json", length, ...headers];
  return `${lines.join("\r\n")}\r\n\r\n${body}`;
}

async function sign(headers: Readonly<Record<string, string>> = {}): Promise<string[]> {
  const request = await origin.signed("/v1/completions", BODY, { headers });
  return [...request.headers].filter(([name]) => name !== "content-type").map(([name, value]) => `${name}: ${value}`);
}

const many = (count: number) => Array.from({ length: count }, (_, i) => `x-${i}: ${i}`);

/** What is still on its way when the server closes makes the system drop the answer, too. */
const TOO_LARGE = [431, "closed"] as const;

test.each<[string, string, readonly (number | "closed")[]]>([
  ["a header without a colon", post(["no colon here"]), [400]],
  ["a header's name with a space", post(["x y: 1"]), [400]],
  ["a NUL in a header", post(["x: a\0b"]), [400]],
  ["a lone line feed that hides a header", post(["x: a\nsignature: edge=:AAAA:"]), [400, 401]],
  ["two lengths", post(["content-length: 3"]), [400]],
  ["a length and chunks", post(["transfer-encoding: chunked"]), [400]],
  ["a length that is no number", "POST /generate HTTP/1.1\r\nhost: o\r\ncontent-length: ten\r\n\r\n", [400]],
  ["a negative length", "POST /generate HTTP/1.1\r\nhost: o\r\ncontent-length: -1\r\n\r\n", [400]],
  ["no host", "GET /health HTTP/1.1\r\n\r\n", [400]],
  ["a method that does not exist", "BREW /health HTTP/1.1\r\nhost: o\r\n\r\n", [400]],
  ["another protocol", "\x16\x03\x01\x02\x00\x01\x00", [400]],
  ["one header of 100 kB", post([`x: ${"a".repeat(100_000)}`]), TOO_LARGE],
  ["20,000 headers", post(many(20_000)), TOO_LARGE],
  ["more headers than a request may have, in few bytes", post(many(1_500).map(() => "a: 1")), [401, 431]],
  ["a body that never comes", post([], "").replace("content-length: 0", "content-length: 50"), [400, 401, "closed"]],
])("%s", async (_, bytes, statuses) => {
  expect(statuses).toContain(await send(bytes));
  expect((await fetch(`http://127.0.0.1:${port}/health`)).status).toBe(200);
});

test("a signature beside a flood of other headers is still read, and one given twice is none", async () => {
  expect(await send(post([...(await sign()), ...many(500)]))).toBe(200);
  const twice = await sign();
  const signature = twice.find((line) => line.startsWith("signature:")) ?? "";
  expect(await send(post([...twice, signature]))).toBe(401);
});

test("an absurd request id is signed for, and not repeated to anybody", async () => {
  const headers = (await sign()).map((line) =>
    line.startsWith("x-request-id:") ? `x-request-id: ${"<script>".repeat(50)}` : line,
  );
  expect(await send(post(headers))).toBe(401);
  expect(JSON.stringify(origin.lines)).not.toContain("<script>");
});

test("after all of it, a question is answered and nothing is open", async () => {
  expect(await send(post(await sign()))).toBe(200);
  expect(engine.occupancy).toEqual({ running: 0, waiting: 0 });
});
