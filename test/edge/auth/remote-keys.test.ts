/** An issuer's published keys, as an attacker and a bad day meet them. */
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey, type JWK } from "jose";
import { beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createAuthenticate, type Authenticate } from "../../../edge/auth/authenticate.ts";
import { readEdgeConfig } from "../../../edge/config.ts";

interface Pair {
  readonly privateKey: CryptoKey;
  readonly jwk: JWK;
}

const URL_OF_KEYS = "https://idp.test/jwks.json";
const START_MS = Date.UTC(2026, 0, 1);

let one: Pair;
let two: Pair;
let rsa: Pair;

/** What the URL answers, and how often it was asked. */
let answer: (init: RequestInit) => Response | Promise<Response>;
let fetches: number;
let nowMs: number;
let background: Promise<unknown>[];

async function pair(alg: string, kid: string): Promise<Pair> {
  const { privateKey, publicKey } = await generateKeyPair(alg, { extractable: true });
  return { privateKey, jwk: { ...(await exportJWK(publicKey)), kid } };
}

beforeAll(async () => {
  one = await pair("ES256", "one");
  two = await pair("ES256", "two");
  rsa = await pair("RS256", "rsa");
});

beforeEach(() => {
  fetches = 0;
  nowMs = START_MS;
  background = [];
  answer = () => published(one);
});

function published(...pairs: readonly Pair[]): Response {
  return Response.json({ keys: pairs.map(({ jwk }) => jwk) });
}

function authenticator(bindings: Readonly<Record<string, string>> = {}): Authenticate {
  const config = readEdgeConfig({
    COLDPATH_ORIGIN_SECRET: "an origin secret of more than 32 bytes",
    COLDPATH_CACHE_SECRET: "a cache secret of more than 32 bytes",
    COLDPATH_STORE: "memory",
    COLDPATH_JWKS_URL: URL_OF_KEYS,
    COLDPATH_JWKS_TIMEOUT_MS: "200",
    ...bindings,
  });
  return createAuthenticate(config, "chat");
}

function asker() {
  return {
    platform: {
      now: () => nowMs,
      fetch: async (url: string, init: RequestInit): Promise<Response> => {
        expect(url).toBe(URL_OF_KEYS);
        fetches += 1;
        return answer(init);
      },
    },
    waitUntil: (work: Promise<unknown>) => void background.push(work),
  };
}

async function signed(
  { privateKey, jwk }: Pair,
  claims: Readonly<Record<string, unknown>> = {},
  header: Readonly<Record<string, string>> = {},
): Promise<string> {
  const all = { iss: "coldpath", aud: "coldpath", sub: "alice", scope: "chat", exp: nowMs / 1000 + 600, ...claims };
  const alg = jwk.kty === "RSA" ? "RS256" : "ES256";
  return new SignJWT(all).setProtectedHeader({ alg, kid: String(jwk.kid), ...header }).sign(privateKey);
}

async function outcome(check: Authenticate, token: string): Promise<string> {
  return check(`Bearer ${token}`, asker()).then(
    ({ subject }) => subject,
    (error: unknown) => (error as { readonly code: string }).code,
  );
}

