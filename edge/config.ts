/**
 * Every setting of the edge: a worker's bindings become one frozen config. This table is the manual. Knows nothing of
 * what is done with the values.
 */
import { encodeBase64Url } from "hono/utils/encode";
import type { JWK } from "jose";
import {
  choiceKnob,
  integerKnob,
  KnobError,
  type KnobValues,
  readKnobs,
  secretKnob,
  textKnob,
  urlKnob,
} from "../shared/knobs.ts";
import { NORMALIZATIONS, type Normalization } from "../shared/normalize.ts";
import { DEFAULT_AUDIENCE, DEFAULT_ISSUER } from "../shared/token-claims.ts";
import type { AllowedOrigins } from "./call/cross-origin.ts";
import { parsePlans, SHIPPED_PLANS, type Plan } from "./auth/plans.ts";
import type { RedisOptions } from "./platform/platform.ts";
import type { SealSecrets } from "./cache/seal.ts";
import { type Client, parseClients } from "./auth/clients.ts";
import { type Issuer, parseIssuers, parseJwksUrl } from "./auth/issuers.ts";
import { parseTokenKeys, type TokenKey } from "./auth/token-keys.ts";

const KNOBS = {
  originUrl: urlKnob({
    env: "COLDPATH_ORIGIN_URL",
    help: "Where the origin listens; cold prompts and the model list come from there.",
    fallback: "http://127.0.0.1:8900",
  }),
  originSecret: secretKnob({
    env: "COLDPATH_ORIGIN_SECRET",
    help: "Signs every call to the origin, at least 32 bytes; the origin refuses calls signed with another.",
  }),
  originTimeoutMs: integerKnob({
    env: "COLDPATH_ORIGIN_TIMEOUT_MS",
    help: "Longest silence of the origin in milliseconds, before its first byte and between two; then 504.",
    fallback: 120_000,
    min: 1,
  }),
  answerTimeoutMs: integerKnob({
    env: "COLDPATH_ANSWER_TIMEOUT_MS",
    help: "Longest time for a whole answer in milliseconds; a slot in the stream limit is leased a little longer.",
    fallback: 600_000,
    min: 1,
  }),
  answerBytesMax: integerKnob({
    env: "COLDPATH_ANSWER_BYTES_MAX",
    help: "Largest answer in bytes the edge collects, log probabilities included; a longer one is broken off as failed.",
    fallback: 1_048_576,
    min: 1,
  }),
  keepAliveMs: integerKnob({
    env: "COLDPATH_KEEPALIVE_MS",
    help: "A stream that is silent this long gets a comment, in milliseconds: how a closed connection is noticed.",
    fallback: 1_000,
    min: 10,
  }),
  clientTimeoutMs: integerKnob({
    env: "COLDPATH_CLIENT_TIMEOUT_MS",
    help: "A streaming client that takes nothing for this long, in milliseconds, counts as gone and is billed so far.",
    fallback: 30_000,
    min: 1,
  }),
  modelsTtlSeconds: integerKnob({
    env: "COLDPATH_MODELS_TTL_SECONDS",
    help: "How long an isolate trusts the origin's model list, in seconds; a changed model is seen after that.",
    fallback: 30,
  }),
  modelsTimeoutMs: integerKnob({
    env: "COLDPATH_MODELS_TIMEOUT_MS",
    help: "Longest wait for the model list or readiness in milliseconds; then the last known list serves hits.",
    fallback: 2_000,
    min: 1,
  }),
  modelsKeptSeconds: integerKnob({
    env: "COLDPATH_MODELS_KEPT_SECONDS",
    help: "How long the regional store keeps the last model list, in seconds: hits survive a dead origin this long.",
    fallback: 86_400,
    min: 1,
  }),
  store: choiceKnob({
    env: "COLDPATH_STORE",
    help: "redis: shared by every edge of a region. memory: inside this isolate, lost with it, shared with nobody.",
    choices: ["redis", "memory"],
    fallback: "redis",
  }),
  redisRestUrl: urlKnob({
    env: "COLDPATH_REDIS_REST_URL",
    help: "The Upstash-compatible REST interface of the regional Redis.",
    fallback: "http://127.0.0.1:8901",
  }),
  redisRestToken: textKnob({
    env: "COLDPATH_REDIS_REST_TOKEN",
    help: "Bearer token of that interface; needed with COLDPATH_STORE=redis, except on Node.",
    fallback: undefined,
  }),
  storeTimeoutMs: integerKnob({
    env: "COLDPATH_STORE_TIMEOUT_MS",
    help: "Longest that a request waits for the regional store, all in all, in milliseconds; then COLDPATH_LIMITER_FAILS decides.",
    fallback: 500,
    min: 1,
  }),
  storePauseMs: integerKnob({
    env: "COLDPATH_STORE_PAUSE_MS",
    help: "After three timeouts in a row the store is not asked for this long, in milliseconds, then probed; 0: always asked.",
    fallback: 2_000,
  }),
  storePendingMax: integerKnob({
    env: "COLDPATH_STORE_PENDING_MAX",
    help: "Commands of one isolate or Node process that may wait for Redis; beyond it the store counts as away. Bounds memory.",
    fallback: 10_000,
    min: 1,
  }),
  memoryBytesMax: integerKnob({
    env: "COLDPATH_MEMORY_BYTES_MAX",
    help: "Bytes of answers the memory store keeps; the least recently used go first. An isolate has 128 MB in all.",
    fallback: 33_554_432,
    min: 1,
  }),
  memoryBucketsMax: integerKnob({
    env: "COLDPATH_MEMORY_BUCKETS_MAX",
    help: "Limiter states the memory store keeps; beyond it COLDPATH_LIMITER_FAILS decides, none is dropped early.",
    fallback: 100_000,
    min: 3,
  }),
  limiterFails: choiceKnob({
    env: "COLDPATH_LIMITER_FAILS",
    help: "Without the regional store: open answers unlimited and uncached, closed refuses with 503.",
    choices: ["open", "closed"],
    fallback: "open",
  }),
  jwtSecret: secretKnob({
    env: "COLDPATH_JWT_SECRET",
    help: "Verifies HS256 tokens, at least 32 bytes. This, COLDPATH_JWKS, COLDPATH_JWKS_URL or COLDPATH_ISSUERS is needed.",
  }),
  jwtSecretPrevious: secretKnob({
    env: "COLDPATH_JWT_SECRET_PREVIOUS",
    help: "Verifies HS256 tokens, too: after a change of COLDPATH_JWT_SECRET, until the old tokens have expired.",
  }),
  jwks: {
    env: "COLDPATH_JWKS",
    help: "A JWKS as JSON: HS256, ES256, EdDSA or RS256 keys, each good for its own algorithm only.",
    fallback: [] as readonly TokenKey[],
    parse: (text: string) => parseTokenKeys("COLDPATH_JWKS", text),
  },
  jwksUrl: {
    env: "COLDPATH_JWKS_URL",
    help: "Where the issuer publishes its JWKS: ES256, EdDSA or RS256 keys. https, or http on this machine itself.",
    fallback: undefined as string | undefined,
    parse: (text: string) => parseJwksUrl("COLDPATH_JWKS_URL", text),
  },
  jwksTtlSeconds: integerKnob({
    env: "COLDPATH_JWKS_TTL_SECONDS",
    help: "How long fetched keys, and tokens verified with them, are good without another look, in seconds.",
    fallback: 300,
    min: 1,
  }),
  jwksStaleSeconds: integerKnob({
    env: "COLDPATH_JWKS_STALE_SECONDS",
    help: "How much longer fetched keys are good while their URL is down, in seconds; then 503 issuer_unavailable.",
    fallback: 86_400,
  }),
  jwksCooldownSeconds: integerKnob({
    env: "COLDPATH_JWKS_COOLDOWN_SECONDS",
    help: "An unknown key id has the keys fetched again, at most this often, in seconds: forged ids can't hammer the URL.",
    fallback: 30,
    min: 1,
  }),
  jwksTimeoutMs: integerKnob({
    env: "COLDPATH_JWKS_TIMEOUT_MS",
    help: "Longest wait for an issuer's keys in milliseconds.",
    fallback: 3_000,
    min: 1,
  }),
  issuers: textKnob({
    env: "COLDPATH_ISSUERS",
    help: 'Further issuers as JSON: [{"issuer","jwksUrl" or "jwks","audience","tenantPrefix","scopes"}].',
    fallback: undefined,
  }),
  jwtIssuer: textKnob({
    env: "COLDPATH_JWT_ISSUER",
    help: "The `iss` of tokens verified with the keys above.",
    fallback: DEFAULT_ISSUER,
  }),
  jwtAudience: textKnob({
    env: "COLDPATH_JWT_AUDIENCE",
    help: "The `aud` a token must name.",
    fallback: DEFAULT_AUDIENCE,
  }),
  clients: {
    env: "COLDPATH_CLIENTS",
    help: 'Clients of POST /token as JSON: {"id":{"secretSha256","tenant","plan","scopes"}}; npm run token -- client makes one.',
    fallback: undefined as ReadonlyMap<string, Client> | undefined,
    parse: (text: string) => parseClients("COLDPATH_CLIENTS", text),
  },
  tokenSeconds: integerKnob({
    env: "COLDPATH_TOKEN_SECONDS",
    help: "How long a token of POST /token is valid, in seconds.",
    fallback: 3_600,
    min: 1,
  }),
  tokenAttemptsPerMinute: integerKnob({
    env: "COLDPATH_TOKEN_ATTEMPTS_PER_MINUTE",
    help: "Tries a client has at POST /token in a minute, right or wrong; all unknown clients share as many.",
    fallback: 30,
    min: 1,
    max: 1e6,
  }),
  tokenCacheSize: integerKnob({
    env: "COLDPATH_TOKEN_CACHE_SIZE",
    help: "Verified tokens an isolate remembers until they expire; 0 verifies each time, at a third less throughput.",
    fallback: 1_000,
  }),
  cacheSecret: secretKnob({
    env: "COLDPATH_CACHE_SECRET",
    help: "Encrypts stored answers, at least 32 bytes. To change it, put the old one into COLDPATH_CACHE_SECRET_PREVIOUS.",
  }),
  cacheSecretPrevious: secretKnob({
    env: "COLDPATH_CACHE_SECRET_PREVIOUS",
    help: "Still opens what it encrypted; leave it for COLDPATH_CACHE_TTL_SECONDS after the change.",
  }),
  identitySecret: secretKnob({
    env: "COLDPATH_IDENTITY_SECRET",
    help: "Names the answers, at least 32 bytes; unset, COLDPATH_CACHE_SECRET does. A new one makes each answer a miss.",
  }),
  normalize: choiceKnob({
    env: "COLDPATH_NORMALIZE",
    help: "Which spellings of a prompt share an answer: off: none; unicode: NFC; width: full-width too; space: outer space too.",
    choices: NORMALIZATIONS,
    fallback: "off",
  }),
  cacheTtlSeconds: integerKnob({
    env: "COLDPATH_CACHE_TTL_SECONDS",
    help: "How long an answer is kept, in seconds.",
    fallback: 1_800,
    min: 1,
  }),
  cacheStaleSeconds: integerKnob({
    env: "COLDPATH_CACHE_STALE_SECONDS",
    help: "How long after its time an answer is still given, in seconds, while one request makes it anew; 0: not at all.",
    fallback: 0,
  }),
  cacheErrorSeconds: integerKnob({
    env: "COLDPATH_CACHE_ERROR_SECONDS",
    help: "How long after its time an answer is given where no origin answers, in seconds; 0: not at all.",
    fallback: 0,
  }),
  askedMax: integerKnob({
    env: "COLDPATH_ASKED_MAX",
    help: "Questions of a tenant that the region remembers as its most asked, sealed, for warming; 0 counts none.",
    fallback: 1_000,
    max: 100_000,
  }),
  isolateAnswerBytesMax: integerKnob({
    env: "COLDPATH_ISOLATE_ANSWER_BYTES_MAX",
    help: "Bytes of finished replies an isolate remembers, answered without asking anybody; 0 asks the region each time.",
    fallback: 25_165_824,
  }),
  isolateQuestionBytesMax: integerKnob({
    env: "COLDPATH_ISOLATE_QUESTION_BYTES_MAX",
    help: "Bytes of request bodies an isolate recognizes without parsing; 0 parses and hashes every one.",
    fallback: 16_777_216,
  }),
  permitMs: integerKnob({
    env: "COLDPATH_PERMIT_MS",
    help: "How long requests paid in advance last, in milliseconds; a purge or a revoked token is seen after it. 0: none.",
    fallback: 5_000,
    max: 60_000,
  }),
  permitsMax: integerKnob({
    env: "COLDPATH_PERMITS_MAX",
    help: "Most requests an isolate pays in advance for one token; what it asks for follows what the token used lately.",
    fallback: 1_000,
  }),
  plans: {
    env: "COLDPATH_PLANS",
    help: 'Plans by name as JSON, beside or in place of the shipped ones: {"pro":{"requestsPerMinute":600,...}}.',
    fallback: SHIPPED_PLANS,
    parse: (text: string) => parsePlans("COLDPATH_PLANS", text),
  },
  answerTokensDefault: integerKnob({
    env: "COLDPATH_ANSWER_TOKENS_DEFAULT",
    help: "Tokens reserved for an answer when the request sets no maximum; settled to the real number afterwards.",
    fallback: 1_024,
    min: 1,
  }),
  corsOrigins: {
    env: "COLDPATH_CORS_ORIGINS",
    help: "Web pages that may call the edge out of a browser, with a token: * all, off none, or origins with commas between.",
    fallback: "*" as AllowedOrigins,
    parse: parseOrigins,
  },
  siblings: {
    env: "COLDPATH_EDGE_SIBLINGS",
    help: "Own addresses of all processes that share the port, with commas between, for GET /metrics; npm run edge:* sets it.",
    fallback: [] as readonly string[],
    parse: (text: string) => text.split(",").map((url) => parseSibling(url.trim())),
  },
  bodyBytesMax: integerKnob({
    env: "COLDPATH_BODY_BYTES_MAX",
    help: "Largest request body in bytes; more is refused with 413 as soon as it is seen.",
    fallback: 1_048_576,
    min: 1,
  }),
} as const;

