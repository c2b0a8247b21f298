/**
 * What the edge needs from the place it runs in: passed in, so that tests can own time, chance and the network, and each
 * place can use its fastest primitives. Nothing here is the edge's own business.
 */
import type { BodyReader } from "../../shared/read-body.ts";
import type { SigningKey } from "../../shared/signature.ts";
import type { SendCommand } from "../regional/redis.ts";

export interface Platform {
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  /** Unix milliseconds. */
  readonly now: () => number;
  readonly randomBytes: (length: number) => Uint8Array<ArrayBuffer>;
  readonly randomId: () => string;
  /** Takes one finished log line; may write it a little later, for which `waitUntil` keeps the isolate awake. */
  readonly log: (line: string, waitUntil: (work: Promise<unknown>) => void) => void;
  readonly crypto: PlatformCrypto;
  /** Opens the way to the regional Redis, and asks it nothing yet. */
  readonly openRedis: (options: RedisOptions) => SendCommand;
  /** Opens the way to the origin at a URL, whose path goes before every request's, and asks it nothing yet. */
  readonly openOrigin: (url: string) => AskOrigin;
}

/**
 * Sends one request and returns with the response's head, whatever its status. Follows no redirect: that would carry the
 * signed body elsewhere. Rejects where there is no response, and once the signal has fired.
 */
export type AskOrigin = (request: OriginRequest) => Promise<OriginResponse>;

export interface OriginRequest {
  readonly method: "GET" | "POST";
  /** With the leading slash. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  /** `undefined` for a request without one. */
  readonly body: Uint8Array<ArrayBuffer> | undefined;
  /** Also ends the reading of the body. */
  readonly signal: AbortSignal;
}

export interface OriginResponse {
  readonly status: number;
  /** @param name - in lower case */
  header(name: string): string | null;
  /** To be read to its end, or cancelled; the end serves the next request on the same connection. */
  readonly body: BodyReader;
}

/** A value now, where the platform computes synchronously, or later. */
type Awaitable<T> = T | Promise<T>;

/**
 * Keyed primitives. Web Crypto is the only way on Workers and takes 3–4 µs a call on workerd; on Node it takes 12–16, of
 * which the work itself is 1–3: there `node:crypto` computes it synchronously.
 */
export interface PlatformCrypto {
  /** HMAC-SHA256 under the key that HKDF-SHA256 (RFC 5869, no salt) derives from the secret for one use. */
  readonly mac: (secret: string, use: string) => Awaitable<Mac>;
  /** AES-256-GCM under the key derived likewise. */
  readonly cipher: (secret: string, use: string) => Awaitable<Cipher>;
  /** For what is sent to the origin, under the secret itself: the origin has no other. */
  readonly signingKey: (secret: string) => Awaitable<SigningKey>;
}

/** @returns the digest of the UTF-8 text in base64url */
export type Mac = (text: string) => Awaitable<string>;

/** A sealed text is `base64(nonce ‖ ciphertext ‖ tag)`: the same bytes on every platform. */
export interface Cipher {
  /** @param place - authenticated with the text: it opens nowhere else */
  readonly seal: (place: string, text: string) => Awaitable<string>;
  /** @returns `undefined` for anything that was not sealed with this key for this place */
  readonly open: (place: string, sealed: string) => Awaitable<string | undefined>;
}

/** NIST SP 800-38D: random nonces of 96 bits. */
export const NONCE_BYTES = 12;
/** And a tag of 128. */
export const TAG_BYTES = 16;

/** Where the regional Redis is. */
export interface RedisOptions {
  /** Its Upstash-compatible REST interface, for platforms without sockets of their own. */
  readonly restUrl: string;
  readonly restToken: string | undefined;
  /** For all commands of one request together, their answers included, and so for each. */
  readonly timeoutMs: number;
  /** Commands that may wait for it at once. */
  readonly pendingMax: number;
}
