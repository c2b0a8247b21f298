/** The keyed primitives on Web Crypto, for Workers and workerd. */
import { importSignatureKey } from "../../shared/signature.ts";
import { NONCE_BYTES, type Platform, type PlatformCrypto } from "./platform.ts";

const HMAC = { name: "HMAC", hash: "SHA-256", length: 256 };
const BASE64_URL = { alphabet: "base64url", omitPadding: true } as const;
/** Stateless between whole texts; making one takes longer than using it. */
const ENCODER = new TextEncoder();
const DECODER = new TextDecoder();
const AES = { name: "AES-GCM", length: 256 };

export function createWebCrypto({ randomBytes }: Pick<Platform, "randomBytes">): PlatformCrypto {
  return {
    signingKey: importSignatureKey,
    mac: async (secret, use) => {
      const key = await derive(secret, use, HMAC, ["sign"]);
      return async (text) => new Uint8Array(await crypto.subtle.sign("HMAC", key, utf8(text))).toBase64(BASE64_URL);
    },
    cipher: async (secret, use) => {
      const key = await derive(secret, use, AES, ["encrypt", "decrypt"]);
      return {
        seal: async (place, text) => {
          const nonce = randomBytes(NONCE_BYTES);
          const sealed = await crypto.subtle.encrypt(gcm(nonce, place), key, utf8(text));
          const bytes = new Uint8Array(NONCE_BYTES + sealed.byteLength);
          bytes.set(nonce);
          bytes.set(new Uint8Array(sealed), NONCE_BYTES);
          return bytes.toBase64();
        },
        open: async (place, sealed) => {
          try {
            const bytes = Uint8Array.fromBase64(sealed);
            const nonce = bytes.subarray(0, NONCE_BYTES);
            const text = await crypto.subtle.decrypt(gcm(nonce, place), key, bytes.subarray(NONCE_BYTES));
            return DECODER.decode(text);
          } catch {
            // Not base64, too short or not authentic: all the same to the reader, there is nothing to open.
            return undefined;
          }
        },
      };
    },
  };
}

async function derive(
  secret: string,
  use: string,
  algorithm: { readonly name: string; readonly length: number; readonly hash?: string },
  usages: readonly string[],
): Promise<CryptoKey> {
  const base = await crypto.subtle.importKey("raw", utf8(secret), "HKDF", false, ["deriveKey"]);
  const hkdf = { name: "HKDF", hash: "SHA-256", salt: new Uint8Array(), info: utf8(use) };
  return crypto.subtle.deriveKey(hkdf, base, algorithm, false, [...usages]);
}

function gcm(
  nonce: Uint8Array<ArrayBuffer>,
  place: string,
): { readonly name: string; readonly iv: Uint8Array; readonly additionalData: Uint8Array } {
  return { name: "AES-GCM", iv: nonce, additionalData: utf8(place) };
}

function utf8(text: string): Uint8Array {
  return ENCODER.encode(text);
}