/** The edge's settings, complete and checked. */
export interface EdgeConfig {
  readonly originUrl: string;
  readonly originSecret: string;
  readonly originTimeoutMs: number;
  readonly answerTimeoutMs: number;
  readonly answerBytesMax: number;
  readonly keepAliveMs: number;
  readonly clientTimeoutMs: number;
  readonly modelsTtlSeconds: number;
  readonly modelsTimeoutMs: number;
  readonly modelsKeptSeconds: number;
  readonly store:
    | ({ readonly kind: "redis" } & RedisOptions)
    | { readonly kind: "memory"; readonly bytesMax: number; readonly bucketsMax: number };
  /** 0 asks a store that hangs each time. */
  readonly storePauseMs: number;
  readonly limiterFails: "open" | "closed";
  /** At least one, each with another name. */
  readonly issuers: readonly Issuer[];
  /** `undefined` where no clients are set. */
  readonly tokenEndpoint:
    | {
        readonly clients: ReadonlyMap<string, Client>;
        readonly secret: string;
        readonly issuer: string;
        readonly audience: string;
        readonly tokenSeconds: number;
        readonly attemptsPerMinute: number;
      }
    | undefined;
  readonly jwksTtlSeconds: number;
  readonly jwksStaleSeconds: number;
  readonly jwksCooldownSeconds: number;
  readonly jwksTimeoutMs: number;
  readonly tokenCacheSize: number;
  readonly cacheSecrets: SealSecrets;
  readonly normalize: Normalization;
  readonly cacheTtlSeconds: number;
  readonly cacheStaleSeconds: number;
  readonly cacheErrorSeconds: number;
  readonly askedMax: number;
  readonly isolateAnswerBytesMax: number;
  readonly isolateQuestionBytesMax: number;
  readonly permitMs: number;
  readonly permitsMax: number;
  readonly plans: ReadonlyMap<string, Plan>;
  readonly answerTokensDefault: number;
  readonly corsOrigins: AllowedOrigins;
  /** Without a path; empty where the process is alone. */
  readonly siblings: readonly string[];
  readonly bodyBytesMax: number;
}

