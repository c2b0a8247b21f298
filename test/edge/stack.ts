/** An edge with everything around it, for tests: its own tenant, a fake origin, a clock, and either regional store. */
import { SignJWT } from "jose";
import { inject } from "vitest";
import { readEdgeConfig } from "../../edge/config.ts";
import type { Platform } from "../../edge/platform/platform.ts";
import { createWebCrypto } from "../../edge/platform/web-crypto.ts";
import { openWebOrigin } from "../../edge/platform/web-origin.ts";
import { openRedisRest } from "../../edge/platform/redis-rest.ts";
import { createEdge } from "../../edge/worker.ts";
import type { ErrorEnvelope } from "../../shared/errors.ts";
import { FakeOrigin, ORIGIN_SECRET } from "./fake-origin.ts";

// What `test/setup/redis.ts` provides; that file is Node's and can't be imported here.
declare module "vitest" {
  interface ProvidedContext {
    readonly redisRest: { readonly url: string; readonly token: string };
  }
}

export type StoreKind = "memory" | "redis";
export const STORES = ["memory", "redis"] as const;

const JWT_SECRET = "a token secret of more than 32 bytes";
const ORIGIN_URL = "http://origin.test";

const randomBytes: Platform["randomBytes"] = (length) => crypto.getRandomValues(new Uint8Array(length));

interface StackOptions {
  readonly store?: StoreKind;
  readonly bindings?: Readonly<Record<string, string>>;
  /** Stands between the edge and the store's address. */
  readonly storeFetch?: Platform["fetch"];
}

/** One edge; its tenants are new to the shared Redis, so tests can't meet each other there. */
export function createStack({ store = "memory", bindings = {}, storeFetch }: StackOptions = {}) {
  const redisRest = inject("redisRest");
  const origin = new FakeOrigin();
  const logs: Record<string, unknown>[] = [];
  const background: Promise<unknown>[] = [];
  const clock = { offsetMs: 0 };
  const network = storeFetch ?? ((url: string, init: RequestInit) => fetch(url, init));
  const platform: Platform = {
    fetch: (url, init) => (url.startsWith(ORIGIN_URL) ? origin.fetch(url, init) : network(url, init)),
    now: () => Date.now() + clock.offsetMs,
    randomBytes,
    randomId: () => crypto.randomUUID(),
    log: (line) => void logs.push(JSON.parse(line) as Record<string, unknown>),
    crypto: createWebCrypto({ randomBytes }),
    openRedis: (options) => openRedisRest(platform, options),
    openOrigin: (url) => openWebOrigin(platform, url),
  };
  const env = {
    COLDPATH_ORIGIN_URL: ORIGIN_URL,
    COLDPATH_ORIGIN_SECRET: ORIGIN_SECRET,
    COLDPATH_CACHE_SECRET: "a cache secret of more than 32 bytes",
    COLDPATH_JWT_SECRET: JWT_SECRET,
    COLDPATH_STORE: store,
    COLDPATH_REDIS_REST_URL: redisRest.url,
    COLDPATH_REDIS_REST_TOKEN: redisRest.token,
    COLDPATH_STORE_TIMEOUT_MS: "5000",
    ...bindings,
  };
  // A second edge with the same settings is another isolate: same stores, no memory of this one's.
  const newIsolate = () => createEdge(readEdgeConfig(env), platform);
  const waitUntil = (work: Promise<unknown>): void => void background.push(work.catch(() => undefined));
  const edge = newIsolate();
  const tenant = `tenant-${crypto.randomUUID()}`;

  return {
    origin,
    logs,
    clock,
    tenant,
    newIsolate,
    waitUntil,
    fetch: (incoming: Request) => edge.fetch(incoming, waitUntil),
    /** Until nothing runs behind a response any more. */
    settled: async (): Promise<void> => {
      for (let seen = 0; seen < background.length;) {
        seen = background.length;
        await Promise.all(background);
      }
    },
  };
}

export type Stack = ReturnType<typeof createStack>;

/** The same for every token of a file: a client that asks twice has one token, also where a second passes in between. */
const EXPIRES_AT = Math.floor(Date.now() / 1000) + 600;

/** A token as the command line issues it. */
export function token(claims: Readonly<Record<string, unknown>>, secret = JWT_SECRET): Promise<string> {
  const all = { iss: "coldpath", aud: "coldpath", scope: "chat", exp: EXPIRES_AT, ...claims };
  return new SignJWT(all).setProtectedHeader({ alg: "HS256" }).sign(new TextEncoder().encode(secret));
}

interface AskOptions {
  readonly path?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly claims?: Readonly<Record<string, unknown>>;
  readonly signal?: AbortSignal;
}

/** The request of a client of the stack's own tenant. */
export async function request(stack: Stack, body: unknown, options: AskOptions = {}): Promise<Request> {
  const { path = "/v1/chat/completions", headers = {}, claims = {}, signal } = options;
  const bearer = await token({ sub: "alice", tid: stack.tenant, ...claims });
  return new Request(`http://edge.test${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json", ...headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });
}

export async function ask(stack: Stack, body: unknown, options: AskOptions = {}): Promise<Response> {
  return stack.fetch(await request(stack, body, options));
}

/** A chat of one message. */
export function chat(content: string, fields: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return { model: "tiny", messages: [{ role: "user", content }], ...fields };
}

/** An error's envelope. */
export async function errorOf(response: Response): Promise<ErrorEnvelope["error"]> {
  return (await response.json<ErrorEnvelope>()).error;
}
