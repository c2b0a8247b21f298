/** Issues a client's JWT, signed with the local secret (HS256). Knows nothing of where the secret comes from. */
import { randomUUID } from "node:crypto";
import { SignJWT } from "jose";
import type { Priority } from "../shared/edge-context.ts";
import { DEFAULT_AUDIENCE, DEFAULT_ISSUER, type Scope } from "../shared/token-claims.ts";

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
}

/** Who signs, and when. */
export interface Issuer {
  readonly secret: string;
  /** Unix seconds. */
  readonly nowSeconds: number;
  /** `iss` and `aud` as the edge expects them. */
  readonly issuer?: string | undefined;
  readonly audience?: string | undefined;
}

/** Signs a token with the claims of shared/token-claims.ts. */
export function issueToken(options: TokenOptions, by: Issuer): Promise<string> {
  const { sub, tenant, scope = ["chat"], plan = "default", priority, expiresInSeconds = 3_600 } = options;
  const optional = {
    ...(tenant === undefined ? {} : { tid: tenant }),
    ...(priority === undefined ? {} : { priority }),
  };
  return new SignJWT({ scope: scope.join(" "), plan, ...optional })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setIssuer(by.issuer ?? DEFAULT_ISSUER)
    .setAudience(by.audience ?? DEFAULT_AUDIENCE)
    .setSubject(sub)
    .setJti(randomUUID())
    .setIssuedAt(by.nowSeconds)
    .setExpirationTime(by.nowSeconds + expiresInSeconds)
    .sign(new TextEncoder().encode(by.secret));
}
