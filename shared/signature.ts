/**
 * How the origin knows that a request came through an edge: an HTTP Message Signature over the method, the path, the
 * body's digest and the request id, with one shared key. Knows no route and no header beyond its own.
 *
 * Source: RFC 9421 (HTTP Message Signatures, hmac-sha256) and RFC 9530 (Content-Digest). Only this one set of covered
 * components is ever written or accepted, so no general parser of structured fields is needed.
 */
import { decodeBase64, encodeBase64 } from "hono/utils/encode";

/** A signature is refused this long after it was made: bounds replay, leaves room for clocks that disagree. */
export const SIGNATURE_AGE_MAX_SECONDS = 60;

const LABEL = "edge";
const COMPONENTS = `("@method" "@path" "content-digest" "x-request-id")`;
const INPUT = /^edge=(\("@method" "@path" "content-digest" "x-request-id"\);created=(\d{1,12});alg="hmac-sha256")$/;

/** What is signed. `path` has no query. */
export interface SignedMessage {
  readonly method: string;
  readonly path: string;
  readonly requestId: string;
  readonly body: Uint8Array<ArrayBuffer>;
}

/** Imports the shared secret for signing and verifying. */
export function importSignatureKey(secret: string): Promise<CryptoKey> {
  const bytes = new TextEncoder().encode(secret);
  return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);
}

/**
 * Signs one request.
 *
 * @param nowSeconds - Unix seconds
 * @returns the headers to send: `x-request-id`, `content-digest`, `signature-input`, `signature`
 */
export async function signMessage(
  key: CryptoKey,
  message: SignedMessage,
  nowSeconds: number,
): Promise<Record<string, string>> {
  const digest = await contentDigest(message.body);
  const params = `${COMPONENTS};created=${nowSeconds};alg="hmac-sha256"`;
  const signature = await crypto.subtle.sign("HMAC", key, signatureBase(message, digest, params));
  return {
    "x-request-id": message.requestId,
    "content-digest": digest,
    "signature-input": `${LABEL}=${params}`,
    signature: `${LABEL}=:${encodeBase64(signature)}:`,
  };
}

/**
 * Checks a request's signature against what actually arrived.
 *
 * @returns `undefined` when it holds, else the reason it does not, for the log and the error's message
 */
export async function verifyMessage(
  key: CryptoKey,
  message: Omit<SignedMessage, "requestId">,
  headers: Headers,
  nowSeconds: number,
): Promise<string | undefined> {
  const requestId = headers.get("x-request-id");
  const input = INPUT.exec(headers.get("signature-input") ?? "");
  const value = /^edge=:([A-Za-z0-9+/]{43}=):$/.exec(headers.get("signature") ?? "");
  if (requestId === null || input === null || value === null) return "the request is not signed by an edge";

  const age = nowSeconds - Number(input[2]);
  if (Math.abs(age) > SIGNATURE_AGE_MAX_SECONDS) return "the signature is too old, or the two clocks disagree";

  const digest = await contentDigest(message.body);
  if (digest !== headers.get("content-digest")) return "the body is not the one that was signed";

  const base = signatureBase({ ...message, requestId }, digest, input[1] ?? "");
  const signature = decodeBase64(value[1] ?? "");
  return (await crypto.subtle.verify("HMAC", key, signature, base)) ? undefined : "the signature does not match";
}

async function contentDigest(body: Uint8Array<ArrayBuffer>): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", body);
  return `sha-256=:${encodeBase64(digest)}:`;
}

/** RFC 9421, section 2.5. */
function signatureBase(message: SignedMessage, digest: string, params: string): Uint8Array<ArrayBuffer> {
  const lines = [
    `"@method": ${message.method}`,
    `"@path": ${message.path}`,
    `"content-digest": ${digest}`,
    `"x-request-id": ${message.requestId}`,
    `"@signature-params": ${params}`,
  ];
  return new TextEncoder().encode(lines.join("\n"));
}
