/**
 * Upstash's REST interface in front of any Redis: what makes a Redis in the user's own region usable from a worker,
 * which can only speak HTTP. Two ways in, one way to answer: what comes as usual is read by plain-connections.ts, and
 * everything else by plain `node:http`, because this is on the path of every request: a router and Web `Request` objects
 * cost more than the rest of the work together.
 */
import { once } from "node:events";
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { type AnswerParts, answer } from "./answer.ts";
import { type RestTokens, authorizer } from "./authorize.ts";
import { connectRedis } from "./connection.ts";
import { RestFailure } from "./failure.ts";
import { createRestMetrics } from "./metrics.ts";
import { PlainConnections } from "./plain-connections.ts";

/** Milliseconds a client may take to send a whole request: no slow sender holds a socket for long. */
const REQUEST_TIMEOUT_MS = 15_000;
/** Longer than the idle time of common proxies, so that they close first and no request meets a closing socket. */
const KEEP_ALIVE_MS = 75_000;

/** How much of a body beyond its limit is read and dropped before the connection is closed on the sender. */
const DROPPED_BYTES_MAX = 16 * 1024 * 1024;

export interface RedisRestOptions extends RestTokens {
  readonly host: string;
  /** 0 takes a free one. */
  readonly port: number;
  readonly redisUrl: string;
  readonly timeoutMs: number;
  readonly bodyBytesMax: number;
  readonly pipelineCommandsMax: number;
  readonly pendingCommandsMax: number;
  /** One line for the operator. */
  readonly log: (line: string) => void;
}

export interface RedisRest {
  /** `http://host:port` */
  readonly url: string;
  /** Stops listening, ends open connections and leaves Redis. */
  close(): Promise<void>;
}

/**
 * Starts the server. Redis need not be there yet: until it is, requests are answered 503.
 *
 * @throws the listening error, when the port is taken or not allowed
 */
export async function startRedisRest(options: RedisRestOptions): Promise<RedisRest> {
  const { bodyBytesMax } = options;
  const redis = await connectRedis({ ...options, onState: stateLogger(options.log) });
  const parts: AnswerParts = { ...options, redis, metrics: createRestMetrics(redis), authorize: authorizer(options) };
  const server = createServer(
    { requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS, keepAliveTimeout: KEEP_ALIVE_MS },
    (request, response) => void serve(parts, request, response, bodyBytesMax),
  );
  const plain = new PlainConnections(server, {
    answer: ({ path, authorization, encoding, body }) =>
      answer(parts, { method: "POST", path, search: "", authorization, encoding, body: () => body }),
    bodyBytesMax,
    requestTimeoutMs: REQUEST_TIMEOUT_MS,
    keepAliveMs: KEEP_ALIVE_MS,
  });
  try {
    server.listen(options.port, options.host);
    await once(server, "listening");
  } catch (error) {
    redis.close();
    throw error;
  }
  const { port } = server.address() as AddressInfo;
  return {
    url: `http://${options.host.includes(":") ? `[${options.host}]` : options.host}:${port}`,
    close: async () => {
      server.close();
      server.closeAllConnections();
      plain.close();
      redis.close();
      if (server.listening) await once(server, "close");
    },
  };
}

async function serve(
  parts: AnswerParts,
  request: IncomingMessage,
  response: ServerResponse,
  bodyBytesMax: number,
): Promise<void> {
  const [path = "/", search = ""] = (request.url ?? "/").split("?", 2);
  const encoding = request.headers["upstash-encoding"];
  const { status, contentType, body } = await answer(parts, {
    method: request.method ?? "",
    path,
    search,
    authorization: request.headers.authorization,
    encoding: typeof encoding === "string" ? encoding : undefined,
    body: () => readBody(request, bodyBytesMax),
  });
  // A body that was not read to its end can't be followed by another request.
  if (!request.complete) response.setHeader("connection", "close");
  response.writeHead(status, { "content-type": contentType, "content-length": Buffer.byteLength(body) });
  response.end(request.method === "HEAD" ? undefined : body);
}

/**
 * Not `for await`: leaving such a loop early destroys the socket, and with it the answer. For the same reason a body
 * over the limit is read on and dropped for a while: closing on a client that still writes loses what it was told.
 */
async function readBody(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  // Failures are made only when they happen: an Error's stack trace costs a tenth of a whole request.
  const tooLarge = () => new RestFailure(413, `ERR the request body is larger than ${bytesMax} bytes`);
  const dropMax = bytesMax + DROPPED_BYTES_MAX;
  if (Number(request.headers["content-length"] ?? 0) > dropMax) throw tooLarge();
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  let bytes = 0;
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= bytesMax) chunks.push(chunk);
    if (bytes > dropMax) {
      request.removeAllListeners("data").pause();
      reject(tooLarge());
    }
  });
  request.once("end", () => (bytes > bytesMax ? reject(tooLarge()) : resolve(Buffer.concat(chunks))));
  request.once("close", () => {
    if (!request.complete) reject(new RestFailure(400, "ERR the request body ended early"));
  });
  return promise;
}

/** Says each change once: a Redis that is away for an hour is one line, not thousands. */
function stateLogger(log: (line: string) => void): (state: "ready" | Error) => void {
  let said = "";
  return (state) => {
    const line = state === "ready" ? "redis-rest: Redis is connected" : `redis-rest: Redis is away: ${state.message}`;
    if (line !== said) log(line);
    said = line;
  };
}
