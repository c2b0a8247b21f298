import { describe, expect, it } from "vitest";
import { readEdgeConfig } from "../../edge/config.ts";

const complete = {
  COLDPATH_ORIGIN_SECRET: "an origin secret of more than 32 bytes",
  COLDPATH_CACHE_SECRET: "a cache secret of more than 32 bytes",
  COLDPATH_JWT_SECRET: "a token secret of more than 32 bytes",
  COLDPATH_REDIS_REST_TOKEN: "token",
};
const rsa = { kty: "RSA", n: "AQAB", e: "AQAB" };

describe("the settings", () => {
  it("need only the secrets", () => {
    const config = readEdgeConfig(complete);
    expect(config.store).toMatchObject({ kind: "redis", restUrl: "http://127.0.0.1:8901" });
    expect(config.plans.get("default")).toEqual({ requestsPerMinute: 60, tokensPerMinute: 60_000, streamsMax: 8 });
  });

  it.each([
    ["COLDPATH_ORIGIN_SECRET", undefined],
    ["COLDPATH_ORIGIN_SECRET", "short"],
    ["COLDPATH_CACHE_SECRET", undefined],
    ["COLDPATH_JWT_SECRET", undefined],
    ["COLDPATH_JWT_SECRET", "short"],
    ["COLDPATH_CACHE_SECRET_PREVIOUS", "short"],
    ["COLDPATH_IDENTITY_SECRET", "short"],
    ["COLDPATH_ORIGIN_URL", "127.0.0.1:8900"],
    ["COLDPATH_STORE", "postgres"],
    ["COLDPATH_LIMITER_FAILS", "ajar"],
    ["COLDPATH_BODY_BYTES_MAX", "1 MB"],
    ["COLDPATH_CACHE_TTL_SECONDS", "0"],
    ["COLDPATH_PLANS", "{"],
    ["COLDPATH_PLANS", '{"pro":{"requestsPerMinute":0,"tokensPerMinute":1,"streamsMax":1}}'],
    ["COLDPATH_PLANS", '{"pro":{"requestsPerMinute":1,"tokensPerMinute":1,"streamsMax":1,"typo":1}}'],
    ["COLDPATH_CLIENTS", "{"],
    ["COLDPATH_CLIENTS", '{"app":{"secretSha256":"the secret itself"}}'],
    ["COLDPATH_CLIENTS", '{"app":{"secret":"the secret itself"}}'],
    ["COLDPATH_TOKEN_ATTEMPTS_PER_MINUTE", "0"],
    ["COLDPATH_JWKS", "{"],
    ["COLDPATH_JWKS", '{"keys":[]}'],
    ["COLDPATH_JWKS", '{"keys":[{"kty":"oct","k":"c2hvcnQ"}]}'],
    ["COLDPATH_JWKS", JSON.stringify({ keys: [{ ...rsa, alg: "HS256" }] })],
    ["COLDPATH_JWKS", JSON.stringify({ keys: [{ ...rsa, use: "enc" }] })],
    ["COLDPATH_JWKS", JSON.stringify({ keys: [{ ...rsa, d: "private" }] })],
    ["COLDPATH_JWKS", '{"keys":[{"kty":"EC","crv":"P-384","x":"a","y":"b"}]}'],
  ])("are refused with the variable's name: %s = %s", (name, value) => {
    const env = { ...complete, [name]: value };
    expect(() => readEdgeConfig(env)).toThrowError(new RegExp(name === "COLDPATH_JWT_SECRET" ? "JWT_SECRET" : name));
  });

  it("take a previous cache secret only together with the one that goes on naming the answers", () => {
    const previous = { ...complete, COLDPATH_CACHE_SECRET_PREVIOUS: "the former cache secret of 32 bytes" };
    expect(() => readEdgeConfig(previous)).toThrowError(/COLDPATH_IDENTITY_SECRET/);
    const { cacheSecrets } = readEdgeConfig({ ...previous, COLDPATH_IDENTITY_SECRET: complete.COLDPATH_CACHE_SECRET });
    expect(cacheSecrets).toEqual({
      current: complete.COLDPATH_CACHE_SECRET,
      previous: ["the former cache secret of 32 bytes"],
      identity: complete.COLDPATH_CACHE_SECRET,
    });
  });

  it("never show a key they refuse", () => {
    const secret = "c2VjcmV0";
    const env = { ...complete, COLDPATH_JWKS: `{"keys":[{"kty":"oct","k":"${secret}"}]` };
    expect(() => readEdgeConfig(env)).toThrowError(
      expect.not.objectContaining({ message: expect.stringContaining(secret) }),
    );
  });

  it("add plans to the shipped ones, and replace one by name", () => {
    const small = { requestsPerMinute: 1, tokensPerMinute: 2, streamsMax: 3 };
    const { plans } = readEdgeConfig({ ...complete, COLDPATH_PLANS: JSON.stringify({ default: small, pro: small }) });
    expect([plans.get("default"), plans.get("pro")]).toEqual([small, small]);
    expect(plans.has("bench")).toBe(true);
  });

  it("are enough with a JWKS alone", () => {
    const { COLDPATH_JWT_SECRET: _, ...rest } = complete;
    const k = "YSB0b2tlbiBzZWNyZXQgb2YgbW9yZSB0aGFuIDMyIGJ5dGVz";
    const config = readEdgeConfig({ ...rest, COLDPATH_JWKS: JSON.stringify({ keys: [{ kty: "oct", k, kid: "1" }] }) });
    expect(config.issuers).toMatchObject([{ issuer: "coldpath", keys: [{ alg: "HS256", kid: "1" }] }]);
  });
});