describe("keys published at a URL", () => {
  it("are fetched once, and good for all that follow", async () => {
    const check = authenticator();
    for (const sub of ["alice", "bob"]) expect(await outcome(check, await signed(one, { sub }))).toBe(sub);
    expect(fetches).toBe(1);
  });

  it("are fetched by one of many that come at once; the others wait for what it brings", async () => {
    answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, 60));
      return published(one);
    };
    const check = authenticator();
    const tokens = await Promise.all(Array.from({ length: 20 }, (_, n) => signed(one, { sub: `s${n}` })));
    const outcomes = await Promise.all(tokens.map((token) => outcome(check, token)));
    expect(outcomes).toEqual(tokens.map((_, n) => `s${n}`));
    expect(fetches).toBe(1);
  });

  it("rotate: a new key's first token has them fetched again", async () => {
    const check = authenticator();
    await outcome(check, await signed(one));
    answer = () => published(one, two);
    nowMs += 31_000;
    expect(await outcome(check, await signed(two, { sub: "bob" }))).toBe("bob");
    expect(fetches).toBe(2);
  });

  it("are not fetched more than once per cool-down, however many ids are forged", async () => {
    const check = authenticator();
    await outcome(check, await signed(one));
    nowMs += 31_000;
    for (let n = 0; n < 50; n++) {
      expect(await outcome(check, await signed(two, {}, { kid: `forged-${n}` }))).toBe("invalid_token");
    }
    expect(fetches).toBe(2);
    // The known key goes on working meanwhile.
    expect(await outcome(check, await signed(one, { sub: "bob" }))).toBe("bob");
    nowMs += 31_000;
    await outcome(check, await signed(two, {}, { kid: "forged" }));
    expect(fetches).toBe(3);
  });

  it("are refreshed behind the requests once they are old, and a withdrawn key is then refused", async () => {
    const check = authenticator();
    const token = await signed(one, { exp: nowMs / 1000 + 86_400 });
    await outcome(check, token);
    answer = () => published(two);
    nowMs += 301_000;
    expect(await outcome(check, token)).toBe("alice");
    await Promise.all(background);
    expect(fetches).toBe(2);
    // Remembered as verified for no longer than the key set's own time.
    nowMs += 300_000;
    expect(await outcome(check, token)).toBe("invalid_token");
  });

  it("stay good while their URL is down, for as long as was stated", async () => {
    const check = authenticator({ COLDPATH_JWKS_STALE_SECONDS: "3600" });
    await outcome(check, await signed(one));
    answer = () => new Response("down", { status: 503 });
    nowMs += 3_800_000;
    expect(await outcome(check, await signed(one, { sub: "bob" }))).toBe("bob");
    await Promise.all(background);
    nowMs += 200_000;
    expect(await outcome(check, await signed(one, { sub: "carol" }))).toBe("issuer_unavailable");
    answer = () => published(one);
    nowMs += 1_100;
    expect(await outcome(check, await signed(one, { sub: "carol" }))).toBe("carol");
  });

  it.each<[string, (init: RequestInit) => Response | Promise<Response>]>([
    ["is refused", () => Promise.reject(new TypeError("connection refused"))],
    ["fails", () => new Response("oops", { status: 500 })],
    ["redirects", () => new Response(null, { status: 302, headers: { location: "https://evil.test/jwks.json" } })],
    ["answers garbage", () => new Response("<html>")],
    ["answers other JSON", () => Response.json({ keys: "none" })],
    ["publishes no key", () => Response.json({ keys: [] })],
    ["answers too much", () => new Response(`{"keys":[],"x":"${"x".repeat(200_000)}"}`)],
    [
      "never ends",
      ({ signal }) =>
        new Response(
          new ReadableStream({
            start: (controller) => signal?.addEventListener("abort", () => controller.error(signal.reason)),
          }),
        ),
    ],
    [
      "is silent",
      ({ signal }) =>
        new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason as Error))),
    ],
  ])("are named unavailable when the URL %s, and it is not asked again by every request", async (_, bad) => {
    answer = (init) => {
      expect(init.redirect).toBe("manual");
      return bad(init);
    };
    const check = authenticator();
    for (let n = 0; n < 5; n++) expect(await outcome(check, await signed(one))).toBe("issuer_unavailable");
    expect(fetches).toBe(1);
  });

  it("may have others among them that nobody here can use", async () => {
    const odd = [
      { kty: "EC", crv: "P-384", x: "a", y: "b" },
      { kty: "RSA", use: "enc", n: "AQAB", e: "AQAB", kid: "enc" },
      { kty: "EC", crv: "P-256", x: "not", y: "a point", kid: "one" },
      { kty: "quantum" },
    ];
    answer = () => Response.json({ keys: [...odd, one.jwk, { ...one.jwk, d: "private" }] });
    expect(await outcome(authenticator(), await signed(one))).toBe("alice");
  });

  it("may have two of one id, of which either is good", async () => {
    answer = () => Response.json({ keys: [{ ...two.jwk, kid: "one" }, one.jwk] });
    const check = authenticator();
    expect(await outcome(check, await signed(one))).toBe("alice");
    expect(await outcome(check, await signed(two, { sub: "bob" }, { kid: "one" }))).toBe("bob");
  });

  it("can hold no secret: a token signed with a published one, or with a public key as one, is refused unasked", async () => {
    const secret = btoa("x".repeat(40)).replaceAll("=", "");
    answer = () => Response.json({ keys: [{ kty: "oct", k: secret, kid: "one" }, rsa.jwk] });
    const check = authenticator();
    for (const guess of ["x".repeat(40), JSON.stringify(rsa.jwk), rsa.jwk.n ?? ""]) {
      for (const kid of ["one", "rsa", "../../dev/null", "https://evil.test/key"]) {
        const claims = { iss: "coldpath", aud: "coldpath", sub: "mallory", scope: "chat", exp: nowMs / 1000 + 60 };
        const token = await new SignJWT(claims)
          .setProtectedHeader({ alg: "HS256", kid })
          .sign(new TextEncoder().encode(guess));
        expect(await outcome(check, token)).toBe("invalid_token");
      }
    }
    expect(fetches).toBe(0);
    expect(await outcome(check, await signed(rsa))).toBe("alice");
  });

  it("are never looked for where the token says (jku, jwk, x5u)", async () => {
    const check = authenticator();
    const header = { jku: "https://evil.test/jwks.json", x5u: "https://evil.test/cert" };
    expect(await outcome(check, await signed(two, {}, { ...header, kid: "one" }))).toBe("invalid_token");
    expect(fetches).toBe(1);
  });
});

