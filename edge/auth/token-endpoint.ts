/**
 * `POST /token`: a client that has no identity provider of its own shows its id and secret, and gets a token of this
 * endpoint's making. Errors have OAuth's form here, not OpenAI's. Knows no completions.
 *
 * Every attempt for a known client costs one of its `COLDPATH_TOKEN_ATTEMPTS_PER_MINUTE`, right or wrong, before the
 * secret is looked at: else it could be tried out without end. Unknown ids share one allowance.
 *
 * Source: RFC 6749, sections 2.3.1 (client password), 4.4 (client credentials), 5.1 and 5.2; RFC 9068 is not claimed.
 */
import { SignJWT } from "jose";
import { ColdpathError } from "../../shared/errors.ts";
import type { Call } from "../call/call.ts";
import type { Client } from "./clients.ts";
import type { EdgeConfig } from "../config.ts";
import { NO_PERMITS, StoreUnavailable, type Admission, type RegionalStore } from "../regional/regional-store.ts";

interface TokenParts {
  readonly config: Pick<EdgeConfig, "tokenEndpoint" | "limiterFails">;
  readonly store: RegionalStore;
}

type TokenEndpoint = NonNullable<EdgeConfig["tokenEndpoint"]>;

/** The request is a handful of short fields. */
const BODY_BYTES_MAX = 8_192;
/** No token's tenant is empty, so nobody's limits are touched. */
const LIMITS_TENANT = "";
/** For an id nobody has: the comparison costs the same, and never succeeds. */
const NOBODY = "0".repeat(64);
const NO_STORE = { "cache-control": "no-store", pragma: "no-cache" };

/** A refusal in the words of section 5.2. */
class TokenRefusal extends Error {
  override readonly name = "TokenRefusal";
  readonly error: string;
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;

  constructor(error: string, description: string, status = 400, headers: Readonly<Record<string, string>> = {}) {
    super(description);
    this.error = error;
    this.status = status;
    this.headers = headers;
  }
}

/** @throws {ColdpathError} `not_found` where no clients are set */
export async function issueAccessToken({ config, store }: TokenParts, call: Call): Promise<Response> {
  const endpoint = config.tokenEndpoint;
  if (endpoint === undefined) throw new ColdpathError("not_found", "this endpoint issues no tokens");
  try {
    const form = await readForm(call);
    const { id, secret, basic } = readCredentials(call.request.header("authorization"), form);
    const client = endpoint.clients.get(id);
    await limit(call, { config, store }, endpoint, client === undefined ? "" : id);
    const right = sameDigest(await sha256(secret), client?.secretSha256 ?? NOBODY);
    if (client === undefined || !right) throw unknownClient(basic);
    call.record.subject = id;
    return await grant(call, endpoint, { id, client, form });
  } catch (error) {
    if (!(error instanceof TokenRefusal)) throw error;
    call.record.error = error.error;
    const body = { error: error.error, error_description: error.message };
    return Response.json(body, { status: error.status, headers: { ...NO_STORE, ...error.headers } });
  }
}

