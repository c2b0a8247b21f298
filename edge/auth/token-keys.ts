/**
 * The keys that may sign tokens. Each is pinned to one algorithm by what the key is, never by what a token says: an RSA
 * public key can't become an HMAC secret (RFC 8725, section 3.1). Verifies nothing itself.
 */
import type { JWK } from "jose";
import * as z from "zod";
import { decodeBase64Url } from "hono/utils/encode";
import { KnobError } from "../../shared/knobs.ts";

export type TokenAlgorithm = "HS256" | "ES256" | "EdDSA" | "RS256";

/** One key and the only algorithm it verifies. */
export interface TokenKey {
  readonly alg: TokenAlgorithm;
  readonly kid: string | undefined;
  readonly jwk: JWK;
}

const SECRET_BYTES_MIN = 32;

const jwkSchema = z.looseObject({
  kty: z.string(),
  kid: z.string().optional(),
  alg: z.string().optional(),
  use: z.string().optional(),
  crv: z.string().optional(),
  k: z.string().optional(),
});
const jwksSchema = z.looseObject({ keys: z.array(jwkSchema).min(1) });

/**
 * Reads a JWKS (RFC 7517).
 *
 * @param env - the variable it came from, for the error
 * @throws {KnobError} at a key that can't be used, without showing it
 */
export function parseTokenKeys(env: string, text: string): readonly TokenKey[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    // The cause would quote the text, which may hold a secret key.
    throw new KnobError(`${env} must be a JWKS as JSON`);
  }
  const parsed = jwksSchema.safeParse(json);
  if (!parsed.success) throw new KnobError(`${env} must be a JWKS: {"keys":[…]}`);
  return parsed.data.keys.map((jwk, index) => {
    const alg = algorithmOf(jwk);
    if (alg === undefined) throw new KnobError(`${env}: key ${index} is none of HS256, ES256, EdDSA, RS256`);
    if (jwk.alg !== undefined && jwk.alg !== alg) throw new KnobError(`${env}: key ${index} can't do ${jwk.alg}`);
    if ("d" in jwk) throw new KnobError(`${env}: key ${index} is a private key; the edge needs only the public one`);
    if (alg === "HS256" && decodeBase64Url(jwk.k ?? "").length < SECRET_BYTES_MIN) {
      throw new KnobError(`${env}: key ${index} must be at least ${SECRET_BYTES_MIN} bytes long`);
    }
    return { alg, kid: jwk.kid, jwk: jwk as JWK };
  });
}

/** Most keys one issuer may publish; each may cost a token of unknown key id one try. */
const PUBLISHED_KEYS_MAX = 100;

/**
 * Reads a JWKS that an issuer publishes, for itself and others: what is of no use here is left out, and so is every
 * symmetric key, because a published secret is none.
 *
 * @throws {Error} where it is no JWKS, or has no usable key
 */
export function readPublicKeys(text: string): readonly TokenKey[] {
  const { keys } = jwksSchema.parse(JSON.parse(text));
  const usable = keys.flatMap((jwk): TokenKey[] => {
    const alg = algorithmOf(jwk);
    if (alg === undefined || alg === "HS256" || (jwk.alg !== undefined && jwk.alg !== alg) || "d" in jwk) return [];
    return [{ alg, kid: jwk.kid, jwk: jwk as JWK }];
  });
  if (usable.length === 0) throw new Error("the issuer publishes no usable key");
  return usable.slice(0, PUBLISHED_KEYS_MAX);
}

function algorithmOf(jwk: z.infer<typeof jwkSchema>): TokenAlgorithm | undefined {
  if (jwk.use !== undefined && jwk.use !== "sig") return undefined;
  if (jwk.kty === "oct") return "HS256";
  if (jwk.kty === "RSA") return "RS256";
  if (jwk.kty === "EC" && jwk.crv === "P-256") return "ES256";
  if (jwk.kty === "OKP" && jwk.crv === "Ed25519") return "EdDSA";
  return undefined;
}
