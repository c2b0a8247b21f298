/**
 * Takes tokens back. The region holds, per tenant, the ids of tokens that were revoked and have not expired; whoever asks
 * the region is refused at once, and an isolate that answers from memory by itself asks again within
 * `COLDPATH_PERMIT_MS`, when its permits run out.
 */
import * as z from "zod";
import { ColdpathError } from "../../shared/errors.ts";
import type { Caller } from "./authenticate.ts";
import type { Call } from "../call/call.ts";
import { StoreUnavailable, type RegionalStore } from "../regional/regional-store.ts";

interface RevokeParts {
  readonly store: RegionalStore;
  readonly config: { readonly bodyBytesMax: number; readonly limiterFails: "open" | "closed" };
}

const name = z.string().min(1).max(512);
export const revocationSchema = z.strictObject({
  tenant: name.describe("The token's tid; its sub where it has none."),
  jti: name.describe("The token's own id."),
  exp: z.int().min(0).max(253_402_300_799).describe("The token's exp, in Unix seconds: it is remembered until then."),
});

/**
 * `POST /admin/revoke`: `{ tenant, jti, exp }` as the token says them.
 *
 * @throws {ColdpathError} `invalid_json`, `invalid_request`, `store_unavailable`
 */
export async function revokeToken({ store, config }: RevokeParts, call: Call): Promise<Response> {
  const parsed = revocationSchema.safeParse(parse(await call.text(config.bodyBytesMax)));
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const param = issue?.path.join(".") ?? "";
    throw new ColdpathError("invalid_request", `${param || "the request body"}: ${issue?.message ?? "is not valid"}`);
  }
  const { tenant, jti, exp } = parsed.data;
  try {
    await store.revoke(tenant, jti, exp);
  } catch (cause) {
    if (!(cause instanceof StoreUnavailable)) throw cause;
    throw new ColdpathError("store_unavailable", "the regional store can't be reached: the token is not revoked", {
      cause,
      retryAfterSeconds: 1,
    });
  }
  return Response.json({ revoked: jti });
}

/** For routes that ask the region nothing else. @throws {ColdpathError} `token_revoked`, `limiter_unavailable` */
export async function refuseRevoked(
  { store, config }: RevokeParts,
  call: Call,
  { tenant, tokenId }: Caller,
): Promise<void> {
  if (tokenId === "") return;
  try {
    if (await store.isRevoked(tenant, tokenId, call)) throw revoked();
  } catch (cause) {
    if (!(cause instanceof StoreUnavailable)) throw cause;
    if (config.limiterFails === "open") return;
    throw new ColdpathError("limiter_unavailable", "tokens can't be checked now, and this endpoint requires it", {
      cause,
      retryAfterSeconds: 1,
    });
  }
}

export function revoked(): ColdpathError {
  return new ColdpathError("token_revoked", "the token was revoked", {
    headers: { "www-authenticate": 'Bearer error="invalid_token"' },
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ColdpathError("invalid_json", "the request body is not valid JSON", { cause });
  }
}
