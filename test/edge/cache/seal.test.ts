import { describe, expect, it } from "vitest";
import { createWebCrypto } from "../../../edge/platform/web-crypto.ts";
import { createSealer, type SealSecrets } from "../../../edge/cache/seal.ts";

const webCrypto = createWebCrypto({ randomBytes: (length) => crypto.getRandomValues(new Uint8Array(length)) });
const here = { tenant: "acme", place: "a place" };

function sealer(current: string, more: Partial<SealSecrets> = {}) {
  return createSealer(webCrypto, { current, previous: [], identity: "names", ...more });
}

describe("a sealed text", () => {
  it("opens for the tenant and place it was sealed for, also in another isolate", async () => {
    const sealed = await sealer("one").seal(here, "热路径 🙂");
    expect(await sealer("one").open(here, sealed)).toBe("热路径 🙂");
  });

  it("is never the same twice", async () => {
    const one = sealer("one");
    expect(await one.seal(here, "text")).not.toBe(await one.seal(here, "text"));
  });

  it("opens for no other tenant and at no other place", async () => {
    const one = sealer("one");
    const sealed = await one.seal(here, "text");
    expect(await one.open({ ...here, tenant: "acm" }, sealed)).toBeUndefined();
    expect(await one.open({ ...here, place: "a place " }, sealed)).toBeUndefined();
  });

  it("does not open once any character of it is changed, or when it is cut anywhere", async () => {
    const one = sealer("one");
    const sealed = await one.seal(here, "text");
    for (let at = 0; at < sealed.length; at++) {
      const changed = `${sealed.slice(0, at)}${sealed[at] === "A" ? "B" : "A"}${sealed.slice(at + 1)}`;
      // Padding, and the last bits before it, say nothing in base64.
      if (atobOf(changed) !== atobOf(sealed)) expect(await one.open(here, changed), `changed at ${at}`).toBeUndefined();
      const cut = sealed.slice(0, at);
      if (atobOf(cut) !== atobOf(sealed)) expect(await one.open(here, cut), `cut at ${at}`).toBeUndefined();
    }
  });

  it.each(["", ".", "AAAAAAAA.", "no base64 at all!", "💥", "A".repeat(100_000)])("is not %j", async (garbage) => {
    expect(await sealer("one").open(here, garbage)).toBeUndefined();
  });
});

describe("a new secret", () => {
  it("opens what the previous one sealed, and seals with itself", async () => {
    const old = await sealer("one").seal(here, "old");
    const rotated = sealer("two", { previous: ["one"] });
    expect(await rotated.open(here, old)).toBe("old");
    const fresh = await rotated.seal(here, "fresh");
    expect(await sealer("two").open(here, fresh)).toBe("fresh");
    expect(await sealer("one").open(here, fresh)).toBeUndefined();
  });

  it("opens nothing old once the previous one is taken away", async () => {
    expect(await sealer("two").open(here, await sealer("one").seal(here, "old"))).toBeUndefined();
  });

  it("names the answers as before", async () => {
    const name = async (of: ReturnType<typeof sealer>) => (await of.identityMac())("question");
    expect(await name(sealer("two", { previous: ["one"] }))).toBe(await name(sealer("one")));
    expect(await name(sealer("one", { identity: "other" }))).not.toBe(await name(sealer("one")));
  });
});

function atobOf(sealed: string): string {
  try {
    return sealed.slice(0, 8) + atob(sealed.slice(8));
  } catch {
    return "not base64";
  }
}
