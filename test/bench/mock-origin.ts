/**
 * An origin that costs nothing: signed or not, every question gets the same short answer at once, in OpenAI's wire
 * format, streamed where that is asked for. What a benchmark measures in front of it is the way there and back.
 */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { SSE_DONE, SSE_HEADERS, sseData } from "../../shared/sse.ts";

export const MOCK_MODEL = "mock";
const DIGEST = "0".repeat(64);

/** A question with this in it is answered in two pieces; the first says when it was sent, by this process' clock. */
export const PIECE_BY_PIECE = "piece by piece";
const PIECES_MS = 30;

const head = { id: "chatcmpl-mock", created: 1_700_000_000, model: MOCK_MODEL };
const usage = { prompt_tokens: 300, completion_tokens: 8, total_tokens: 308 };
const text = "x".repeat(500);

const JSON_ANSWER = JSON.stringify({
  ...head,
  object: "chat.completion",
  choices: [{ index: 0, message: { role: "assistant", content: text }, finish_reason: "stop", logprobs: null }],
  usage,
});
const SSE_ANSWER = [
  { ...head, object: "chat.completion.chunk", choices: [{ index: 0, delta: { content: text }, finish_reason: null }] },
  { ...head, object: "chat.completion.chunk", choices: [{ index: 0, delta: {}, finish_reason: "stop" }] },
  { ...head, object: "chat.completion.chunk", choices: [], usage },
  SSE_DONE,
]
  .map((event) => sseData(event))
  .join("");
const MODELS = JSON.stringify({
  object: "list",
  data: [
    {
      id: MOCK_MODEL,
      object: "model",
      created: 1,
      owned_by: "bench",
      digest: DIGEST,
      context_length: 8_192,
      task: "generate",
    },
  ],
});

/** Starts it on a free port of this process. */
export async function startMockOrigin(): Promise<AsyncDisposable & { readonly url: string }> {
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      if (request.method === "GET") {
        response.writeHead(200, { "content-type": "application/json" }).end(MODELS);
      } else if (Buffer.concat(chunks).includes(PIECE_BY_PIECE)) {
        response.writeHead(200, { ...SSE_HEADERS, "coldpath-model-digest": DIGEST });
        const first = { index: 0, delta: { content: `${performance.now()}` }, finish_reason: null };
        response.write(sseData({ ...head, object: "chat.completion.chunk", choices: [first] }));
        setTimeout(() => response.end(SSE_ANSWER), PIECES_MS);
      } else if (Buffer.concat(chunks).includes('"stream":true')) {
        response.writeHead(200, { ...SSE_HEADERS, "coldpath-model-digest": DIGEST }).end(SSE_ANSWER);
      } else {
        response.writeHead(200, { "content-type": "application/json" }).end(JSON_ANSWER);
      }
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
