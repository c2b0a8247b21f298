/**
 * How the origin knows that a request came through an edge: an HTTP Message Signature over the method, the path, the
 * body's digest, the request id and whatever the edge says about the question, with one shared key. Knows no route.
 *
 * Source: RFC 9421 (HTTP Message Signatures, hmac-sha256) and RFC 9530 (Content-Digest). Only one list of covered
 * components is ever written or accepted for a given set of headers, so no general parser of structured fields is
 * needed; and since that list follows from the headers that arrived, none can be added, taken away or changed.
 */
import { decodeBase64, encodeBase64 } from "hono/utils/encode";
import { CONTEXT_HEADERS, type EdgeContext, writeEdgeContext } from "./edge-context.ts";

/** A signature is refused this long after it was made: bounds replay, leaves room for clocks that disagree. */
export const SIGNATURE_AGE_MAX_SECONDS = 60;

const LABEL = "edge";
const INPUT = /^edge=((\([^()]*\));created=(\d{1,12});alg="hmac-sha256")$/;

/** What is signed. `path` has no query. */
export interface SignedMessage {
  readonly method: string;
  readonly path: string;
  readonly requestId: string;
  readonly body: Uint8Array<ArrayBuffer>;
  /** What else the edge says; default: nothing. */
  readonly context?: EdgeContext | undefined;
}

/** What signing needs, in whatever way a platform computes it fastest: both give base64. */
export interface SigningKey {
  /** SHA-256. */
  digest(bytes: Uint8Array<ArrayBuffer>): string | Promise<string>;
  /** HMAC-SHA256 under the shared secret. */
  sign(bytes: Uint8Array<ArrayBuffer>): string | Promise<string>;
}

export interface SignatureKey extends SigningKey {
  verify(signature: Uint8Array<ArrayBuffer>, bytes: Uint8Array<ArrayBuffer>): Promise<boolean>;
}

/** Imports the shared secret for signing and verifying with Web Crypto. */
export async function importSignatureKey(secret: string): Promise<SignatureKey> {
  const bytes = new TextEncoder().encode(secret);
  const key = await crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);
  return {
    digest: sha256,
    sign: async (signed) => encodeBase64(await crypto.subtle.sign("HMAC", key, signed)),
    verify: (signature, signed) => crypto.subtle.verify("HMAC", key, signature, signed),
  };
}

async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return encodeBase64(await crypto.subtle.digest("SHA-256", bytes));
}

/**
 * Signs one request.
 *
 * @param nowSeconds - Unix seconds
 * @returns the headers to send: `x-request-id`, `content-digest`, the context's, `signature-input`, `signature`
 */
export async function signMessage(
  key: SigningKey,
  message: SignedMessage,
  nowSeconds: number,
): Promise<Record<string, string>> {
  const covered = {
    "content-digest": contentDigest(await key.digest(message.body)),
    "x-request-id": message.requestId,
    ...writeEdgeContext(message.context ?? {}),
  };
  const params = `${listComponents(covered)};created=${nowSeconds};alg="hmac-sha256"`;
  const signature = await key.sign(signatureBase(message, covered, params));
  return {
    ...covered,
    "signature-input": `${LABEL}=${params}`,
    signature: `${LABEL}=:${signature}:`,
  };
}

/**
 * Checks a request's signature against what actually arrived.
 *
 * @returns `undefined` when it holds, else the reason it does not, for the log and the error's message
 */
export async function verifyMessage(
  key: SignatureKey,
  message: Pick<SignedMessage, "method" | "path" | "body">,
  headers: Headers,
  nowSeconds: number,
): Promise<string | undefined> {
  const requestId = headers.get("x-request-id");
  const input = INPUT.exec(headers.get("signature-input") ?? "");
  const value = /^edge=:([A-Za-z0-9+/]{43}=):$/.exec(headers.get("signature") ?? "");
  if (requestId === null || input === null || value === null) return "the request is not signed by an edge";

  const age = nowSeconds - Number(input[3]);
  if (Math.abs(age) > SIGNATURE_AGE_MAX_SECONDS) return "the signature is too old, or the two clocks disagree";

  const digest = contentDigest(await key.digest(message.body));
  if (digest !== headers.get("content-digest")) return "the body is not the one that was signed";

  const covered = { "content-digest": digest, "x-request-id": requestId, ...contextOf(headers) };
  if (input[2] !== listComponents(covered)) return "the signature does not cover what was sent";

  const base = signatureBase(message, covered, input[1] ?? "");
  const signature = decodeBase64(value[1] ?? "");
  return (await key.verify(signature, base)) ? undefined : "the signature does not match";
}

function contentDigest(sha256Base64: string): string {
  return `sha-256=:${sha256Base64}:`;
}

/** The context's headers as they came, in the order in which they are signed. */
function contextOf(headers: Headers): Record<string, string> {
  return Object.fromEntries(
    CONTEXT_HEADERS.flatMap((name) => {
      const value = headers.get(name);
      return value === null ? [] : [[name, value]];
    }),
  );
}

function listComponents(covered: Readonly<Record<string, string>>): string {
  return `(${["@method", "@path", ...Object.keys(covered)].map((name) => `"${name}"`).join(" ")})`;
}

/** RFC 9421, section 2.5. */
function signatureBase(
  { method, path }: Pick<SignedMessage, "method" | "path">,
  covered: Readonly<Record<string, string>>,
  params: string,
): Uint8Array<ArrayBuffer> {
  const lines = [
    `"@method": ${method}`,
    `"@path": ${path}`,
    ...Object.entries(covered).map(([name, value]) => `"${name}": ${value}`),
    `"@signature-params": ${params}`,
  ];
  return new TextEncoder().encode(lines.join("\n"));
}
