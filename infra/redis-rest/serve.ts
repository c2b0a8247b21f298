/**
 * Upstash's REST interface in front of any Redis: what makes a Redis in the user's own region usable from a worker,
 * which can only speak HTTP. Plain `node:http`, because this is on the path of every request: a router and Web
 * `Request` objects cost more than the rest of the work together.
 *
 * Source: Upstash's REST API, upstash.com/docs/redis/features/restapi.
 */
import { once } from "node:events";
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { ErrorReply } from "redis";
import { type RestTokens, authorizer } from "./authorize.ts";
import { type RedisCommand, parseCommand, parseCommands, parsePathCommand } from "./command.ts";
import { type RedisConnection, connectRedis } from "./connection.ts";
import { RestFailure } from "./failure.ts";
import { type RestMetrics, type RestRoute, createRestMetrics } from "./metrics.ts";
import { type Access, refusal } from "./permit.ts";
import { type Encoding, envelope, errorEnvelope } from "./reply.ts";

/** Milliseconds a client may take to send a whole request: no slow sender holds a socket for long. */
const REQUEST_TIMEOUT_MS = 15_000;
/** Longer than the idle time of common proxies, so that they close first and no request meets a closing socket. */
const KEEP_ALIVE_MS = 75_000;

/** How much of a body beyond its limit is read and dropped before the connection is closed on the sender. */
const DROPPED_BYTES_MAX = 16 * 1024 * 1024;

const METHODS = new Set(["GET", "HEAD", "POST", "PUT"]);

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

/** What an answer is made of. */
interface Answer {
  readonly status: number;
  readonly body: string;
  readonly contentType?: string;
}

/** What every step of a request shares. */
interface Context {
  readonly redis: RedisConnection;
  readonly metrics: RestMetrics;
  readonly authorize: (header: string | undefined, query: URLSearchParams) => Access;
  readonly options: RedisRestOptions;
}

/**
 * Starts the server. Redis need not be there yet: until it is, requests are answered 503.
 *
 * @throws the listening error, when the port is taken or not allowed
 */
export async function startRedisRest(options: RedisRestOptions): Promise<RedisRest> {
  const redis = await connectRedis({ ...options, onState: stateLogger(options.log) });
  const context: Context = { redis, metrics: createRestMetrics(redis), authorize: authorizer(options), options };
  const server = createServer(
    { requestTimeout: REQUEST_TIMEOUT_MS, headersTimeout: REQUEST_TIMEOUT_MS, keepAliveTimeout: KEEP_ALIVE_MS },
    (request, response) => void serve(context, request, response),
  );
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
      redis.close();
      if (server.listening) await once(server, "close");
    },
  };
}

/** Never rejects: whatever happens becomes an answer. */
async function serve(context: Context, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const started = performance.now();
  const [path = "/", search = ""] = (request.url ?? "/").split("?", 2);
  const route = routeOf(path);
  const answer = await respond(context, request, { route, path, search }).catch((thrown: unknown) =>
    failed(thrown, context.options.log),
  );
  // A body that was not read to its end can't be followed by another request.
  if (!request.complete) response.setHeader("connection", "close");
  response.writeHead(answer.status, {
    "content-type": answer.contentType ?? "application/json",
    "content-length": Buffer.byteLength(answer.body),
  });
  response.end(request.method === "HEAD" ? undefined : answer.body);
  context.metrics.observe(route, answer.status, (performance.now() - started) / 1000);
}

function routeOf(path: string): RestRoute {
  switch (path) {
    case "/pipeline":
      return "pipeline";
    case "/multi-exec":
      return "multi-exec";
    case "/health":
      return "health";
    case "/metrics":
      return "metrics";
    default:
      return "command";
  }
}

async function respond(
  context: Context,
  request: IncomingMessage,
  target: { readonly route: RestRoute; readonly path: string; readonly search: string },
): Promise<Answer> {
  if (!METHODS.has(request.method ?? "")) throw new RestFailure(405, "ERR method not allowed");
  if (target.route === "health") return health(context.redis);

  const query = new URLSearchParams(target.search);
  const access = context.authorize(request.headers.authorization, query);
  query.delete("_token");
  const encoding = request.headers["upstash-encoding"] === "base64" ? "base64" : "utf8";
  const body = await readBody(request, context.options.bodyBytesMax);

  switch (target.route) {
    case "command":
      break;
    case "metrics":
      return { status: 200, contentType: context.metrics.contentType, body: await context.metrics.render() };
    case "pipeline":
      return pipeline(context, postedCommands(context, request, body), access, encoding);
    case "multi-exec":
      return multiExec(context, postedCommands(context, request, body), access, encoding);
  }
  const command =
    target.path === "/" && body.length > 0 ? parseCommand(body) : parsePathCommand(target.path, query, body);
  return single(context, command, access, encoding);
}

/** Open to everyone: says only whether Redis is there. */
function health(redis: RedisConnection): Answer {
  return redis.commandTable === undefined
    ? { status: 503, body: errorEnvelope("ERR Redis is not reachable") }
    : { status: 200, body: `{"status":"ok"}` };
}

function postedCommands(context: Context, request: IncomingMessage, body: Buffer): readonly RedisCommand[] {
  if (request.method !== "POST" && request.method !== "PUT") throw new RestFailure(405, "ERR method not allowed");
  return parseCommands(body, context.options.pipelineCommandsMax);
}

async function single(context: Context, command: RedisCommand, access: Access, encoding: Encoding): Promise<Answer> {
  const error = refuse(context, command, access);
  if (error !== undefined) return { status: 400, body: errorEnvelope(error) };
  const [reply = null] = await context.redis.run([command]);
  return { status: reply instanceof ErrorReply ? 400 : 200, body: envelope(reply, encoding) };
}

/** One failing command does not keep the others from running, so a refused one does not either. */
async function pipeline(
  context: Context,
  commands: readonly RedisCommand[],
  access: Access,
  encoding: Encoding,
): Promise<Answer> {
  const errors = commands.map((command) => refuse(context, command, access));
  const replies = await context.redis.run(commands.filter((_, index) => errors[index] === undefined));
  const next = replies.values();
  const envelopes = errors.map((error) =>
    error === undefined ? envelope(next.next().value ?? null, encoding) : errorEnvelope(error),
  );
  return { status: 200, body: `[${envelopes.join(",")}]` };
}

/** All or nothing: a refused command refuses the transaction. */
async function multiExec(
  context: Context,
  commands: readonly RedisCommand[],
  access: Access,
  encoding: Encoding,
): Promise<Answer> {
  const error = commands.map((command) => refuse(context, command, access)).find((text) => text !== undefined);
  if (error !== undefined) return { status: 400, body: errorEnvelope(error) };
  const replies = await context.redis.transact(commands);
  if (replies instanceof ErrorReply) return { status: 400, body: errorEnvelope(replies.message) };
  return { status: 200, body: `[${replies.map((reply) => envelope(reply, encoding)).join(",")}]` };
}

function refuse(context: Context, command: RedisCommand, access: Access): string | undefined {
  const table = context.redis.commandTable;
  if (table === undefined) throw new RestFailure(503, "ERR Redis is not reachable");
  return refusal(command, access, table);
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

function failed(thrown: unknown, log: (line: string) => void): Answer {
  if (thrown instanceof RestFailure) return { status: thrown.status, body: errorEnvelope(thrown.message) };
  log(`redis-rest: a request failed: ${thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)}`);
  return { status: 500, body: errorEnvelope("ERR internal error") };
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
