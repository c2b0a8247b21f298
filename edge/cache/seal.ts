/**
 * Seals what rests in the regional store: AES-256-GCM under a key per tenant, so a stolen dump holds no conversation,
 * and an entry that was changed or moved to another place does not open. Knows not what it seals.
 *
 * A new secret is no flush: what is sealed begins with its key's id, and what a previous secret sealed still opens. The
 * identities' key comes from a secret of its own, because another one names every answer anew.
 */
import { Lru } from "../../shared/lru.ts";
import type { Cipher, Mac, PlatformCrypto } from "../platform/platform.ts";

/** Whose key, and the place the sealed text belongs to: it opens nowhere else. */
export interface SealContext {
  readonly tenant: string;
  readonly place: string;
}

export interface Sealer {
  /** For identities. */
  identityMac(): Promise<Mac>;
  /** @returns ASCII: the key's id, then base64 */
  seal(context: SealContext, text: string): Promise<string>;
  /** @returns `undefined` for anything that none of the secrets sealed for this tenant and place */
  open(context: SealContext, sealed: string): Promise<string | undefined>;
}

/** Each at least 32 bytes; keys of different uses are derived from them. */
export interface SealSecrets {
  /** Seals and opens. */
  readonly current: string;
  /** Only open. */
  readonly previous: readonly string[];
  /** Names the answers. */
  readonly identity: string;
}

/** One secret, with an id that tells nothing of it. */
interface SealKey {
  readonly id: string;
  readonly secret: string;
}

/** Derived keys an isolate remembers. */
const TENANT_KEYS_MAX = 1_000;
/** 48 bits: two of a handful of secrets never share one. */
const KEY_ID_CHARS = 8;

export function createSealer(crypto: PlatformCrypto, { current, previous, identity }: SealSecrets): Sealer {
  const ciphers = new Lru<Cipher>({ weightMax: TENANT_KEYS_MAX });
  let keys: readonly [SealKey, ...SealKey[]] | undefined;
  let mac: Mac | undefined;

  // Only finished keys are kept: a promise of one request can't be awaited in another.
  const sealKeys = async (): Promise<readonly [SealKey, ...SealKey[]]> => {
    const others = await Promise.all(previous.map((secret) => sealKey(crypto, secret)));
    keys ??= [await sealKey(crypto, current), ...others];
    return keys;
  };
  const cipherOf = async ({ id, secret }: SealKey, tenant: string): Promise<Cipher> => {
    const name = `${id} ${tenant}`;
    const known = ciphers.get(name);
    if (known !== undefined) return known;
    const cipher = await crypto.cipher(secret, `coldpath entry ${tenant}`);
    ciphers.set(name, cipher);
    return cipher;
  };

  return {
    identityMac: async () => {
      mac ??= await crypto.mac(identity, "coldpath identity");
      return mac;
    },
    seal: async ({ tenant, place }, text) => {
      const [key] = keys ?? (await sealKeys());
      return key.id + (await (await cipherOf(key, tenant)).seal(place, text));
    },
    open: async ({ tenant, place }, sealed) => {
      const key = (keys ?? (await sealKeys())).find(({ id }) => id === sealed.slice(0, KEY_ID_CHARS));
      if (key === undefined) return undefined;
      return (await cipherOf(key, tenant)).open(place, sealed.slice(KEY_ID_CHARS));
    },
  };
}

async function sealKey(crypto: PlatformCrypto, secret: string): Promise<SealKey> {
  const digest = await (await crypto.mac(secret, "coldpath key id"))("");
  return { id: digest.slice(0, KEY_ID_CHARS), secret };
}
