import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT, type CryptoKey, type JWK } from "jose";
import { beforeAll, describe, expect, it } from "vitest";
import { createAuthenticate } from "../../../edge/auth/authenticate.ts";
import { readEdgeConfig } from "../../../edge/config.ts";
import type { TokenAlgorithm } from "../../../edge/auth/token-keys.ts";

const SECRET = "a token secret of more than 32 bytes";
const nowMs = Date.UTC(2026, 0, 1);
const now = nowMs / 1000;
const good = { iss: "coldpath", aud: "coldpath", sub: "alice", exp: now + 60, scope: "chat" };

const keys: Partial<Record<TokenAlgorithm, { readonly privateKey: CryptoKey; readonly jwk: JWK }>> = {};

beforeAll(async () => {
  for (const alg of ["ES256", "EdDSA", "RS256"] as const) {
    const pair = await generateKeyPair(alg, { extractable: true });
    keys[alg] = { privateKey: pair.privateKey, jwk: { ...(await exportJWK(pair.publicKey)), kid: alg } };
  }
});

function authenticator(bindings: Readonly<Record<string, string>> = { COLDPATH_JWT_SECRET: SECRET }) {
  const config = readEdgeConfig({
    COLDPATH_ORIGIN_SECRET: "an origin secret of more than 32 bytes",
    COLDPATH_CACHE_SECRET: "a cache secret of more than 32 bytes",
    COLDPATH_STORE: "memory",
    ...bindings,
  });
  const check = createAuthenticate(config, "chat");
  return (authorization: string | null, atMs: number) =>
    check(authorization, { platform: { fetch: unreachable, now: () => atMs }, waitUntil: () => {} });
}

const unreachable = async (): Promise<Response> => {
  throw new TypeError("nobody is to be asked");
};

function jwks(): string {
  return JSON.stringify({ keys: Object.values(keys).map(({ jwk }) => jwk) });
}

function hs256(claims: Readonly<Record<string, unknown>>, secret = SECRET): Promise<string> {
  return new SignJWT(claims).setProtectedHeader({ alg: "HS256" }).sign(new TextEncoder().encode(secret));
}

/** As a JWK writes a secret. */
function encoded(secret: string): string {
  return btoa(secret).replaceAll("=", "").replaceAll("+", "-").replaceAll("/", "_");
}

async function codeOf(attempt: Promise<unknown>): Promise<string> {
  const error = await attempt.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  return error instanceof Error && "code" in error ? String(error.code) : "accepted";
}

