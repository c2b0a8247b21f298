import { createHash, createHmac } from "node:crypto";
import { expect, test } from "vitest";
import { SIGNATURE_AGE_MAX_SECONDS, importSignatureKey, signMessage, verifyMessage } from "../../shared/signature.ts";

const SECRET = "a shared secret of more than 32 bytes";
const NOW = 1_790_000_000;
const body = new TextEncoder().encode(`{"hello": "world"}`);
const message = { method: "POST", path: "/v1/chat/completions", requestId: "req-1", body };

async function signed(): Promise<Headers> {
  return new Headers(await signMessage(await importSignatureKey(SECRET), message, NOW));
}

async function verify(
  headers: Headers,
  change: { secret?: string; method?: string; path?: string; body?: Uint8Array<ArrayBuffer>; now?: number } = {},
): Promise<string | undefined> {
  const key = await importSignatureKey(change.secret ?? SECRET);
  const { method = message.method, path = message.path, now = NOW } = change;
  return verifyMessage(key, { method, path, body: change.body ?? body }, headers, now);
}

test("the content digest is the one RFC 9530 prints for this body", async () => {
  expect((await signed()).get("content-digest")).toBe("sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:");
});

test("the signature is the HMAC of the signature base that RFC 9421 section 2.5 describes", async () => {
  const digest = createHash("sha256").update(body).digest("base64");
  const params = `("@method" "@path" "content-digest" "x-request-id");created=${NOW};alg="hmac-sha256"`;
  const base =
    `"@method": POST\n"@path": /v1/chat/completions\n"content-digest": sha-256=:${digest}:\n` +
    `"x-request-id": req-1\n"@signature-params": ${params}`;
  const expected = createHmac("sha256", SECRET).update(base).digest("base64");

  const headers = await signed();
  expect(headers.get("signature-input")).toBe(`edge=${params}`);
  expect(headers.get("signature")).toBe(`edge=:${expected}:`);
});

const context = { digest: "d".repeat(43), tenant: "t".repeat(43), priority: "high", timeoutMs: 600_000 } as const;

test("what the edge says about a question is covered, in a fixed order", async () => {
  const key = await importSignatureKey(SECRET);
  const headers = new Headers(await signMessage(key, { ...message, context }, NOW));
  const names =
    `"@method" "@path" "content-digest" "x-request-id" ` +
    `"coldpath-digest" "coldpath-tenant" "coldpath-priority" "coldpath-timeout-ms"`;
  expect(headers.get("signature-input")).toBe(`edge=(${names});created=${NOW};alg="hmac-sha256"`);
  const base =
    `"@method": POST\n"@path": /v1/chat/completions\n"content-digest": ${headers.get("content-digest")}\n` +
    `"x-request-id": req-1\n"coldpath-digest": ${context.digest}\n"coldpath-tenant": ${context.tenant}\n` +
    `"coldpath-priority": high\n"coldpath-timeout-ms": 600000\n` +
    `"@signature-params": (${names});created=${NOW};alg="hmac-sha256"`;
  expect(headers.get("signature")).toBe(`edge=:${createHmac("sha256", SECRET).update(base).digest("base64")}:`);
  expect(await verify(headers)).toBeUndefined();
});

test.each([
  ["changed", { "coldpath-priority": "low" }],
  ["changed to another tenant's", { "coldpath-tenant": "u".repeat(43) }],
  ["taken away", { "coldpath-tenant": undefined }],
  ["sent twice", { "coldpath-priority": "high, high" }],
])("refuses a request whose context was %s", async (_, change) => {
  const key = await importSignatureKey(SECRET);
  const headers = new Headers(await signMessage(key, { ...message, context }, NOW));
  for (const [name, value] of Object.entries(change)) {
    if (value === undefined) headers.delete(name);
    else headers.set(name, value);
  }
  expect(await verify(headers)).toBeTypeOf("string");
});

test("refuses a context that was added to a signed request", async () => {
  for (const name of ["coldpath-digest", "coldpath-tenant", "coldpath-priority", "coldpath-timeout-ms"]) {
    const headers = await signed();
    headers.set(name, "high");
    expect(await verify(headers), name).toMatch(/does not cover/);
  }
});

test("accepts what was signed, until it is too old", async () => {
  expect(await verify(await signed())).toBeUndefined();
  expect(await verify(await signed(), { now: NOW + SIGNATURE_AGE_MAX_SECONDS })).toBeUndefined();
  expect(await verify(await signed(), { now: NOW + SIGNATURE_AGE_MAX_SECONDS + 1 })).toMatch(/too old/);
  expect(await verify(await signed(), { now: NOW - SIGNATURE_AGE_MAX_SECONDS - 1 })).toMatch(/too old/);
});

test("refuses a request without a signature", async () => {
  expect(await verify(new Headers())).toMatch(/not signed/);
});

test.each([
  ["another key", { secret: "another shared secret, just as long!!" }],
  ["another method", { method: "GET" }],
  ["another path", { path: "/v1/completions" }],
  ["another body", { body: new TextEncoder().encode(`{"hello": "moon"}`) }],
])("refuses %s", async (_, change) => {
  expect(await verify(await signed(), change)).toBeTypeOf("string");
});

test.each([
  ["another request id", "x-request-id", "req-2"],
  ["another digest", "content-digest", "sha-256=:AAAA:"],
  [
    "a time moved forward",
    "signature-input",
    `edge=("@method" "@path" "content-digest" "x-request-id");created=${NOW + 1};alg="hmac-sha256"`,
  ],
  ["fewer covered components", "signature-input", `edge=("@method" "@path");created=${NOW};alg="hmac-sha256"`],
  [
    "another algorithm",
    "signature-input",
    `edge=("@method" "@path" "content-digest" "x-request-id");created=${NOW};alg="none"`,
  ],
  ["an empty signature", "signature", "edge=::"],
  ["a truncated signature", "signature", "edge=:AAAA:"],
  ["a signature that is not base64", "signature", "edge=:!!!:"],
])("refuses %s", async (_, header, value) => {
  const headers = await signed();
  headers.set(header, value);
  expect(await verify(headers)).toBeTypeOf("string");
});