function twoIssuers(more: object = {}) {
  return {
    COLDPATH_JWKS_URL: "",
    COLDPATH_JWKS: JSON.stringify({ keys: [one.jwk] }),
    COLDPATH_ISSUERS: JSON.stringify([
      { issuer: "https://idp.test", jwksUrl: URL_OF_KEYS, audience: "chatbot", ...more },
    ]),
  };
}

describe("several issuers", () => {
  const theirs = { iss: "https://idp.test", aud: "chatbot" };

  it("are each believed with their own keys and audience only", async () => {
    answer = () => published(two);
    const check = authenticator(twoIssuers());
    expect(await outcome(check, await signed(one))).toBe("alice");
    expect(await outcome(check, await signed(two, theirs))).toBe("alice");
    expect(await outcome(check, await signed(two, { iss: "coldpath", aud: "coldpath" }, { kid: "one" }))).toBe(
      "invalid_token",
    );
    expect(await outcome(check, await signed(one, theirs))).toBe("invalid_token");
    expect(await outcome(check, await signed(two, { ...theirs, aud: "coldpath" }))).toBe("invalid_token");
    expect(await outcome(check, await signed(two, { ...theirs, iss: "https://idp.test/" }))).toBe("invalid_token");
  });

  it("can't speak for each other's tenants, nor for the operator, unless they were told so", async () => {
    answer = () => published(two);
    const token = `Bearer ${await signed(two, { ...theirs, tid: "acme", scope: "chat admin" })}`;
    expect((await authenticator(twoIssuers())(token, asker())).tenant).toBe("https://idp.test|acme");
    expect((await authenticator(twoIssuers({ tenantPrefix: "" }))(token, asker())).tenant).toBe("acme");
    expect(await outcome(authenticator(twoIssuers({ scopes: ["admin"] })), token.slice(7))).toBe("insufficient_scope");
  });

  it.each([
    ["{", "must be JSON"],
    ["{}", "issuers"],
    ['[{"issuer":""}]', "issuer"],
    ['[{"issuer":"a"}]', "jwks or jwksUrl"],
    ['[{"issuer":"a","jwksUrl":"http://idp.test/keys"}]', "https"],
    ['[{"issuer":"a","jwksUrl":"file:///etc/passwd"}]', "https"],
    ['[{"issuer":"a","jwks":{"keys":[]}}]', "JWKS"],
    ['[{"issuer":"coldpath","jwksUrl":"https://a.test"}]', "twice"],
    ['[{"issuer":"a","jwksUrl":"https://a.test","scope":"admin"}]', "scope"],
  ])("are refused with a sentence: %s", (text, named) => {
    expect(() => authenticator({ COLDPATH_ISSUERS: text })).toThrowError(new RegExp(`COLDPATH_ISSUERS.*${named}`));
  });
});