describe("a token", () => {
  it("makes its subject the tenant where it names none", async () => {
    const caller = await authenticator()(`Bearer ${await hs256(good)}`, nowMs);
    expect(caller).toMatchObject({
      subject: "alice",
      tenant: "alice",
      scopes: [{ limits: { requestsPerMinute: 60 } }],
    });
  });

  it("names tenant, plan and several scopes", async () => {
    const token = await hs256({ ...good, tid: "acme", plan: "bench", scope: "admin chat" });
    const caller = await authenticator()(`bearer  ${token}`, nowMs);
    expect(caller).toMatchObject({
      subject: "alice",
      tenant: "acme",
      scopes: [{ limits: { requestsPerMinute: 1e9 } }],
    });
  });

  it.each(["ES256", "EdDSA", "RS256"] as const)("is accepted when a JWKS key signed it with %s", async (alg) => {
    const pair = keys[alg];
    if (pair === undefined) throw new Error("no key");
    const signed = new SignJWT(good).setProtectedHeader({ alg, kid: alg });
    const caller = await authenticator({ COLDPATH_JWKS: jwks() })(
      `Bearer ${await signed.sign(pair.privateKey)}`,
      nowMs,
    );
    expect(caller.subject).toBe("alice");
  });

  it("says whose question goes first: normal, unless it names another priority", async () => {
    const check = authenticator();
    for (const priority of [undefined, "high", "normal", "low"]) {
      const caller = await check(`Bearer ${await hs256({ ...good, priority })}`, nowMs);
      expect(caller.priority).toBe(priority ?? "normal");
    }
  });

  it("is checked against every key of its algorithm where neither names an id", async () => {
    const other = "another token secret of more than 32 bytes";
    const COLDPATH_JWKS = JSON.stringify({
      keys: [
        { kty: "oct", k: encoded(SECRET) },
        { kty: "oct", k: encoded(other) },
      ],
    });
    const check = authenticator({ COLDPATH_JWKS });
    expect((await check(`Bearer ${await hs256(good, other)}`, nowMs)).subject).toBe("alice");
    expect((await check(`Bearer ${await hs256(good, SECRET)}`, nowMs)).subject).toBe("alice");
  });

  const refusals: readonly [string, string, () => Promise<string> | string][] = [
    ["expired", "token_expired", () => hs256({ ...good, exp: now - 6 })],
    ["not valid yet", "invalid_token", () => hs256({ ...good, nbf: now + 60 })],
    ["for another audience", "invalid_token", () => hs256({ ...good, aud: "elsewhere" })],
    ["by another issuer", "invalid_token", () => hs256({ ...good, iss: "elsewhere" })],
    ["signed by another key", "invalid_token", () => hs256(good, "another token secret of more than 32 bytes")],
    ["without a subject", "invalid_token", () => hs256({ ...good, sub: undefined })],
    ["with an empty subject", "invalid_token", () => hs256({ ...good, sub: "" })],
    ["with an empty tenant", "invalid_token", () => hs256({ ...good, tid: "" })],
    ["with a number for a tenant", "invalid_token", () => hs256({ ...good, tid: 7 })],
    ["with a priority nobody knows", "invalid_token", () => hs256({ ...good, priority: "urgent" })],
    ["without an expiry", "invalid_token", () => hs256({ ...good, exp: undefined })],
    ["without an issuer", "invalid_token", () => hs256({ ...good, iss: undefined })],
    ["without an audience", "invalid_token", () => hs256({ ...good, aud: undefined })],
    ["without the scope", "insufficient_scope", () => hs256({ ...good, scope: "admin" })],
    ["with a scope that only begins like it", "insufficient_scope", () => hs256({ ...good, scope: "chatter" })],
    ["without any scope", "insufficient_scope", () => hs256({ ...good, scope: undefined })],
    ["of an unknown plan", "unknown_plan", () => hs256({ ...good, plan: "gold" })],
    ["of a plan named like a method", "unknown_plan", () => hs256({ ...good, plan: "constructor" })],
    ["unsigned (alg none)", "invalid_token", () => new UnsecuredJWT(good).encode()],
    [
      "with a changed payload",
      "invalid_token",
      async () => {
        const [header, , signature] = (await hs256(good)).split(".");
        return `${header}.${btoa(JSON.stringify({ ...good, sub: "mallory" })).replaceAll("=", "")}.${signature}`;
      },
    ],
    [
      "with a critical header nobody knows",
      "invalid_token",
      () =>
        new SignJWT(good)
          .setProtectedHeader({ alg: "HS256", crit: ["exotic"], exotic: true })
          .sign(new TextEncoder().encode(SECRET), { crit: { exotic: true } }),
    ],
    ["that is longer than any real one", "invalid_token", () => hs256({ ...good, padding: "x".repeat(9_000) })],
  ];
  it.each(refusals)("is refused when it is %s", async (_, code, make) => {
    expect(await codeOf(authenticator()(`Bearer ${await make()}`, nowMs))).toBe(code);
  });

  it("is refused when the RSA public key was used as an HMAC secret (algorithm confusion)", async () => {
    const jwk = keys.RS256?.jwk;
    const guesses = [JSON.stringify(jwk), jwk?.n ?? "", JSON.stringify({ keys: [jwk] })];
    const check = authenticator({ COLDPATH_JWKS: jwks() });
    for (const guess of guesses) {
      for (const kid of [undefined, "RS256"]) {
        const header = kid === undefined ? { alg: "HS256" } : { alg: "HS256", kid };
        const token = await new SignJWT(good).setProtectedHeader(header).sign(new TextEncoder().encode(guess));
        expect(await codeOf(check(`Bearer ${token}`, nowMs))).toBe("invalid_token");
      }
    }
  });

  it("is refused when its algorithm is not its key's, though the key is known", async () => {
    const pair = keys.RS256;
    if (pair === undefined) throw new Error("no key");
    const privateJwk = await exportJWK(pair.privateKey);
    const token = await new SignJWT(good).setProtectedHeader({ alg: "RS512", kid: "RS256" }).sign(privateJwk);
    expect(await codeOf(authenticator({ COLDPATH_JWKS: jwks() })(`Bearer ${token}`, nowMs))).toBe("invalid_token");
  });

  it("is remembered, but not past its expiry", async () => {
    const check = authenticator();
    const header = `Bearer ${await hs256(good)}`;
    expect((await check(header, nowMs)).subject).toBe("alice");
    expect((await check(header, nowMs + 59_000)).subject).toBe("alice");
    expect(await codeOf(check(header, nowMs + 66_000))).toBe("token_expired");
  });

  it("tolerates clocks that differ by a few seconds, and no more", async () => {
    const check = authenticator();
    expect((await check(`Bearer ${await hs256({ ...good, nbf: now + 4 })}`, nowMs)).subject).toBe("alice");
    expect((await check(`Bearer ${await hs256({ ...good, exp: now - 4 })}`, nowMs)).subject).toBe("alice");
  });
});

describe("an authorization header", () => {
  it.each([
    ["missing", null],
    ["empty", ""],
    ["of another scheme", "Basic YWxpY2U6cHc="],
    ["without a token", "Bearer "],
    ["with an OpenAI key", "Bearer sk-1234567890"],
    ["with two tokens", "Bearer a.b.c d.e.f"],
    ["with garbage in three parts", "Bearer a.b.c"],
    ["with an encrypted token of five parts", "Bearer a.b.c.d.e"],
  ])("is refused when it is %s", async (_, header) => {
    expect(await codeOf(authenticator()(header, nowMs))).toBe("invalid_token");
  });
});
