/**
 * Who may issue tokens. Each issuer has its own keys, audience and reach: one issuer's key says nothing about another's
 * tokens, and none can speak for a tenant of another's unless the operator lets it. Verifies nothing.
 */
import * as z from "zod";
import { KnobError } from "../../shared/knobs.ts";
import type { Scope } from "../../shared/token-claims.ts";
import { parseTokenKeys, type TokenKey } from "./token-keys.ts";

export interface Issuer {
  /** The `iss` of its tokens. */
  readonly issuer: string;
  /** The `aud` they must name. */
  readonly audience: string;
  readonly keys: readonly TokenKey[];
  /** Where it publishes keys; beside `keys`. */
  readonly jwksUrl: string | undefined;
  /** Comes before each tenant it names. */
  readonly tenantPrefix: string;
  /** What its tokens may allow at most. */
  readonly scopes: readonly Scope[];
}

const schema = z.array(
  z.strictObject({
    issuer: z.string().min(1),
    audience: z.string().min(1).optional(),
    jwks: z.looseObject({}).optional(),
    jwksUrl: z.string().optional(),
    tenantPrefix: z.string().max(128).optional(),
    scopes: z.array(z.enum(["chat", "admin"])).optional(),
  }),
);

/**
 * Reads further issuers from JSON. What they don't say is the careful side: tenants under the issuer's own name, no admin.
 *
 * @param audience - where one names none
 * @throws {KnobError} naming `env` and the issuer
 */
export function parseIssuers(env: string, text: string, audience: string): readonly Issuer[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The cause would quote the text, which may hold a secret key.
    throw new KnobError(`${env} must be JSON`);
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new KnobError(`${env}: ${issue?.path.join(".") || "issuers"}: ${issue?.message ?? "is not valid"}`);
  }
  return parsed.data.map(({ jwks, jwksUrl, ...entry }) => {
    const { issuer } = entry;
    const where = `${env}: ${issuer}`;
    if (jwks === undefined && jwksUrl === undefined) throw new KnobError(`${where}: jwks or jwksUrl must be set`);
    return {
      issuer,
      audience: entry.audience ?? audience,
      keys: jwks === undefined ? [] : parseTokenKeys(where, JSON.stringify(jwks)),
      jwksUrl: jwksUrl === undefined ? undefined : parseJwksUrl(where, jwksUrl),
      tenantPrefix: entry.tenantPrefix ?? `${issuer}|`,
      scopes: entry.scopes ?? ["chat"],
    };
  });
}

/** Keys that came over plain HTTP could be anybody's; on this machine itself they can't. */
export function parseJwksUrl(env: string, text: string): string {
  const url = URL.parse(text);
  const local = url !== null && ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  if (url?.protocol === "https:" || (url?.protocol === "http:" && local)) return text;
  throw new KnobError(`${env} must be an https:// URL (http:// only on this machine itself), not "${text}"`);
}
