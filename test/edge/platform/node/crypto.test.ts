/** node:crypto and Web Crypto side by side: edges of both kinds share one region, so they must make the same bytes. */
import { createCipheriv, createHmac, hkdfSync } from "node:crypto";
import { assert, asyncProperty, string } from "fast-check";
import { describe, expect, it } from "vitest";
import { createNodeCrypto } from "../../../../edge/platform/node/crypto.ts";
import { createWebCrypto } from "../../../../edge/platform/web-crypto.ts";
import { importSignatureKey, signMessage, verifyMessage } from "../../../../shared/signature.ts";

// workerd has these two of ES2026, Node 24 not yet.
Object.assign(Uint8Array, { fromBase64: (base64: string) => new Uint8Array(Buffer.from(base64, "base64")) });
Object.assign(Uint8Array.prototype, {
  toBase64(this: Uint8Array, { alphabet = "base64" }: { alphabet?: "base64" | "base64url" } = {}): string {
    return Buffer.from(this).toString(alphabet);
  },
});

const node = createNodeCrypto();
const web = createWebCrypto({ randomBytes: (length) => crypto.getRandomValues(new Uint8Array(length)) });
const secret = "a secret of more than thirty-two bytes";
const text = string({ unit: "grapheme", maxLength: 300 });

describe("node:crypto", () => {
  it("makes the same digests as Web Crypto", async () => {
    await assert(
      asyncProperty(text, text, async (use, value) => {
        expect((await node.mac(secret, use))(value)).toBe(await (await web.mac(secret, use))(value));
      }),
    );
  });

  it("signs what is sent to the origin as Web Crypto does", async () => {
    const message = {
      method: "POST",
      path: "/v1/completions",
      requestId: "id",
      body: new TextEncoder().encode("热路径"),
    };
    const [ours, theirs] = [await node.signingKey(secret), await importSignatureKey(secret)];
    const headers = await signMessage(ours, message, 1_700_000_000);
    expect(headers).toEqual(await signMessage(theirs, message, 1_700_000_000));
    expect(await verifyMessage(theirs, message, new Headers(headers), 1_700_000_000)).toBeUndefined();
    const other = await signMessage(await node.signingKey(`${secret}.`), message, 1_700_000_000);
    expect(await verifyMessage(theirs, message, new Headers(other), 1_700_000_000)).toMatch(/does not match/);
  });

  it("derives by HKDF and digests by HMAC-SHA256, as the RFCs say", async () => {
    const key = Buffer.from(hkdfSync("sha256", secret, "", "use", 32));
    const expected = createHmac("sha256", key).update("热路径").digest("base64url");
    expect((await node.mac(secret, "use"))("热路径")).toBe(expected);
  });

  it("opens what Web Crypto sealed, and the other way round", async () => {
    await assert(
      asyncProperty(text, text, async (place, value) => {
        const [ours, theirs] = [await node.cipher(secret, "use"), await web.cipher(secret, "use")];
        expect(await theirs.open(place, await ours.seal(place, value))).toBe(value);
        expect(ours.open(place, await theirs.seal(place, value))).toBe(value);
      }),
    );
  });

  it("opens nothing that was changed, cut, moved, or sealed with another key", async () => {
    const cipher = await node.cipher(secret, "use");
    const sealed = Buffer.from(await cipher.seal("here", "text"), "base64");
    for (let at = 0; at < sealed.length; at++) {
      const changed = Buffer.from(sealed);
      changed[at] = (changed[at] ?? 0) ^ 1;
      expect(cipher.open("here", changed.toString("base64")), `changed at ${at}`).toBeUndefined();
      expect(cipher.open("here", sealed.subarray(0, at).toString("base64")), `cut at ${at}`).toBeUndefined();
    }
    expect(cipher.open("there", sealed.toString("base64"))).toBeUndefined();
    expect((await node.cipher(secret, "other use")).open("here", sealed.toString("base64"))).toBeUndefined();
    expect(cipher.open("here", "")).toBeUndefined();
    expect(cipher.open("here", "💥".repeat(50))).toBeUndefined();
  });

  it("takes no shorter tag, which would be easier to guess", async () => {
    const key = Buffer.from(hkdfSync("sha256", secret, "", "use", 32));
    const nonce = Buffer.alloc(12);
    const other = createCipheriv("aes-256-gcm", key, nonce, { authTagLength: 4 });
    other.setAAD(Buffer.from("here"));
    const short = Buffer.concat([nonce, other.update("a text of some length"), other.final(), other.getAuthTag()]);
    expect((await node.cipher(secret, "use")).open("here", short.toString("base64"))).toBeUndefined();
  });

  it("never uses a nonce twice, also beyond its pool of them", async () => {
    const cipher = await node.cipher(secret, "use");
    const nonces = await Promise.all(
      Array.from({ length: 1_000 }, async () => (await cipher.seal("here", "")).slice(0, 16)),
    );
    expect(new Set(nonces).size).toBe(1_000);
  });
});
