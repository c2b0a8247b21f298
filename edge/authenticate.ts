/**
 * Who is asking: a bearer token becomes a caller with a tenant and a plan. Knows nothing of the request's body.
 *
 * Source: RFC 6750 (bearer tokens), RFC 7519 (JWT), RFC 8725 (JWT best current practices).
 */
import { decodeProtectedHeader, errors, importJWK, jwtVerify, type JWTPayload } from "jose";
import * as z from "zod";
import { PRIORITIES, type Priority } from "../shared/edge-context.ts";
import { ColdpathError } from "../shared/errors.ts";
import type { Scope } from "../shared/token-claims.ts";
import type { EdgeConfig } from "./config.ts";
import { Lru } from "./lru.ts";
import { DEFAULT_PLAN, type Plan } from "./plans.ts";
import type { LimitScope } from "./regional/regional-store.ts";
import type { TokenKey } from "./token-keys.ts";

/** A verified caller. */
export interface Caller {
  readonly subject: string;
  /** Answers are shared and encrypted inside it. */
  readonly tenant: string;
  /** The limits that must all agree before a request goes on: always its own, and its tenant's where the plan has them. */
  readonly scopes: readonly LimitScope[];
  /** Whose question the origin takes first when it can't take all. */
  readonly priority: Priority;
}

export interface Authenticate {
  (authorization: string | null, nowMs: number): Promise<Caller>;
  /** The caller of a header that this isolate verified before, as long as its token lives; asks and checks nothing. */
  known(authorization: string | null, nowMs: number): Caller | undefined;
}

/** Clocks of issuer and edge may differ by this much; more would keep expired tokens alive. */
const CLOCK_TOLERANCE_SECONDS = 5;
/** Bounds the work and the memory a forged token can cost. */
const TOKEN_CHARS_MAX = 8_192;

const name = z.string().min(1).max(256);
const claimsSchema = z.looseObject({
  exp: z.number(),
  sub: name,
  tid: name.optional(),
  scope: z.string().optional(),
  plan: z.string().optional(),
  priority: z.enum(PRIORITIES).optional(),
});

type VerifyKey = Awaited<ReturnType<typeof importJWK>>;
type Settings = Pick<EdgeConfig, "tokenKeys" | "jwtIssuer" | "jwtAudience" | "tokenCacheSize" | "plans">;

/**
 * Makes the step that turns an `authorization` header into a caller with the scope.
 *
 * The step throws {ColdpathError} `invalid_token`, `token_expired`, `insufficient_scope` or `unknown_plan`.
 */
export function createAuthenticate(settings: Settings, scope: Scope): Authenticate {
  const verified = new Lru<{ readonly caller: Caller; readonly expiresMs: number }>({
    weightMax: settings.tokenCacheSize,
  });
  const imported = new Map<TokenKey, VerifyKey>();

  const known: Authenticate["known"] = (authorization, nowMs) => {
    const found = authorization === null ? undefined : verified.get(authorization);
    return found !== undefined && nowMs < found.expiresMs ? found.caller : undefined;
  };
  const authenticate = async (authorization: string | null, nowMs: number): Promise<Caller> => {
    const remembered = known(authorization, nowMs);
    if (remembered !== undefined) return remembered;

    const token = bearerToken(authorization);
    const claims = await verify(token, settings, imported, nowMs);
    const caller = callerOf(claims, scope, settings.plans);
    verified.set(authorization ?? "", { caller, expiresMs: claims.exp * 1000 });
    return caller;
  };
  return Object.assign(authenticate, { known });
}

function bearerToken(authorization: string | null): string {
  if (authorization === null) throw refused("a bearer token is needed: authorization: Bearer <token>");
  const token = /^Bearer +([\w-]+\.[\w-]*\.[\w-]*)$/i.exec(authorization)?.[1];
  if (token === undefined) throw refused("the authorization header is not a bearer token in JWT form");
  if (token.length > TOKEN_CHARS_MAX) throw refused("the token is too long");
  return token;
}

