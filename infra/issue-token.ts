/** Issues a client's JWT, signed with the local secret (HS256) or a key pair. Knows nothing of where they come from. */
import { randomUUID } from "node:crypto";
import { importJWK, type JWK, SignJWT } from "jose";
import type { Priority } from "../shared/edge-context.ts";
import { DEFAULT_AUDIENCE, DEFAULT_ISSUER, type Scope } from "../shared/token-claims.ts";
import type { SigningKey } from "./signing-keys.ts";

export interface TokenOptions {
  /** Whose token it is; the unit of limits. */
  readonly sub: string;
  /** Answers are shared inside it. Default: `sub`. */
  readonly tenant?: string | undefined;
  /** Default: `chat`. */
  readonly scope?: readonly Scope[] | undefined;
  /** The name of a plan. Default: `default`. */
  readonly plan?: string | undefined;
  /** Who goes first at a full origin. Default: `normal`. */
  readonly priority?: Priority | undefined;
  /** Default: one hour. */
  readonly expiresInSeconds?: number | undefined;
  /** By which it can be revoked. Default: a random one. */
  readonly jti?: string | undefined;
}

/** Who signs, and when. */
export interface Issuer {
  /** The secret, or a private key. */
  readonly secret: string | SigningKey;
  /** Unix seconds. */
  readonly nowSeconds: number;
  /** `iss` and `aud` as the edge expects them. */
  readonly issuer?: string | undefined;
  readonly audience?: string | undefined;
}

/** Signs a token with the claims of shared/token-claims.ts. */
export async function issueToken(options: TokenOptions, by: Issuer): Promise<string> {
  const { sub, tenant, scope = ["chat"], plan = "default", expiresInSeconds = 3_600, jti = randomUUID() } = options;
  const { secret } = by;
  const optional = {
    ...(tenant === undefined ? {} : { tid: tenant }),
    ...(options.priority === undefined ? {} : { priority: options.priority }),
  };
  const claims = new SignJWT({ scope: scope.join(" "), plan, ...optional })
    .setIssuer(by.issuer ?? DEFAULT_ISSUER)
    .setAudience(by.audience ?? DEFAULT_AUDIENCE)
    .setSubject(sub)
    .setJti(jti)
    .setIssuedAt(by.nowSeconds)
    .setExpirationTime(by.nowSeconds + expiresInSeconds);
  if (typeof secret === "string") {
    return claims.setProtectedHeader({ alg: "HS256", typ: "JWT" }).sign(new TextEncoder().encode(secret));
  }
  const { alg, kid, jwk } = secret;
  return claims.setProtectedHeader({ alg, kid, typ: "JWT" }).sign(await importJWK(jwk as JWK, alg));
}
