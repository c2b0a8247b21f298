/**
 * Who is asking: a bearer token becomes a caller with a tenant and a plan. Knows nothing of the request's body.
 *
 * Source: RFC 6750 (bearer tokens), RFC 7519 (JWT), RFC 8725 (JWT best current practices).
 */
import {
  decodeJwt,
  decodeProtectedHeader,
  errors,
  importJWK,
  jwtVerify,
  type JWTPayload,
  type ProtectedHeaderParameters,
} from "jose";
import * as z from "zod";
import { PRIORITIES, type Priority } from "../../shared/edge-context.ts";
import { ColdpathError } from "../../shared/errors.ts";
import type { Scope } from "../../shared/token-claims.ts";
import type { EdgeConfig } from "../config.ts";
import type { Issuer } from "./issuers.ts";
import { Lru } from "../../shared/lru.ts";
import { DEFAULT_PLAN, type Plan } from "./plans.ts";
import type { LimitScope } from "../regional/regional-store.ts";
import { type KeyAsker, RemoteKeys, type RemoteKeysSettings } from "./remote-keys.ts";
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
  /** The token's `jti`, by which it can be revoked; empty where it has none. */
  readonly tokenId: string;
}

export interface Authenticate {
  (authorization: string | null, asker: KeyAsker): Promise<Caller>;
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
  jti: name.optional(),
});

type VerifyKey = Awaited<ReturnType<typeof importJWK>>;
type Settings = Pick<EdgeConfig, "issuers" | "tokenCacheSize" | "plans"> & RemoteKeysSettings;

/**
 * Makes the step that turns an `authorization` header into a caller with the scope.
 *
 * The step throws {ColdpathError} `invalid_token`, `token_expired`, `insufficient_scope`, `unknown_plan` or
 * `issuer_unavailable`. Whether a token was revoked is the region's to say.
 */
export function createAuthenticate(settings: Settings, scope: Scope): Authenticate {
  const verified = new Lru<{ readonly caller: Caller; readonly expiresMs: number }>({
    weightMax: settings.tokenCacheSize,
  });
  const issuers = new Map(
    settings.issuers.map((issuer) => {
      const { jwksUrl } = issuer;
      const remote = jwksUrl === undefined ? undefined : new RemoteKeys(jwksUrl, settings);
      return [issuer.issuer, { ...issuer, remote }];
    }),
  );
  const imported = new WeakMap<TokenKey, VerifyKey>();

  const known: Authenticate["known"] = (authorization, nowMs) => {
    const found = authorization === null ? undefined : verified.get(authorization);
    return found !== undefined && nowMs < found.expiresMs ? found.caller : undefined;
  };
  const authenticate = async (authorization: string | null, asker: KeyAsker): Promise<Caller> => {
    const nowMs = asker.platform.now();
    const remembered = known(authorization, nowMs);
    if (remembered !== undefined) return remembered;

    const token = bearerToken(authorization);
    const { header, issuerName } = readUnverified(token);
    const issuer = issuers.get(issuerName);
    if (issuer === undefined) throw refused(claimMessage("iss"));
    const keys = await candidates(header, issuer, asker);
    const claims = await verify(token, keys, issuer, imported, nowMs);
    const caller = callerOf(claims, issuer, scope, settings.plans);
    // A key that its issuer withdrew is trusted no longer than the key set it was in.
    const trustedMs = issuer.remote === undefined ? Infinity : nowMs + settings.jwksTtlSeconds * 1000;
    verified.set(authorization ?? "", { caller, expiresMs: Math.min(claims.exp * 1000, trustedMs) });
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

/** What the token says of itself: it chooses whom to ask, and nothing of it is believed. */
function readUnverified(token: string): { readonly header: ProtectedHeaderParameters; readonly issuerName: string } {
  try {
    return { header: decodeProtectedHeader(token), issuerName: decodeJwt(token).iss ?? "" };
  } catch (cause) {
    throw refused("the token can't be read", cause);
  }
}

interface TrustedIssuer extends Issuer {
  readonly remote: RemoteKeys | undefined;
}

/** Keys that could have signed it: the token only chooses among what the keys themselves allow. */
async function candidates(
  header: ProtectedHeaderParameters,
  { keys, remote }: TrustedIssuer,
  asker: KeyAsker,
): Promise<readonly TokenKey[]> {
  const fits = (key: TokenKey): boolean =>
    key.alg === header.alg &&
    // A token or a key without an id goes with any.
    (header.kid === undefined || key.kid === undefined || key.kid === header.kid);
  const own = keys.filter(fits);
  // No published key signs with a secret: such a token is none of the URL's business.
  if (own.length > 0 || remote === undefined || header.alg === "HS256") return own;
  return remote.find(asker, fits);
}

async function verify(
  token: string,
  keys: readonly TokenKey[],
  issuer: Issuer,
  imported: WeakMap<TokenKey, VerifyKey>,
  nowMs: number,
): Promise<z.infer<typeof claimsSchema>> {
  for (const candidate of keys) {
    const key = imported.get(candidate) ?? (await importKey(candidate, imported));
    const payload = key === undefined ? undefined : await verifyWith(token, key, candidate, issuer, nowMs);
    if (payload === undefined) continue;
    const claims = claimsSchema.safeParse(payload);
    if (claims.success) return claims.data;
    throw refused(`the token's claim "${claims.error.issues[0]?.path.join(".") ?? ""}" is not valid`);
  }
  throw refused("the token is not signed by a key this endpoint trusts");
}

/** `undefined` for a key that only looks like one: an issuer's other keys are still good. */
async function importKey(key: TokenKey, imported: WeakMap<TokenKey, VerifyKey>): Promise<VerifyKey | undefined> {
  try {
    const made = await importJWK(key.jwk, key.alg);
    imported.set(key, made);
    return made;
  } catch {
    return undefined;
  }
}

/** The payload; `undefined` where this key did not sign it, so that the next may try. */
async function verifyWith(
  token: string,
  key: VerifyKey,
  { alg }: TokenKey,
  { issuer, audience }: Issuer,
  nowMs: number,
): Promise<JWTPayload | undefined> {
  try {
    const { payload } = await jwtVerify(token, key, {
      algorithms: [alg],
      issuer,
      audience,
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

function callerOf(
  claims: z.infer<typeof claimsSchema>,
  issuer: Issuer,
  scope: Scope,
  plans: ReadonlyMap<string, Plan>,
): Caller {
  if (!(claims.scope ?? "").split(" ").includes(scope) || !issuer.scopes.includes(scope)) {
    throw new ColdpathError("insufficient_scope", `the token lacks the scope "${scope}"`, {
      headers: { "www-authenticate": `Bearer error="insufficient_scope", scope="${scope}"` },
    });
  }
  const plan = plans.get(claims.plan ?? DEFAULT_PLAN);
  if (plan === undefined) throw new ColdpathError("unknown_plan", "the token's plan is not known to this endpoint");
  return {
    subject: claims.sub,
    tenant: issuer.tenantPrefix + (claims.tid ?? claims.sub),
    scopes: scopesOf(claims.sub, plan),
    priority: claims.priority ?? "normal",
    tokenId: claims.jti ?? "",
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
