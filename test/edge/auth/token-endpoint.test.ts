/** `POST /token` as RFC 6749 asks for it, and as somebody meets it who has no secret. */
import { describe, expect, it } from "vitest";
import { ask, chat, createStack, errorOf, STORES, type Stack, type StoreKind } from "../stack.ts";

const SECRET = "a client's secret, with:colon & ünïcode +";

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A client of this test alone, because its attempts are counted in the shared Redis. */
async function stackWithClient(store: StoreKind = "memory", bindings: Readonly<Record<string, string>> = {}) {
  const id = `app ${crypto.randomUUID()}`;
  const client = { secretSha256: await sha256(SECRET), tenant: "acme", plan: "bench" };
  const stack = createStack({ store, bindings: { COLDPATH_CLIENTS: JSON.stringify({ [id]: client }), ...bindings } });
  return { stack, id };
}

function formEncode(part: string): string {
  return new URLSearchParams({ x: part }).toString().slice(2);
}

function basic(id: string, secret: string): string {
  return `Basic ${btoa(`${formEncode(id)}:${formEncode(secret)}`)}`;
}

function post(
  stack: Stack,
  form: string | Readonly<Record<string, string>>,
  headers: Readonly<Record<string, string>> = {},
): Promise<Response> {
  return stack.fetch(
    new Request("http://edge.test/token", {
      method: "POST",
      headers: { "content-type": "application/x-www-form-urlencoded", ...headers },
      body: new URLSearchParams(form).toString(),
    }),
  );
}

/** A form, and headers beside the usual. */
type Attempt = readonly [string | Readonly<Record<string, string>>, Readonly<Record<string, string>>?];

const GRANT = { grant_type: "client_credentials" };

interface Grant {
  readonly access_token: string;
  readonly token_type: string;
  readonly expires_in: number;
  readonly scope: string;
}

describe.each(STORES)("a client, with the region in %s", (store) => {
  it("gets a token that works, by either way of showing its secret", async () => {
    const { stack, id } = await stackWithClient(store, { COLDPATH_TOKEN_SECONDS: "60" });
    const ways = [
      await post(stack, GRANT, { authorization: basic(id, SECRET) }),
      await post(stack, { ...GRANT, client_id: id }, { authorization: basic(id, SECRET) }),
      await post(stack, { ...GRANT, client_id: id, client_secret: SECRET, scope: "chat" }),
    ];
    for (const response of ways) {
      expect(response.status).toBe(200);
      expect(response.headers.get("cache-control")).toBe("no-store");
      const grant = await response.json<Grant>();
      expect(grant).toMatchObject({ token_type: "Bearer", expires_in: 60, scope: "chat" });
      const answer = await ask(stack, chat("hello"), { headers: { authorization: `Bearer ${grant.access_token}` } });
      expect(answer.status).toBe(200);
      await stack.settled();
      expect(stack.logs.at(-1)).toMatchObject({ tenant: "acme", subject: id });
    }
    const [first, second] = await Promise.all(
      [1, 2].map(async () => (await post(stack, GRANT, { authorization: basic(id, SECRET) })).json<Grant>()),
    );
    expect(first?.access_token).not.toBe(second?.access_token);
  });

  it("runs out of attempts, right or wrong, and others don't; unknown ones run out together", async () => {
    const { stack, id } = await stackWithClient(store, { COLDPATH_TOKEN_ATTEMPTS_PER_MINUTE: "3" });
    const attempt = async (client: string, secret: string): Promise<number> =>
      (await post(stack, GRANT, { authorization: basic(client, secret) })).status;
    const guesses: number[] = [];
    for (let n = 0; n < 5; n++) guesses.push(await attempt(id, `guess ${n}`));
    expect(guesses).toEqual([401, 401, 401, 429, 429]);
    const late = await post(stack, GRANT, { authorization: basic(id, SECRET) });
    expect([late.status, Number(late.headers.get("retry-after")) > 0]).toEqual([429, true]);
    const unknown: number[] = [];
    for (let n = 0; n < 5; n++) unknown.push(await attempt(crypto.randomUUID(), "guess"));
    expect(unknown.slice(3)).toEqual([429, 429]);
  });
});