async function verify(
  token: string,
  settings: Settings,
  imported: Map<TokenKey, VerifyKey>,
  nowMs: number,
): Promise<z.infer<typeof claimsSchema>> {
  for (const candidate of candidates(token, settings.tokenKeys)) {
    let key = imported.get(candidate);
    if (key === undefined) {
      key = await importJWK(candidate.jwk, candidate.alg);
      imported.set(candidate, key);
    }
    const payload = await verifyWith(token, key, candidate, settings, nowMs);
    if (payload === undefined) continue;
    const claims = claimsSchema.safeParse(payload);
    if (claims.success) return claims.data;
    throw refused(`the token's claim "${claims.error.issues[0]?.path.join(".") ?? ""}" is not valid`);
  }
  throw refused("the token is not signed by a key this endpoint trusts");
}

/** Keys that could have signed it: the token only chooses among what the keys themselves allow. */
function candidates(token: string, keys: readonly TokenKey[]): readonly TokenKey[] {
  let header: ReturnType<typeof decodeProtectedHeader>;
  try {
    header = decodeProtectedHeader(token);
  } catch (cause) {
    throw refused("the token's header can't be read", cause);
  }
  return keys.filter(
    (key) =>
      key.alg === header.alg &&
      // A token or a key without an id goes with any.
      (header.kid === undefined || key.kid === undefined || key.kid === header.kid),
  );
}

/** The payload; `undefined` where this key did not sign it, so that the next may try. */
async function verifyWith(
  token: string,
  key: VerifyKey,
  { alg }: TokenKey,
  settings: Settings,
  nowMs: number,
): Promise<JWTPayload | undefined> {
  try {
    const { payload } = await jwtVerify(token, key, {
      algorithms: [alg],
      issuer: settings.jwtIssuer,
      audience: settings.jwtAudience,
      requiredClaims: ["iss", "aud", "exp", "sub"],
      clockTolerance: CLOCK_TOLERANCE_SECONDS,
      currentDate: new Date(nowMs),
    });
    return payload;
  } catch (error) {
    if (error instanceof errors.JWSSignatureVerificationFailed) return undefined;
    if (error instanceof errors.JWTExpired) {
      throw new ColdpathError("token_expired", "the token has expired", { cause: error, headers: CHALLENGE });
    }
    if (error instanceof errors.JWTClaimValidationFailed) {
      throw refused(claimMessage(error.claim), error);
    }
    throw refused("the token can't be verified", error);
  }
}

function claimMessage(claim: string): string {
  if (claim === "nbf") return "the token is not valid yet";
  return `the token's claim "${claim}" is missing or not the one this endpoint expects`;
}

function callerOf(claims: z.infer<typeof claimsSchema>, scope: Scope, plans: ReadonlyMap<string, Plan>): Caller {
  if (!(claims.scope ?? "").split(" ").includes(scope)) {
    throw new ColdpathError("insufficient_scope", `the token lacks the scope "${scope}"`, {
      headers: { "www-authenticate": `Bearer error="insufficient_scope", scope="${scope}"` },
    });
  }
  const plan = plans.get(claims.plan ?? DEFAULT_PLAN);
  if (plan === undefined) throw new ColdpathError("unknown_plan", "the token's plan is not known to this endpoint");
  return {
    subject: claims.sub,
    tenant: claims.tid ?? claims.sub,
    scopes: scopesOf(claims.sub, plan),
    priority: claims.priority ?? "normal",
  };
}

function scopesOf(subject: string, plan: Plan): readonly LimitScope[] {
  const own: LimitScope = { name: "subject", id: subject, limits: plan };
  return plan.tenant === undefined ? [own] : [own, { name: "tenant", id: "", limits: plan.tenant }];
}

const CHALLENGE = { "www-authenticate": 'Bearer error="invalid_token"' };

function refused(message: string, cause?: unknown): ColdpathError {
  return new ColdpathError("invalid_token", message, { cause, headers: CHALLENGE });
}