/**
 * Reads the bindings.
 *
 * @throws {KnobError} naming the variable that is missing or can't be used
 */
export function readEdgeConfig(env: Readonly<Record<string, unknown>>): EdgeConfig {
  const knobs = readKnobs(KNOBS, env);
  return Object.freeze({
    ...knobs,
    originSecret: required(KNOBS.originSecret.env, knobs.originSecret),
    cacheSecrets: sealSecrets(knobs),
    issuers: issuersOf(knobs),
    tokenEndpoint: tokenEndpoint(knobs),
    store:
      knobs.store === "memory"
        ? { kind: "memory", bytesMax: knobs.memoryBytesMax, bucketsMax: knobs.memoryBucketsMax }
        : {
            kind: "redis",
            restUrl: knobs.redisRestUrl,
            restToken: knobs.redisRestToken,
            timeoutMs: knobs.storeTimeoutMs,
            pendingMax: knobs.storePendingMax,
          },
  } satisfies EdgeConfig);
}

/** As browsers write them in `origin`: that of a page of the Web, or of an app or extension with a scheme of its own. */
function parseOrigins(text: string): AllowedOrigins {
  if (text === "*") return "*";
  if (text === "off") return [];
  return text.split(",").map((part) => {
    const origin = part.trim();
    const url = URL.parse(origin);
    // What has a scheme of its own has no origin by the URL standard; browsers put one together all the same.
    const own = url?.origin === "null" && url.host !== "" ? `${url.protocol}//${url.host}` : url?.origin;
    if (own === origin && !origin.includes("*")) return origin;
    throw new KnobError(
      `COLDPATH_CORS_ORIGINS must be *, off, or origins like https://chat.example.com without a path, not "${origin}"`,
    );
  });
}

