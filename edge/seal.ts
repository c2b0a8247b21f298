/**
 * Seals what rests in the regional store: AES-256-GCM under a key per tenant, so a stolen dump holds no conversation,
 * and an entry that was changed or moved to another key does not open. Knows not what it seals.
 *
 * Source: RFC 5869 (HKDF), NIST SP 800-38D (GCM, random 96-bit nonces).
 */
import { decodeBase64, encodeBase64 } from "hono/utils/encode";
import { Lru } from "./lru.ts";
import type { Platform } from "./platform/platform.ts";

/** Whose key, and the place the sealed text belongs to: it opens nowhere else. */
export interface SealContext {
  readonly tenant: string;
  readonly place: string;
}

export interface Sealer {
  /** HMAC-SHA256, for identities. */
  identityKey(): Promise<CryptoKey>;
  /** @returns ASCII */
  seal(context: SealContext, text: string): Promise<string>;
  /** @returns `undefined` for anything that this secret did not seal for this tenant and place */
  open(context: SealContext, sealed: string): Promise<string | undefined>;
}

const NONCE_BYTES = 12;
/** Derived keys an isolate remembers. */
const TENANT_KEYS_MAX = 1_000;

/** @param secret - at least 32 bytes; keys of different uses are derived from it */
export function createSealer(platform: Pick<Platform, "randomBytes">, secret: string): Sealer {
  const tenantKeys = new Lru<CryptoKey>({ weightMax: TENANT_KEYS_MAX });
  let identityKey: CryptoKey | undefined;

  // Only finished keys are kept: a promise of one request can't be awaited in another.
  const tenantKey = async (tenant: string): Promise<CryptoKey> => {
    const known = tenantKeys.get(tenant);
    if (known !== undefined) return known;
    const key = await derive(secret, `coldpath entry ${tenant}`, { name: "AES-GCM", length: 256 }, [
      "encrypt",
      "decrypt",
    ]);
    tenantKeys.set(tenant, key);
    return key;
  };

  return {
    identityKey: async () => {
      identityKey ??= await derive(secret, "coldpath identity", { name: "HMAC", hash: "SHA-256", length: 256 }, [
        "sign",
      ]);
      return identityKey;
    },
    seal: async ({ tenant, place }, text) => {
      const nonce = platform.randomBytes(NONCE_BYTES);
      const sealed = await crypto.subtle.encrypt(gcm(nonce, place), await tenantKey(tenant), utf8(text));
      const bytes = new Uint8Array(NONCE_BYTES + sealed.byteLength);
      bytes.set(nonce);
      bytes.set(new Uint8Array(sealed), NONCE_BYTES);
      return encodeBase64(bytes.buffer);
    },
    open: async ({ tenant, place }, sealed) => {
      try {
        const bytes = decodeBase64(sealed);
        const nonce = bytes.slice(0, NONCE_BYTES);
        const key = await tenantKey(tenant);
        const text = await crypto.subtle.decrypt(gcm(nonce, place), key, bytes.slice(NONCE_BYTES));
        return new TextDecoder().decode(text);
      } catch {
        // Not base64, too short or not authentic: all the same to the reader, there is nothing to open.
        return undefined;
      }
    },
  };
}

async function derive(
  secret: string,
  info: string,
  algorithm: { readonly name: string; readonly length: number; readonly hash?: string },
  usages: readonly string[],
): Promise<CryptoKey> {
  const base = await crypto.subtle.importKey("raw", utf8(secret), "HKDF", false, ["deriveKey"]);
  const hkdf = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: utf8(info) };
  return crypto.subtle.deriveKey(hkdf, base, algorithm, false, [...usages]);
}

function gcm(
  nonce: Uint8Array<ArrayBuffer>,
  place: string,
): { readonly name: string; readonly iv: Uint8Array; readonly additionalData: Uint8Array } {
  return { name: "AES-GCM", iv: nonce, additionalData: utf8(place) };
}

function utf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
