/**
 * Redis' replies as JSON, unreshaped: HGETALL stays the flat list that Redis sent. Bytes come out whole only in
 * base64; the plain form decodes them as UTF-8 and loses what is not. Integers beyond 2^53 are rounded, as every
 * JavaScript reader of the JSON would.
 *
 * Source: Upstash's REST API, "Response" and "Base64 Encoded Responses".
 */
import { ErrorReply } from "redis";

/** A status is a string, a value is a Buffer: in base64 only the status `OK` stays readable. */
export type Reply = string | Buffer | number | null | ErrorReply | readonly Reply[];

/** `Upstash-Encoding` of the request. */
export type Encoding = "utf8" | "base64";

/** `{ "result": … }`, or `{ "error": … }` when Redis replied with an error. */
export function envelope(reply: Reply, encoding: Encoding): string {
  if (reply instanceof ErrorReply) return errorEnvelope(reply.message);
  if (reply === "OK") return `{"result":"OK"}`;
  return `{"result":${toJson(reply, encoding)}}`;
}

/** `{ "error": … }` */
export function errorEnvelope(message: string): string {
  return `{"error":${JSON.stringify(message)}}`;
}

function toJson(reply: Reply, encoding: Encoding): string {
  if (reply === null) return "null";
  if (typeof reply === "number") return String(reply);
  if (reply instanceof ErrorReply) return errorEnvelope(reply.message);
  if (typeof reply === "string") return toJson(Buffer.from(reply), encoding);
  if (Buffer.isBuffer(reply)) {
    return encoding === "base64" ? `"${reply.toString("base64")}"` : JSON.stringify(reply.toString());
  }
  return `[${reply.map((element) => toJson(element, encoding)).join(",")}]`;
}
