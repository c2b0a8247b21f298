/**
 * The key pairs that tokens are signed with, where a shared secret is not enough: private keys stay in the state folder,
 * edges get the public ones as a JWKS. Rotation is adding one: the newest signs, the others verify until they are taken
 * away. Knows nothing of tokens.
 *
 * Source: RFC 7517 (JWK), RFC 7638 (thumbprints as key ids).
 */
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { calculateJwkThumbprint, exportJWK, generateKeyPair, type JWK } from "jose";
import { z } from "zod";
import { LaunchFailure } from "./launch/failure.ts";

export const SIGNING_ALGORITHMS = ["EdDSA", "ES256"] as const;
export type SigningAlgorithm = (typeof SIGNING_ALGORITHMS)[number];

const schema = z.array(
  z.object({
    kid: z.string(),
    alg: z.enum(SIGNING_ALGORITHMS),
    /** Unix seconds. */
    createdAt: z.int(),
    /** Private. */
    jwk: z.looseObject({ kty: z.string(), d: z.string() }),
  }),
);

export type SigningKey = z.infer<typeof schema>[number];

const FILE = "signing-keys.json";

/**
 * The keys of a state folder, newest first; none where there never were any.
 *
 * @throws {LaunchFailure} when the file can't be read
 */
export function readSigningKeys(folder: string): readonly SigningKey[] {
  const path = join(folder, FILE);
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw new LaunchFailure(`${path} can't be read (${String(cause)})`, { cause });
  }
  try {
    const keys = schema.parse(JSON.parse(text));
    chmodSync(path, 0o600);
    return keys;
  } catch (cause) {
    throw new LaunchFailure(`${path} is damaged: restore it, or delete it and make new keys`, { cause });
  }
}

/** Makes a pair, which signs from now on. */
export async function addSigningKey(folder: string, alg: SigningAlgorithm, nowSeconds: number): Promise<SigningKey> {
  const { privateKey } = await generateKeyPair(alg, { extractable: true });
  const jwk = await exportJWK(privateKey);
  const kid = await calculateJwkThumbprint(jwk);
  const key = schema.element.parse({ kid, alg, createdAt: nowSeconds, jwk });
  write(folder, [key, ...readSigningKeys(folder)]);
  return key;
}

/** @returns whether there was such a key */
export function removeSigningKey(folder: string, kid: string): boolean {
  const keys = readSigningKeys(folder);
  const rest = keys.filter((key) => key.kid !== kid);
  if (rest.length < keys.length) write(folder, rest);
  return rest.length < keys.length;
}

/** What edges may know: nothing private. */
export function publicJwks(keys: readonly SigningKey[]): { readonly keys: readonly JWK[] } {
  return {
    keys: keys.map(({ kid, alg, jwk }) => {
      const { d: _, ...rest } = jwk;
      return { ...(rest as JWK), kid, alg, use: "sig" };
    }),
  };
}

function write(folder: string, keys: readonly SigningKey[]): void {
  const draft = join(folder, `${FILE}.${process.pid}`);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  try {
    writeFileSync(draft, `${JSON.stringify(keys, null, 2)}\n`, { mode: 0o600 });
    renameSync(draft, join(folder, FILE));
  } finally {
    rmSync(draft, { force: true });
  }
}