describe("a request for a token", () => {
  const cases: readonly [string, (id: string) => Attempt, string][] = [
    ["without credentials", () => [GRANT], "401 invalid_client"],
    ["with a wrong secret", (id) => [GRANT, { authorization: basic(id, "wrong") }], "401 invalid_client"],
    ["with an empty secret", (id) => [GRANT, { authorization: basic(id, "") }], "401 invalid_client"],
    [
      "with its secret's digest",
      (id) => [{ ...GRANT, client_id: id, client_secret: "0".repeat(64) }],
      "401 invalid_client",
    ],
    ["of nobody", () => [GRANT, { authorization: basic("nobody", SECRET) }], "401 invalid_client"],
    ["of an id like a method's", () => [GRANT, { authorization: basic("constructor", SECRET) }], "401 invalid_client"],
    ["with broken base64", () => [GRANT, { authorization: "Basic ====" }], "401 invalid_client"],
    ["with broken percent-encoding", () => [GRANT, { authorization: `Basic ${btoa("%:%")}` }], "401 invalid_client"],
    ["with a bearer token", () => [GRANT, { authorization: "Bearer a.b.c" }], "401 invalid_client"],
    [
      "with credentials in two ways",
      (id) => [{ ...GRANT, client_id: id, client_secret: SECRET }, { authorization: basic(id, SECRET) }],
      "400 invalid_request",
    ],
    [
      "naming two clients",
      (id) => [{ ...GRANT, client_id: "x" }, { authorization: basic(id, SECRET) }],
      "400 invalid_request",
    ],
    ["without a grant type", (id) => [{}, { authorization: basic(id, SECRET) }], "400 invalid_request"],
    [
      "with another grant type",
      (id) => [{ grant_type: "password", username: "a" }, { authorization: basic(id, SECRET) }],
      "400 unsupported_grant_type",
    ],
    [
      "for more than it may",
      (id) => [{ ...GRANT, scope: "chat admin" }, { authorization: basic(id, SECRET) }],
      "400 invalid_scope",
    ],
    [
      "with a parameter twice",
      (id) => ["grant_type=client_credentials&grant_type=client_credentials", { authorization: basic(id, SECRET) }],
      "400 invalid_request",
    ],
    [
      "as JSON",
      (id) => ["{}", { authorization: basic(id, SECRET), "content-type": "application/json" }],
      "400 invalid_request",
    ],
    [
      "that is too long",
      (id) => [{ ...GRANT, x: "x".repeat(9_000) }, { authorization: basic(id, SECRET) }],
      "400 invalid_request",
    ],
  ];
  it.each(cases)("is refused in OAuth's words when it is %s", async (_, make, outcome) => {
    const { stack, id } = await stackWithClient();
    const [form, headers] = make(id);
    const response = await post(stack, form, headers);
    const body = await response.json<{ readonly error: string; readonly error_description: string }>();
    expect(`${response.status} ${body.error}`).toBe(outcome);
    expect(response.headers.get("cache-control")).toBe("no-store");
    expect(JSON.stringify(body)).not.toContain(SECRET);
    const challenged = response.status === 401 && headers?.["authorization"] !== undefined;
    expect(response.headers.get("www-authenticate")).toBe(challenged ? 'Basic realm="coldpath"' : null);
    await stack.settled();
    expect(JSON.stringify(stack.logs)).not.toContain(SECRET);
  });

  it("finds nothing where there are no clients", async () => {
    const response = await post(createStack(), GRANT);
    expect([response.status, (await errorOf(response)).code]).toEqual([404, "not_found"]);
  });

  it.each([
    ["open", 200],
    ["closed", 503],
  ])("without its region fails %s, as limits do", async (limiterFails, status) => {
    const { id } = await stackWithClient();
    const client = { [id]: { secretSha256: await sha256(SECRET) } };
    const away = createStack({
      store: "redis",
      bindings: { COLDPATH_CLIENTS: JSON.stringify(client), COLDPATH_LIMITER_FAILS: limiterFails },
      storeFetch: async () => Promise.reject(new TypeError("refused")),
    });
    expect((await post(away, GRANT, { authorization: basic(id, SECRET) })).status).toBe(status);
  });
});
