/**
 * From a request to its answer: which route, may it, run it. Knows nothing of how the request came or the answer goes.
 *
 * Source: Upstash's REST API, upstash.com/docs/redis/features/restapi.
 */
import { ErrorReply } from "redis";
import type { Authorize } from "./authorize.ts";
import { type RedisCommand, parseCommand, parseCommands, parsePathCommand } from "./command.ts";
import type { RedisConnection } from "./connection.ts";
import { RestFailure } from "./failure.ts";
import type { RestMetrics, RestRoute } from "./metrics.ts";
import { type Access, refusal } from "./permit.ts";
import { type Encoding, envelope, errorEnvelope } from "./reply.ts";

export interface RestRequest {
  readonly method: string;
  /** Percent-encoded, without the query. */
  readonly path: string;
  /** Without the question mark. */
  readonly search: string;
  readonly authorization: string | undefined;
  /** `Upstash-Encoding` */
  readonly encoding: string | undefined;
  /** Only asked for when somebody may send one. @throws {RestFailure} */
  readonly body: () => Promise<Buffer> | Buffer;
}

export interface RestAnswer {
  readonly status: number;
  readonly contentType: string;
  readonly body: string;
}

/** What every request is answered with the help of. */
export interface AnswerParts {
  readonly redis: RedisConnection;
  readonly metrics: RestMetrics;
  readonly authorize: Authorize;
  readonly pipelineCommandsMax: number;
  readonly log: (line: string) => void;
}

const METHODS = new Set(["GET", "HEAD", "POST", "PUT"]);

/** Never rejects: whatever happens becomes an answer. */
export async function answer(parts: AnswerParts, request: RestRequest): Promise<RestAnswer> {
  const started = performance.now();
  const route = routeOf(request.path);
  let answered: RestAnswer;
  try {
    answered = await respond(parts, request, route);
  } catch (thrown) {
    answered = failed(thrown, parts.log);
  }
  parts.metrics.observe(route, answered.status, (performance.now() - started) / 1000);
  return answered;
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

async function respond(parts: AnswerParts, request: RestRequest, route: RestRoute): Promise<RestAnswer> {
  if (!METHODS.has(request.method)) throw new RestFailure(405, "ERR method not allowed");
  if (route === "health") return health(parts.redis);

  const access = parts.authorize(request.authorization, request.search);
  const encoding = request.encoding === "base64" ? "base64" : "utf8";
  const body = await request.body();

  switch (route) {
    case "command":
      return single(parts, commandOf(request, body), access, encoding);
    case "metrics":
      return { status: 200, contentType: parts.metrics.contentType, body: await parts.metrics.render() };
    case "pipeline":
      return pipeline(parts, postedCommands(parts, request, body), access, encoding);
    case "multi-exec":
      return multiExec(parts, postedCommands(parts, request, body), access, encoding);
    default:
      return route satisfies never;
  }
}

/** Open to everyone: says only whether Redis is there. */
function health(redis: RedisConnection): RestAnswer {
  return redis.commandTable === undefined
    ? json(503, errorEnvelope("ERR Redis is not reachable"))
    : json(200, `{"status":"ok"}`);
}

function commandOf({ path, search }: RestRequest, body: Buffer): RedisCommand {
  if (path === "/" && body.length > 0) return parseCommand(body);
  const query = new URLSearchParams(search);
  query.delete("_token");
  return parsePathCommand(path, query, body);
}

function postedCommands(
  { pipelineCommandsMax }: AnswerParts,
  { method }: RestRequest,
  body: Buffer,
): readonly RedisCommand[] {
  if (method !== "POST" && method !== "PUT") throw new RestFailure(405, "ERR method not allowed");
  return parseCommands(body, pipelineCommandsMax);
}

async function single(
  parts: AnswerParts,
  command: RedisCommand,
  access: Access,
  encoding: Encoding,
): Promise<RestAnswer> {
  const error = refuse(parts, command, access);
  if (error !== undefined) return json(400, errorEnvelope(error));
  const [reply = null] = await parts.redis.run([command]);
  return json(reply instanceof ErrorReply ? 400 : 200, envelope(reply, encoding));
}

/** One failing command does not keep the others from running, so a refused one does not either. */
async function pipeline(
  parts: AnswerParts,
  commands: readonly RedisCommand[],
  access: Access,
  encoding: Encoding,
): Promise<RestAnswer> {
  const errors = commands.map((command) => refuse(parts, command, access));
  const replies = await parts.redis.run(commands.filter((_, index) => errors[index] === undefined));
  const next = replies.values();
  const envelopes = errors.map((error) =>
    error === undefined ? envelope(next.next().value ?? null, encoding) : errorEnvelope(error),
  );
  return json(200, `[${envelopes.join(",")}]`);
}

/** All or nothing: a refused command refuses the transaction. */
async function multiExec(
  parts: AnswerParts,
  commands: readonly RedisCommand[],
  access: Access,
  encoding: Encoding,
): Promise<RestAnswer> {
  const error = commands.map((command) => refuse(parts, command, access)).find((text) => text !== undefined);
  if (error !== undefined) return json(400, errorEnvelope(error));
  const replies = await parts.redis.transact(commands);
  if (replies instanceof ErrorReply) return json(400, errorEnvelope(replies.message));
  return json(200, `[${replies.map((reply) => envelope(reply, encoding)).join(",")}]`);
}

function refuse({ redis }: AnswerParts, command: RedisCommand, access: Access): string | undefined {
  const table = redis.commandTable;
  if (table === undefined) throw new RestFailure(503, "ERR Redis is not reachable");
  return refusal(command, access, table);
}

function failed(thrown: unknown, log: (line: string) => void): RestAnswer {
  if (thrown instanceof RestFailure) return json(thrown.status, errorEnvelope(thrown.message));
  log(`redis-rest: a request failed: ${thrown instanceof Error ? (thrown.stack ?? thrown.message) : String(thrown)}`);
  return json(500, errorEnvelope("ERR internal error"));
}

function json(status: number, body: string): RestAnswer {
  return { status, contentType: "application/json", body };
}
