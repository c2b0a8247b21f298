/**
 * What a request asks Redis to run: a JSON array in the body, a list of such arrays, or the path itself. Knows nothing
 * of permissions.
 *
 * Bytes in: JSON holds text, so arbitrary bytes go into a path segment percent-encoded (`%FF` is the byte 0xFF), or
 * into the body of a path command, which is appended as it is: `POST /set/key`, `POST /evalsha/<sha>/1/key`.
 *
 * Source: Upstash's REST API, "API Semantics", "JSON or Binary Value", "Sending Command as JSON Body".
 */
import { RestFailure } from "./failure.ts";

/** Name first, then arguments. */
export type RedisCommand = readonly [string | Buffer, ...(string | Buffer)[]];

/** `POST /`: one command as a JSON array. */
export function parseCommand(body: Buffer): RedisCommand {
  return toCommand(parseJson(body));
}

/** `POST /pipeline` and `/multi-exec`: an array of commands. */
export function parseCommands(body: Buffer, countMax: number): readonly RedisCommand[] {
  const value = parseJson(body);
  if (!Array.isArray(value)) throw new RestFailure(400, "ERR the body must be an array of commands");
  if (value.length === 0) throw new RestFailure(400, "ERR empty pipeline");
  if (value.length > countMax) throw new RestFailure(400, `ERR more than ${countMax} commands in one request`);
  return value.map(toCommand);
}

/**
 * A command spelled in the address: `/set/key/value?EX=100`. The body, if any, comes after the path's arguments, and
 * the query's names and values after that, so `POST /set/key?EX=100` sets the body's bytes.
 *
 * @param path - as it was sent, percent-encoded
 * @param query - without `_token`
 */
export function parsePathCommand(path: string, query: URLSearchParams, body: Buffer): RedisCommand {
  const [name, ...args] = path.slice(1).split("/").map(percentDecode);
  if (name === undefined || name.length === 0) throw new RestFailure(400, "ERR empty command");
  if (body.length > 0) args.push(body);
  for (const [option, value] of query) args.push(option, ...(value === "" ? [] : [value]));
  return [name, ...args];
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(body.toString());
  } catch (cause) {
    throw new RestFailure(400, "ERR failed to parse the body: it is not valid JSON", { cause });
  }
}

function toCommand(value: unknown): RedisCommand {
  if (!Array.isArray(value)) throw new RestFailure(400, "ERR a command must be an array of its name and arguments");
  const [name, ...args] = value.map(toArgument);
  if (name === undefined || name === "") throw new RestFailure(400, "ERR empty command");
  return [name, ...args];
}

function toArgument(value: unknown): string {
  if (typeof value === "string") return value;
  if (typeof value === "boolean") return String(value);
  if (typeof value === "number") {
    // JSON.parse has already rounded it: storing another number than was sent would be silent damage.
    if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
      throw new RestFailure(400, "ERR a whole number beyond 2^53 must be sent as a string");
    }
    return String(value);
  }
  throw new RestFailure(400, "ERR an argument must be a string, a number or a boolean");
}

/** `decodeURIComponent` refuses what is not UTF-8; a value may be any bytes. */
function percentDecode(segment: string): string | Buffer {
  if (!segment.includes("%")) return segment;
  try {
    return decodeURIComponent(segment);
  } catch {
    const bytes = segment.replaceAll(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)));
    // Node's request targets are Latin-1 text, so each character here is one byte.
    return Buffer.from(bytes, "latin1");
  }
}