async function readForm(call: Call): Promise<ReadonlyMap<string, string>> {
  const type = (call.request.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase();
  if (type !== "application/x-www-form-urlencoded") {
    throw new TokenRefusal("invalid_request", "the body must be application/x-www-form-urlencoded");
  }
  const text = await call.text(BODY_BYTES_MAX).catch(() => {
    throw new TokenRefusal("invalid_request", "the body is too long, or not UTF-8");
  });
  const form = new Map<string, string>();
  for (const [name, value] of new URLSearchParams(text)) {
    if (form.has(name)) throw new TokenRefusal("invalid_request", "a parameter is there twice");
    // Section 3.2: without a value it counts as left out.
    if (value !== "") form.set(name, value);
  }
  return form;
}

interface Credentials {
  readonly id: string;
  readonly secret: string;
  /** How they came, because the refusal answers in kind. */
  readonly basic: boolean;
}

function readCredentials(authorization: string | null, form: ReadonlyMap<string, string>): Credentials {
  const [id, secret] = [form.get("client_id"), form.get("client_secret")];
  if (authorization === null) {
    if (id === undefined || secret === undefined) throw unknownClient(false);
    return { id, secret, basic: false };
  }
  const basic = /^Basic +([A-Za-z0-9+/=]+)$/i.exec(authorization)?.[1];
  if (basic === undefined) throw unknownClient(true);
  if (secret !== undefined) throw new TokenRefusal("invalid_request", "credentials are there in two ways");
  const decoded = decodeBasic(basic);
  if (decoded === undefined) throw unknownClient(true);
  if (id !== undefined && id !== decoded.id) throw new TokenRefusal("invalid_request", "two clients are named");
  return { ...decoded, basic: true };
}

/** Section 2.3.1: both parts are form-encoded before they are joined and encoded. */
function decodeBasic(base64: string): { readonly id: string; readonly secret: string } | undefined {
  try {
    const text = atob(base64);
    const colon = text.indexOf(":");
    if (colon === -1) return undefined;
    return { id: formDecode(text.slice(0, colon)), secret: formDecode(text.slice(colon + 1)) };
  } catch {
    return undefined;
  }
}

function formDecode(part: string): string {
  return decodeURIComponent(part.replaceAll("+", " "));
}

/** @param id - empty for a client nobody knows */
async function limit(
  call: Call,
  { config, store }: TokenParts,
  { attemptsPerMinute }: TokenEndpoint,
  id: string,
): Promise<void> {
  const limits = { requestsPerMinute: attemptsPerMinute, tokensPerMinute: 1, streamsMax: 1 };
  try {
    const attempt: Admission = {
      tenant: LIMITS_TENANT,
      tokenId: "",
      scopes: [{ name: "subject", id, limits }],
      lookUp: undefined,
      otherwise: "report",
      requests: 1,
      tokens: 0,
      leaseId: "",
      leaseMs: 0,
      permits: NO_PERMITS,
    };
    const outcome = await store.admit(attempt, call);
    if (outcome.type !== "denied") return;
    const headers = { "retry-after": String(Math.max(Math.ceil(outcome.retryInMs / 1000), 1)) };
    throw new TokenRefusal("temporarily_unavailable", "too many attempts for this client", 429, headers);
  } catch (cause) {
    if (!(cause instanceof StoreUnavailable)) throw cause;
    call.record.degraded = "limiter-unreachable";
    if (config.limiterFails === "closed") {
      throw new TokenRefusal("temporarily_unavailable", "attempts can't be counted now", 503, { "retry-after": "1" });
    }
  }
}

async function grant(
  call: Call,
  { secret, issuer, audience, tokenSeconds }: TokenEndpoint,
  { id, client, form }: { readonly id: string; readonly client: Client; readonly form: ReadonlyMap<string, string> },
): Promise<Response> {
  const type = form.get("grant_type");
  if (type === undefined) throw new TokenRefusal("invalid_request", "grant_type is missing");
  if (type !== "client_credentials")
    throw new TokenRefusal("unsupported_grant_type", "only client_credentials is known");
  const scopes = form.get("scope")?.split(" ") ?? client.scopes;
  if (!scopes.every((scope) => client.scopes.some((allowed) => allowed === scope))) {
    throw new TokenRefusal("invalid_scope", `this client may ask for: ${client.scopes.join(" ")}`);
  }
  const scope = scopes.join(" ");
  const nowSeconds = Math.floor(call.platform.now() / 1000);
  const token = await new SignJWT({ scope, plan: client.plan, tid: client.tenant, client_id: id })
    .setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setIssuer(issuer)
    .setAudience(audience)
    .setSubject(id)
    .setJti(call.platform.randomId())
    .setIssuedAt(nowSeconds)
    .setExpirationTime(nowSeconds + tokenSeconds)
    .sign(new TextEncoder().encode(secret));
  const body = { access_token: token, token_type: "Bearer", expires_in: tokenSeconds, scope };
  return Response.json(body, { headers: NO_STORE });
}

function unknownClient(basic: boolean): TokenRefusal {
  const headers = basic ? { "www-authenticate": 'Basic realm="coldpath"' } : {};
  return new TokenRefusal("invalid_client", "the client is not known, or its secret is another", 401, headers);
}

async function sha256(text: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Takes the same time wherever they differ. */
function sameDigest(left: string, right: string): boolean {
  let difference = left.length ^ right.length;
  for (let at = 0; at < left.length; at++) difference |= left.charCodeAt(at) ^ right.charCodeAt(at);
  return difference === 0;
}
