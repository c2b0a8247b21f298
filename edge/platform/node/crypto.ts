/**
 * The keyed primitives on node:crypto, synchronously: 27 µs less a request than Web Crypto on Node, which hands each call
 * to a thread and back. Makes the same bytes as `web-crypto.ts`, so edges of both kinds share one region.
 */
import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  hash,
  hkdfSync,
  type KeyObject,
  randomFillSync,
} from "node:crypto";
import { NONCE_BYTES, type PlatformCrypto, TAG_BYTES } from "../platform.ts";

const KEY_BYTES = 32;
/** A nonce is cut from a pool: one call to the generator for many is cheaper than one each. */
const NONCES_AT_ONCE = 256;

export function createNodeCrypto(): PlatformCrypto {
  const nextNonce = createNonces();
  return {
    signingKey: (secret) => {
      const key = createSecretKey(Buffer.from(secret));
      return {
        digest: (bytes) => hash("sha256", bytes, "base64"),
        sign: (bytes) => createHmac("sha256", key).update(bytes).digest("base64"),
      };
    },
    mac: (secret, use) => {
      const key = derive(secret, use);
      return (text) => createHmac("sha256", key).update(text).digest("base64url");
    },
    cipher: (secret, use) => {
      const key = derive(secret, use);
      return {
        seal: (place, text) => {
          const nonce = nextNonce();
          const cipher = createCipheriv("aes-256-gcm", key, nonce, { authTagLength: TAG_BYTES });
          cipher.setAAD(Buffer.from(place));
          return Buffer.concat([nonce, cipher.update(text, "utf8"), cipher.final(), cipher.getAuthTag()]).toString(
            "base64",
          );
        },
        open: (place, sealed) => {
          const bytes = Buffer.from(sealed, "base64");
          if (bytes.length < NONCE_BYTES + TAG_BYTES) return undefined;
          const tagAt = bytes.length - TAG_BYTES;
          const decipher = createDecipheriv("aes-256-gcm", key, bytes.subarray(0, NONCE_BYTES), {
            authTagLength: TAG_BYTES,
          });
          decipher.setAAD(Buffer.from(place)).setAuthTag(bytes.subarray(tagAt));
          const text = decipher.update(bytes.subarray(NONCE_BYTES, tagAt));
          try {
            // GCM is a stream cipher: `final` gives nothing more, and says whether all of it is authentic.
            decipher.final();
          } catch {
            return undefined;
          }
          return text.toString("utf8");
        },
      };
    },
  };
}

function derive(secret: string, use: string): KeyObject {
  return createSecretKey(Buffer.from(hkdfSync("sha256", secret, "", use, KEY_BYTES)));
}

function createNonces(): () => Buffer {
  const pool = Buffer.alloc(NONCE_BYTES * NONCES_AT_ONCE);
  let used = pool.length;
  return () => {
    if (used === pool.length) {
      randomFillSync(pool);
      used = 0;
    }
    used += NONCE_BYTES;
    return pool.subarray(used - NONCE_BYTES, used);
  };
}
