/** Whose token a request carries. Knows nothing of what the token may do. */
import { hash, timingSafeEqual } from "node:crypto";
import { RestFailure } from "./failure.ts";
import type { Access } from "./permit.ts";

/** The two tokens; without `readToken` there is only the full one. */
export interface RestTokens {
  readonly token: string;
  readonly readToken?: string | undefined;
}

/**
 * Prepares the check of `Authorization: Bearer …` or `?_token=…`.
 *
 * @returns a function that gives the token's access
 * @throws {RestFailure} 401, from that function
 */
export function authorizer(tokens: RestTokens): (header: string | undefined, query: URLSearchParams) => Access {
  const full = digest(tokens.token);
  const read = tokens.readToken === undefined ? undefined : digest(tokens.readToken);
  return (header, query) => {
    const given = bearer(header) ?? query.get("_token");
    if (given === null) throw new RestFailure(401, "WRONGPASS the request carries no token");
    // Digests have one length whatever was sent, so the comparison's time says nothing about the token.
    const candidate = digest(given);
    if (timingSafeEqual(candidate, full)) return "full";
    if (read !== undefined && timingSafeEqual(candidate, read)) return "read";
    throw new RestFailure(401, "WRONGPASS invalid or missing auth token");
  };
}

function bearer(header: string | undefined): string | undefined {
  return header === undefined ? undefined : /^Bearer +(\S+)$/i.exec(header)?.[1];
}

function digest(token: string): Buffer {
  return hash("sha256", token, "buffer");
}