function parseSibling(text: string): string {
  const url = URL.parse(text);
  if (url?.protocol === "http:" && url.pathname === "/") return url.origin;
  throw new KnobError(`COLDPATH_EDGE_SIBLINGS must hold URLs like http://127.0.0.1:9001, not "${text}"`);
}

function required(env: string, value: string | undefined): string {
  if (value === undefined) throw new KnobError(`${env} must be set`);
  return value;
}

function sealSecrets(knobs: KnobValues<typeof KNOBS>): SealSecrets {
  const current = required(KNOBS.cacheSecret.env, knobs.cacheSecret);
  const previous = knobs.cacheSecretPrevious;
  if (previous !== undefined && knobs.identitySecret === undefined) {
    throw new KnobError(
      "COLDPATH_CACHE_SECRET_PREVIOUS needs COLDPATH_IDENTITY_SECRET: set it to the first COLDPATH_CACHE_SECRET, which names the answers so far",
    );
  }
  return {
    current,
    previous: previous === undefined ? [] : [previous],
    identity: knobs.identitySecret ?? current,
  };
}

/** The one that the simple knobs describe, and the others. */
function issuersOf(knobs: KnobValues<typeof KNOBS>): readonly Issuer[] {
  const { jwtIssuer: issuer, jwtAudience: audience, jwksUrl } = knobs;
  const keys = [...[knobs.jwtSecret, knobs.jwtSecretPrevious].flatMap(secretKey), ...knobs.jwks];
  const own: readonly Issuer[] =
    keys.length === 0 && jwksUrl === undefined
      ? []
      : [{ issuer, audience, keys, jwksUrl, tenantPrefix: "", scopes: ["chat", "admin"] }];
  const others = knobs.issuers === undefined ? [] : parseIssuers(KNOBS.issuers.env, knobs.issuers, audience);
  const all = [...own, ...others];
  if (all.length === 0) {
    throw new KnobError("COLDPATH_JWT_SECRET, COLDPATH_JWKS, COLDPATH_JWKS_URL or COLDPATH_ISSUERS must be set");
  }
  const twice = all.find((one, index) => all.findIndex((other) => other.issuer === one.issuer) !== index);
  if (twice !== undefined) throw new KnobError(`COLDPATH_ISSUERS: ${twice.issuer} is there twice`);
  return all;
}

/** Its tokens are signed with the secret that this endpoint verifies them with. */
function tokenEndpoint(knobs: KnobValues<typeof KNOBS>): EdgeConfig["tokenEndpoint"] {
  const { clients, jwtIssuer: issuer, jwtAudience: audience, tokenSeconds } = knobs;
  if (clients === undefined) return undefined;
  if (knobs.jwtSecret === undefined)
    throw new KnobError("COLDPATH_CLIENTS needs COLDPATH_JWT_SECRET to sign tokens with");
  const attemptsPerMinute = knobs.tokenAttemptsPerMinute;
  return { clients, secret: knobs.jwtSecret, issuer, audience, tokenSeconds, attemptsPerMinute };
}

function secretKey(secret: string | undefined): readonly TokenKey[] {
  if (secret === undefined) return [];
  const jwk: JWK = { kty: "oct", k: base64Url(secret) };
  return [{ alg: "HS256", kid: undefined, jwk }];
}

function base64Url(secret: string): string {
  return encodeBase64Url(new TextEncoder().encode(secret).buffer);
}
